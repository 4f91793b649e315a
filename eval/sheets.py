"""What people are asked about a picture, and what their marks count.

A task whose pictures are right or wrong needs no sheet of its own; one that gives points says which
lines are marked and how marks become points, as its judge's are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

_TEN = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """The questions about one picture."""

    checklist: tuple[str, ...] = ()
    """What the picture is held against, as people read it."""
    lines: tuple[str, ...] = ()
    """Each is marked on its own; without any the picture is right (1) or wrong (0)."""
    most: int = 1
    """Highest mark, from 0: 10, or 1 for yes."""
    weigh: Callable[[Sequence[int]], float] | None = None
    """What the lines' marks count; the only mark counts itself where there are no lines."""
    scale: float = 1.0
    """Most that a picture counts."""

    def allows(self, marks: object) -> bool:
        """Return whether these are marks for this sheet."""
        return (
            isinstance(marks, list | tuple)
            and len(marks) == (len(self.lines) or 1)
            and all(type(mark) is int and 0 <= mark <= self.most for mark in marks)
        )

    def value(self, marks: Sequence[int]) -> float:
        """Return what marks count."""
        return float(marks[0]) if self.weigh is None else self.weigh(marks)


def out_of_ten(
    lines: Sequence[str], weigh: Callable[[Sequence[int]], float], scale: float = _TEN
) -> Sheet:
    """Return a sheet on which each line is marked from 0 to 10."""
    return Sheet(lines=tuple(lines), most=_TEN, weigh=weigh, scale=scale)
