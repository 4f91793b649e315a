"""How many calls may be in flight, and how fast: learned from what the server answers."""

import asyncio
import logging
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from types import TracebackType

logger = logging.getLogger(__name__)

# Above this pace a pacer costs more than it protects.
_FASTEST_PACE = 30_000.0


class AdaptiveLimit:
    """Number of calls in flight: additive increase, multiplicative decrease, within [1, maximum].

    Stray 429 answers are retried without slowing everybody down; only when more than `tolerated`
    of the recent answers were 429 is the number cut.
    """

    def __init__(self, maximum: int, *, tolerated: float = 0.15, cut: float = 0.7) -> None:
        if maximum < 1:
            raise ValueError(f"`concurrency` must be 1 or more, got {maximum}")
        self.maximum = maximum
        self.current = float(maximum)
        self._tolerated = tolerated
        self._cut = cut
        self._in_flight = 0
        self._seen = 0
        self._limited = 0
        self._open_at = 0.0
        self._condition = asyncio.Condition()

    async def __aenter__(self) -> None:
        while True:
            while (wait := self._open_at - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            async with self._condition:
                await self._condition.wait_for(lambda: self._in_flight < int(self.current))
                if self._open_at <= time.monotonic():
                    self._in_flight += 1
                    return

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        async with self._condition:
            self._in_flight -= 1
            self._condition.notify_all()

    def observe(self, *, limited: bool) -> None:
        """Take one answer into account; `limited` means that it was a 429."""
        self._seen += 1
        self._limited += limited
        if not limited:
            self.current = min(float(self.maximum), self.current + 1 / self.current)
        if self._seen < max(10.0, self.current):
            return
        if self._limited > self._tolerated * self._seen:
            self.current = max(1.0, self.current * self._cut)
            logger.debug("too many 429 answers: %d calls in flight from now on", int(self.current))
        self._seen = self._limited = 0

    def pause(self, seconds: float) -> None:
        """Let nobody start for this long."""
        self._open_at = max(self._open_at, time.monotonic() + seconds)


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds the server asks to wait, however long; None when it does not say.

    Reads `retry-after-ms` and `retry-after` (seconds, or a date: RFC 9110 section 10.2.3).
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if re.fullmatch(r"\d+(\.\d+)?", value):
            return float(value) * unit
    try:
        moment = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - (time.time() if now is None else now))


def duration(text: str) -> float | None:
    """Seconds of a duration such as "250ms", "1s" or "6m0s"; None when it is none."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    pairs = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
    if not pairs or "".join(number + unit for number, unit in pairs) != text.strip():
        return None
    return sum(float(number) * units[unit] for number, unit in pairs)


def requests_per_minute(headers: Mapping[str, str]) -> float | None:
    """The pace the server allows by its `x-ratelimit-limit-requests`, None when there is none."""
    value = headers.get("x-ratelimit-limit-requests", "")
    pace = float(value) if re.fullmatch(r"\d+(\.\d+)?", value) else 0.0
    return pace if 0 < pace <= _FASTEST_PACE else None


def exhausted_for(headers: Mapping[str, str]) -> float | None:
    """Seconds until one more request is allowed, None while some are left."""
    if headers.get("x-ratelimit-remaining-requests") != "0":
        return None
    # The reset header counts to a full allowance; one request comes back much sooner.
    reset = duration(headers.get("x-ratelimit-reset-requests", "")) or 0.0
    return reset / max(1.0, requests_per_minute(headers) or 1.0)
