"""What protects the Space: who asks, and how often."""

import ipaddress
import os
import threading
import time
from collections import deque
from collections.abc import Callable

import gradio as gr
from checks import Refusal

HOSTED = "SPACE_ID" in os.environ or os.environ.get("ECHO4O_HOSTED") == "1"
"""Whether strangers use this page: then requests are counted and contents are checked."""
HOUR = 3600.0
HOSTED_PER_HOUR = 60
_MOST_VISITORS = 10_000


class RateLimit:
    """So many requests an hour from each visitor; 0 counts nothing."""

    def __init__(self, per_hour: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_hour, self._clock = per_hour, clock
        self._times: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def spend(self, visitor: str) -> None:
        """Count one request.

        Raises:
            Refusal: the visitor had too many.
        """
        if not self.per_hour:
            return
        now = self._clock()
        with self._lock:
            times = self._times.setdefault(visitor, deque())
            while times and now - times[0] >= HOUR:
                times.popleft()
            if len(times) >= self.per_hour:
                minutes = int((HOUR - (now - times[0])) // 60) + 1
                raise Refusal(
                    f"You have made {self.per_hour} requests within an hour, the most that one "
                    f"visitor gets here; the next one is possible in {minutes} minutes."
                )
            times.append(now)
            if len(self._times) > _MOST_VISITORS:
                self._forget(now)

    def _forget(self, now: float) -> None:
        for visitor in [who for who, times in self._times.items() if now - times[-1] >= HOUR]:
            del self._times[visitor]


def visitor(request: gr.Request | None) -> str:
    """Who asks: an address, on a hosted page the last public one that its proxies noted."""
    if request is None or request.client is None:
        return "unknown"
    direct = str(request.client.host)
    if not HOSTED:
        return direct
    noted = [part.strip() for part in request.headers.get("x-forwarded-for", "").split(",")]
    return next((address for address in reversed(noted) if _is_public(address)), direct)


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def requests_per_hour() -> int:
    """The limit of `$ECHO4O_REQUESTS_PER_HOUR`, by default none on one's own machine."""
    given = os.environ.get("ECHO4O_REQUESTS_PER_HOUR", "").strip()
    if not given:
        return HOSTED_PER_HOUR if HOSTED else 0
    if not given.isdigit():
        raise ValueError(f"ECHO4O_REQUESTS_PER_HOUR must be a whole number, got {given!r}")
    return int(given)
