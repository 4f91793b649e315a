"""Checks of single settings: each raises a ValueError with the setting, its value and the rule."""

import math


def check_sizes(name: str, sizes: tuple[int, int, int] | None) -> None:
    """Refuse sizes that are no (longest, shortest, stride) of a resize rule."""
    if sizes is None:
        return
    longest, shortest, stride = sizes
    if not (0 < stride <= longest and 0 < shortest <= longest and longest % stride == 0):
        raise ValueError(
            f"`{name}` must be longest side, shortest side, stride, with the longest a multiple of "
            f"the stride; got {sizes}"
        )


def at_least(name: str, value: float, low: float) -> None:
    """Refuse a value below `low`, or one that is no finite number."""
    if not value >= low or math.isinf(value):
        raise ValueError(f"`{name}` must be at least {low}, got {value}")


def positive(name: str, value: float) -> None:
    """Refuse a value that is not above 0."""
    if not value > 0 or math.isinf(value):
        raise ValueError(f"`{name}` must be above 0, got {value}")


def within(name: str, value: float, low: float, high: float) -> None:
    """Refuse a value outside of [low, high]."""
    if not low <= value <= high:
        raise ValueError(f"`{name}` must be between {low} and {high}, got {value}")


def multiple(name: str, value: int, of_name: str, of: int) -> None:
    """Refuse a value that `of` does not divide."""
    if value % of:
        raise ValueError(f"`{name}` must be a multiple of {of_name} ({of}), got {value}")
