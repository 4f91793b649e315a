"""The progress of paid work on stderr: done, refused, failed, pace, money, time to go."""

import time
from collections import Counter

from .ledger import Ledger

_EVERY_S = 0.5


class Progress:
    """A line that is drawn again; without a name it draws nothing.

    Pace and time to go count what was bought now: replies that the ledger knew took no time.
    """

    def __init__(self, name: str | None, total: int | None, ledger: Ledger) -> None:
        from tqdm import tqdm

        self._ledger = ledger
        self._total = total
        self._outcomes: Counter[str] = Counter()
        self._bought = 0
        self._begun = time.monotonic()
        self._drawn = 0.0
        self._note = ""
        form = "{desc}: {n_fmt}/{total_fmt} {bar:20}{postfix}" if total is not None else None
        self._bar = tqdm(desc=name, total=total, disable=name is None, bar_format=form)

    def take(self, outcome: str, *, is_cached: bool) -> None:
        """Count one reply."""
        if self._bar.disable:
            return
        self._outcomes[outcome] += 1
        self._bought += not is_cached
        self._bar.n += 1
        self._draw()

    def say(self, note: str, *, settled: int | None = None) -> None:
        """Show a remark until the next one; `settled` replaces the number of replies."""
        if self._bar.disable:
            return
        self._note = note
        if settled is not None:
            self._bar.n = self._bought = settled
        self._draw(is_urgent=True)

    def close(self) -> None:
        """Draw the last state and end the line."""
        if not self._bar.disable:
            self._draw(is_urgent=True)
        self._bar.close()

    def words(self) -> str:
        """The line without its bar."""
        counts = [f"{self._outcomes[name]} {name}" for name in ("done", "refused", "failed")]
        parts = counts if self._outcomes else []  # a batch tells them at its end
        minutes = max(time.monotonic() - self._begun, 1e-3) / 60
        pace = self._bought / minutes
        parts.append(f"{pace:.0f}/min")
        money = f"{self._ledger.spent_usd:.2f} USD spent"
        if self._ledger.budget_usd is not None:
            left = max(0.0, self._ledger.budget_usd - self._ledger.committed_usd)
            money += f", {left:.2f} left"
        parts.append(money)
        if self._total is not None and pace > 0:
            minutes_left = max(0, self._total - self._bar.n) / pace
            parts.append(f"{int(minutes_left // 60)}:{int(minutes_left % 60):02d} h to go")
        return ", ".join([*parts, self._note] if self._note else parts)

    def _draw(self, *, is_urgent: bool = False) -> None:
        now = time.monotonic()
        if is_urgent or now - self._drawn >= _EVERY_S:
            self._drawn = now
            self._bar.set_postfix_str(self.words(), refresh=False)
            self._bar.refresh()
