"""What a request asks for, as one hash: seed, request id and time of the reply follow from it."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

_EPOCH = 1_767_225_600  # 2026-01-01 00:00 UTC
_YEAR_S = 31_536_000


@dataclass(frozen=True, slots=True)
class Content:
    """Identity of a request; two sendings of the same thing have the same."""

    key: str
    """SHA-256 in hexadecimal of endpoint, parameters and the client's own request id."""
    client_key: str | None = None
    """What the client sent as X-Client-Request-Id."""
    is_lost: bool = False
    """True when a fault keeps the reply from arriving whole."""

    @property
    def request_id(self) -> str:
        """For the x-request-id header."""
        return f"req_{self.key[:32]}"

    @property
    def created(self) -> int:
        """Unix time within the year 2026, the same for the same content."""
        return _EPOCH + int(self.key[32:44], 16) % _YEAR_S

    @property
    def seed(self) -> int:
        """Seed of the painter."""
        return int(self.key[44:56], 16)


def content_of(
    path: str, parameters: dict[str, Any], client_key: str | None, *, is_lost: bool = False
) -> Content:
    """Content of a request; pictures in `parameters` must be replaced by their hashes.

    The client's request id stands for the chance in the real service: another id, another picture.
    """
    text = json.dumps([path, client_key, parameters], sort_keys=True, separators=(",", ":"))
    return Content(hashlib.sha256(text.encode()).hexdigest(), client_key, is_lost)
