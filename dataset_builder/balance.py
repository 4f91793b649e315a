"""Draws evenly: the value that was used least with a given partner comes next.

Uniform chance leaves rare combinations out; counting what was used does not.
"""

import random
from collections.abc import Hashable, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


class Balance:
    """Counts what was drawn in each context."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._uses: dict[Hashable, dict[Hashable, int]] = {}

    def pick(self, context: Hashable, values: Sequence[T]) -> T:
        """One of the values that were drawn least in this context, by chance."""
        uses = self._uses.setdefault(context, {})
        least = min(uses.get(value, 0) for value in values)
        value = self._draw.choice([one for one in values if uses.get(one, 0) == least])
        uses[value] = least + 1
        return value
