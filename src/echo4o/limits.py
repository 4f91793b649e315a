"""How many calls may be in flight, and how fast: learned from what the server answers."""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Mapping
from email.utils import parsedate_to_datetime

logger = logging.getLogger(__name__)

# Above this pace waiting for one's turn costs more than it protects.
_FASTEST_PACE = 30_000.0
# Share of 429 answers from which a limit is guessed where no header tells it.
_SILENT_TOLERATED = 0.06
# Nonsense of a server ends here; nobody waits for longer than this.
_LONGEST_S = 7 * 86_400.0
# A wait this long is about the account, not about one call.
_LONG_S = 5.0
# A refusal comes at once, a result takes its time: a first call that is still out after the one is
# as good as let through, and what may be out doubles after each of the other.
_PROBE_S = 0.25
_DOUBLING_S = 0.05


class AdaptiveLimit:
    """Says when a call may begin: so many in flight, so many a minute, and not during a pause.

    The first call, and the first after a pause that the service asked for, goes alone: its answer
    says what is allowed before the others find out by being refused. While no answer comes, ever
    more follow. Then the number in flight grows by one a round and is cut when more than
    `tolerated` of the recent answers were 429 (a stray one is retried and slows nobody). The pace
    is what the headers allow, and is not kept while they promise more than all places could take;
    where they say nothing, it is cut to what the service let through, and creeps up again.
    """

    def __init__(
        self,
        maximum: int,
        *,
        per_minute: float | None = None,
        tolerated: float = 0.15,
        cut: float = 0.7,
    ) -> None:
        """`per_minute` is the user's own limit, which no header raises."""
        if maximum < 1:
            raise ValueError(f"`concurrency` must be 1 or more, got {maximum}")
        if per_minute is not None and not per_minute > 0:
            raise ValueError(f"`requests_per_minute` must be above 0, got {per_minute}")
        self.maximum = maximum
        self.current = float(maximum)
        self.pace = per_minute
        """Calls a minute, None while no limit is known."""
        self._fixed = per_minute
        self._tolerated = tolerated
        self._cut = cut
        self._in_flight = 0
        """Calls that are out or wait for their turn in the pace."""
        self._sent = 0
        self._ahead = 0
        """Calls that wait and go before the others."""
        self._is_probing = True
        self._probed_at: float | None = None
        """When the call that went alone was sent."""
        self._window = _Window()
        self._is_announced = False
        self._tokens = 0.0
        self._spare = 0.0
        """Calls that the latest headers promised beyond those that are out."""
        self._open_at = 0.0
        self._next_at = 0.0
        self._condition = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def turn(self, *, ahead: bool = False) -> AsyncIterator[None]:
        """Wait until a call may begin, and be in flight; `ahead` goes before those that are not.

        What was asked before goes ahead: if it fails once more, that shall not be at the very end.
        """
        while not await self._enter(ahead):
            pass
        try:
            yield
        finally:
            self._sent -= 1
            await self._leave()

    async def _enter(self, ahead: bool) -> bool:
        """Whether the call may begin now; False when a pause began while it waited."""
        await asyncio.sleep(max(0.0, self._open_at - time.monotonic()))
        async with self._condition:
            await self._free(ahead)
            if self._open_at > time.monotonic():
                return False
            self._in_flight += 1
        try:
            await asyncio.sleep(self._turn_in_s())
        except BaseException:
            await self._leave()
            raise
        if self._open_at > time.monotonic():
            await self._leave()
            return False
        self._sent += 1
        if self._probed_at is None:
            self._probed_at = time.monotonic()
        return True

    async def _free(self, ahead: bool) -> None:
        self._ahead += ahead
        try:
            while self._in_flight >= self._allowed() or (self._ahead and not ahead):
                await self._changed()
        finally:
            if ahead:
                self._ahead -= 1
                self._condition.notify_all()

    async def _leave(self) -> None:
        async with self._condition:
            self._in_flight -= 1
            self._condition.notify_all()

    async def _changed(self) -> None:
        """Until a call ends; while one goes alone, also until more might follow."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DOUBLING_S if self._is_probing else None):
                await self._condition.wait()

    def _allowed(self) -> int:
        if not self._is_probing:
            return int(self.current)
        if self._probed_at is None:
            return 1
        rounds = (time.monotonic() - self._probed_at - _PROBE_S) / _DOUBLING_S
        return 1 if rounds < 0 else int(min(self.current, 2 ** min(rounds + 1, 30)))

    def _turn_in_s(self) -> float:
        """Take the next place in the even pace; seconds until then."""
        now = time.monotonic()
        if self.pace is None or self.pace > _FASTEST_PACE:
            return 0.0
        if self._spare > self.maximum and self._fixed is None:
            self._spare -= 1
            return 0.0
        turn = max(now, self._next_at)
        self._next_at = turn + 60 / self.pace
        return turn - now

    def observe(self, *, limited: bool) -> None:
        """Take one answer into account; `limited` means that it was a 429."""
        self._is_probing = self._is_probing and limited
        self._probed_at = None  # after a refusal the next one goes alone again
        window = self._window
        window.count(limited)
        if not limited:
            self.current = min(float(self.maximum), self.current + 1 / self.current)
        if window.seen < max(10.0, self.current):
            return
        if window.limited > self._tolerated * window.seen:
            self.current = max(1.0, self.current * self._cut)
            logger.debug("many 429 answers: %d calls in flight from now on", self.current)
        if not self._is_announced and self._fixed is None:
            self._guess_pace(window)
        self._window = _Window()

    def _guess_pace(self, window: "_Window") -> None:
        """Follow what a service lets through that does not tell its limit."""
        if window.limited > _SILENT_TOLERATED * window.seen:
            self.pace = max(1.0, 0.95 * window.passed_per_minute())
        elif self.pace is not None:
            self.pace *= 1.01

    def learn(self, headers: Mapping[str, str], *, tokens: int = 0) -> None:
        """Take the limits in an answer's headers into account; `tokens` is what the call used."""
        if tokens:
            self._tokens = 0.8 * self._tokens + 0.2 * tokens if self._tokens else float(tokens)
        allowed = [_per_minute(headers, "requests", 1.0)]
        if self._tokens:
            allowed.append(_per_minute(headers, "tokens", self._tokens))
        known = [pace for pace in allowed if pace is not None]
        self._is_announced = bool(known)
        if known:
            pace = min(known)
            self.pace = pace if self._fixed is None else min(pace, self._fixed)
        self._spare = self._left(headers) - self._sent
        self.pause(self._short_of(headers))

    def _left(self, headers: Mapping[str, str]) -> float:
        """Calls that the headers say are allowed at once; 0 where they do not say."""
        left = [_number(headers.get("x-ratelimit-remaining-requests", ""))]
        if "x-ratelimit-remaining-tokens" in headers and self._tokens:
            tokens = _number(headers["x-ratelimit-remaining-tokens"])
            left.append(None if tokens is None else tokens / self._tokens)
        return min(0.0 if one is None else one for one in left)

    def _short_of(self, headers: Mapping[str, str]) -> float:
        """Seconds until the allowance suffices for one call more than those that are out."""
        left = _number(headers.get("x-ratelimit-remaining-requests", ""))
        limit = _per_minute(headers, "requests", 1.0)
        # This answer's own call is still counted as out.
        short = 0.0 if left is None else self._sent - left
        seconds = 60 / limit * short if limit is not None and short > 0 else 0.0
        left = _number(headers.get("x-ratelimit-remaining-tokens", ""))
        if left is not None and left < self._tokens:
            reset = duration(headers.get("x-ratelimit-reset-tokens", "")) or 0.0
            total = _number(headers.get("x-ratelimit-limit-tokens", "")) or 1.0
            seconds = max(seconds, reset * min(1.0, self._tokens / total))
        return seconds

    def ask_to_wait(self, seconds: float) -> None:
        """A 429 that names a time: a long one is meant for the account, so nobody starts."""
        if seconds < _LONG_S:
            return
        self._is_probing, self._probed_at = True, None
        if self._open_at < time.monotonic():
            moment = time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))
            logger.info("the service asks to wait for %.0f s, until %s", seconds, moment)
        self.pause(seconds)

    def pause(self, seconds: float) -> None:
        """Let nobody start for this long."""
        self._open_at = max(self._open_at, time.monotonic() + min(seconds, _LONGEST_S))


class _Window:
    """The recent answers."""

    def __init__(self) -> None:
        self.seen = self.limited = 0
        self._begun = time.monotonic()

    def count(self, limited: bool) -> None:
        self.seen += 1
        self.limited += limited

    def passed_per_minute(self) -> float:
        seconds = max(0.01, time.monotonic() - self._begun)
        return 60 * (self.seen - self.limited) / seconds


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds the server asks to wait, however long; None when it does not say.

    Reads `retry-after-ms` and `retry-after` (seconds, or a date: RFC 9110 section 10.2.3).
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if re.fullmatch(r"\d+(\.\d+)?", value):
            return min(float(value) * unit, _LONGEST_S)
    try:
        moment = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    seconds = moment.timestamp() - (time.time() if now is None else now)
    return min(max(0.0, seconds), _LONGEST_S)


def duration(text: str) -> float | None:
    """Seconds of a duration such as "250ms", "1s" or "6m0s"; None when it is none."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    pairs = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
    if not pairs or "".join(number + unit for number, unit in pairs) != text.strip():
        return None
    return sum(float(number) * units[unit] for number, unit in pairs)


def _per_minute(headers: Mapping[str, str], what: str, each: float) -> float | None:
    """Calls a minute that a limit of `what` allows, None when there is none."""
    limit = _number(headers.get(f"x-ratelimit-limit-{what}", ""))
    return limit / each if limit else None


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None
