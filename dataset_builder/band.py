"""The band of a pilot: within which rates a full run goes on, and the watch that looks.

Strata (subset and category) are watched apart, since a plan need not mix them and each has rates of
its own. A run is stopped when the recent replies of a stratum cannot be told from a rate outside of
what the pilot allows, so a few bad replies stop nothing.
"""

import math
from collections import Counter, deque
from collections.abc import Mapping
from typing import NamedTuple

from .plan import Entry

WATCHED = ("refused", "failed")
_WINDOW = 60
"""Recent rows of a stratum that are looked at together."""
_SURE = 2.58
"""Standard deviations of the window's interval (99 %): 12 strata are looked at thousands of
times."""
_COST_SLACK = 0.15
"""Share by which the mean cost of a window may leave the pilot's range."""


class Range(NamedTuple):
    """What a rate or a price may be, both ends included."""

    low: float
    high: float


def wilson(hits: int, total: int, z: float = 1.96) -> Range:
    """Interval of a share by Wilson's formula; all of [0, 1] when nothing was seen."""
    if not total:
        return Range(0.0, 1.0)
    share, spread = hits / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return Range(max(0.0, middle - half), min(1.0, middle + half))


def stratum(entry: Entry) -> str:
    """The subset and category of a row, in one word."""
    return f"{entry.subset}/{entry.category}"


class Watch:
    """Looks at replies as they come; `alarm` says what left the band."""

    def __init__(self, bands: Mapping[str, Mapping[str, Range]] | None = None) -> None:
        """`bands` are ranges of `refused`, `failed` and `usd` by stratum; None watches nothing."""
        self.alarm: str | None = None
        self.left: tuple[str, str, Range] | None = None
        """Stratum, rate, and where it is now, when there is an alarm."""
        self._bands = bands or {}
        self._windows: dict[str, deque[tuple[str, float | None]]] = {}

    @property
    def is_watching(self) -> bool:
        """Whether there is a band that could be left."""
        return bool(self._bands)

    def observe(self, entry: Entry, outcome: str, cost_usd: float | None) -> None:
        """Take a reply into account.

        `cost_usd` is the ordinary price, also of a batch; None when it was bought earlier.
        """
        band = self._bands.get(name := stratum(entry))
        if band is None or self.alarm is not None or cost_usd is None:
            return
        window = self._windows.setdefault(name, deque(maxlen=_WINDOW))
        window.append((outcome, cost_usd if outcome == "done" else None))
        if len(window) == _WINDOW:
            self._look(name, band, window)

    def _look(
        self, name: str, band: Mapping[str, Range], window: deque[tuple[str, float | None]]
    ) -> None:
        counts = Counter(outcome for outcome, _ in window)
        for rate in WATCHED:
            now = wilson(counts[rate], len(window), _SURE)
            allowed = band[rate]
            if now.low > allowed.high or now.high < allowed.low:
                share = 100 * counts[rate] / len(window)
                self._stop(
                    name,
                    rate,
                    now,
                    f"{share:.0f} % of the last {len(window)} rows of {name} were {rate}, the "
                    f"pilot allows {100 * allowed.low:.1f} to {100 * allowed.high:.1f} %",
                )
        costs = [cost for _, cost in window if cost is not None]
        if len(costs) < _WINDOW // 2 or self.alarm is not None:
            return
        mean, allowed = sum(costs) / len(costs), band["usd"]
        if not (1 - _COST_SLACK) * allowed.low <= mean <= (1 + _COST_SLACK) * allowed.high:
            self._stop(
                name,
                "usd",
                Range(mean, mean),
                f"the last rows of {name} cost {mean:.5f} USD each, the pilot allows "
                f"{allowed.low:.5f} to {allowed.high:.5f}",
            )

    def _stop(self, name: str, rate: str, now: Range, words: str) -> None:
        self.alarm = words
        self.left = (name, rate, now)
