"""What a run will have cost at its end, learned while it goes on from what its replies cost.

`estimate` knows the price beforehand but for the length of the replies; some of each tag tell it.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TypeVar

from echo4o.ledger import Ledger

from .cases import Case

logger = logging.getLogger(__name__)

_ENOUGH = 5
"""Replies of each tag that are worth a forecast."""
_FEW = 30
"""Questions below which the end comes before a forecast is of use."""
T = TypeVar("T", bound=Case)


def spread(cases: Sequence[T]) -> list[tuple[int, T]]:
    """Return (place, case) in an order in which each tag has its turn, and first ones go first.

    So the first replies are like all of them, whatever the order of the items.
    """
    seen: Counter[str] = Counter()
    turns = []
    for place, case in enumerate(cases):
        turns.append((seen[case.item.tag], place, case))
        seen[case.item.tag] += 1
    turns.sort(key=lambda turn: turn[:2])
    return [(place, case) for _, place, case in turns]


class Foreseen:
    """Adds up what questions cost, by tag, and says what all of them will."""

    def __init__(self, cases: Sequence[Case]) -> None:
        asked = [case for case in cases if case.path is not None]
        self._left = Counter(case.item.tag for case in asked)
        self._seen: Counter[str] = Counter()
        self._paid: dict[str, float] = defaultdict(float)
        self._is_told = len(asked) < _FEW
        self._total = len(asked)

    def learn(self, case: Case) -> None:
        """Take a question into account that has its verdict."""
        if case.path is None:
            return
        tag = case.item.tag
        self._left[tag] -= 1
        self._seen[tag] += 1
        self._paid[tag] += sum(case.paid.values())

    def total_usd(self) -> float | None:
        """Return the price of all questions, those of earlier runs too; None before it is known."""
        left = {tag: count for tag, count in self._left.items() if count}
        if any(self._seen[tag] < _ENOUGH for tag in left):
            return None
        rest = (count * self._paid[tag] / self._seen[tag] for tag, count in left.items())
        return sum(self._paid.values()) + sum(rest)

    def words(self, ledger: Ledger) -> str:
        """Return what a bar says of money; once, what the whole will cost goes to the log."""
        total = self.total_usd()
        if total is None or not total:
            return f"{ledger.spent_usd:.2f} USD"
        if not self._is_told:
            self._is_told = True
            count = self._seen.total()
            logger.info(
                "after %d of %d replies: all of them will cost about %.4f USD",
                count,
                self._total,
                total,
            )
            budget = ledger.budget_usd
            if budget is not None and total > budget:
                logger.warning(
                    "that is more than the budget of %.2f USD; what fits into it will be asked",
                    budget,
                )
        return f"{ledger.spent_usd:.2f} of about {total:.2f} USD"
