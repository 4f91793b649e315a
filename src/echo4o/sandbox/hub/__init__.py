"""A Hub on one's own disk that the Hugging Face client libraries talk to through `HF_ENDPOINT`."""

from echo4o.sandbox.hub.app import create_app

__all__ = ["create_app"]
