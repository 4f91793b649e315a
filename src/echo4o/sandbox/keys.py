"""Credentials of the sandbox; they open nothing but the sandbox."""

API_KEY = "sk-sandbox-rehearsal"
HUB_TOKEN = "hf_sandbox_rehearsal"
