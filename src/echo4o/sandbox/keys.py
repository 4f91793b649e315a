"""Credentials of the sandbox; they open nothing but the sandbox."""

import os

GIVEN_KEY, GIVEN_TOKEN = "ECHO4O_SANDBOX_KEY", "ECHO4O_SANDBOX_TOKEN"
"""Variables with which whoever starts the sandbox says its credentials, and keeps them to himself:
they are then told nowhere, neither in its log nor in its ready file."""

API_KEY = os.environ.get(GIVEN_KEY) or "sk-sandbox-rehearsal"
HUB_TOKEN = os.environ.get(GIVEN_TOKEN) or "hf_sandbox_rehearsal"


def told(value: str, variable: str) -> str:
    """The credential as it may be shown."""
    return f"${variable}" if os.environ.get(variable) else value
