"""An OpenAI-compatible API on loopback: paints pictures, judges pixels, runs batches.

Deterministic: picture, request id and `created` follow from the content of the request.
"""

from .app import create_app

__all__ = ["create_app"]
