"""Confidence intervals for shares of right items, and for the difference of two runs.

Wilson for one group; a stratified bootstrap for groups together; a paired bootstrap for two runs
over the same items. Always 95 %, always seeded: the same verdicts give the same interval.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
_Z = 1.959963984540054  # the 97.5 % point of the normal distribution
_SEED = 20250813
_TAILS = (2.5, 97.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A share of right items with its 95 % interval."""

    score: float
    """Between 0 and 1."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    items: int
    """Number of items behind it."""

    def to_json(self) -> dict[str, Any]:
        """Return {score, low, high, items}."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """How much better the second run is, in shares; positive means better."""

    difference: float
    """Second minus first, between -1 and 1."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the interval."""
    items: int
    """Number of items that both runs have."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes no difference."""
        return self.low > 0 or self.high < 0


def wilson(right: float, items: float) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of `right` out of `items` (items > 0).

    Both may be fractional (an effective sample size).
    """
    share = right / items
    shrink = 1 + _Z**2 / items
    middle = (share + _Z**2 / (2 * items)) / shrink
    half = _Z / shrink * math.sqrt(share * (1 - share) / items + _Z**2 / (4 * items**2))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    # At the ends the formula gives 0 and 1 up to rounding.
    return (0.0 if share == 0 else low), (1.0 if share == 1 else high)


def one_group(right: Sequence[bool]) -> Score:
    """Return the share of right items of one group, with its Wilson interval."""
    count = sum(right)
    low, high = wilson(count, len(right))
    return Score(score=count / len(right), low=low, high=high, items=len(right))


def stratified(groups: Mapping[str, Sequence[bool]], *, macro: bool) -> Score:
    """Return the share over all groups, with a stratified bootstrap interval.

    Items are drawn anew within each group. Where every group is all right or all wrong there is no
    spread to draw from and a bootstrap would be sure of itself; Wilson's interval is used there.

    Args:
        groups: Outcomes by group; empty groups are left out, one item at least is needed.
        macro: True for the mean of the groups' shares (the benchmark's overall), False for the
            share of all items.
    """
    sizes = np.array([len(group) for group in groups.values() if len(group)], dtype=np.int64)
    counts = np.array([sum(group) for group in groups.values() if len(group)], dtype=np.int64)
    weights = np.full(len(sizes), 1 / len(sizes)) if macro else sizes / sizes.sum()
    items = int(sizes.sum())
    score = float((counts / sizes).mean()) if macro else int(counts.sum()) / items
    if np.isin(counts / sizes, (0, 1)).all():
        low, high = wilson(score * items, items)
        return Score(score=score, low=low, high=high, items=items)
    draw = np.random.default_rng(_SEED)
    # Drawing n outcomes with replacement and adding them up is one binomial draw.
    drawn = draw.binomial(sizes, counts / sizes, size=(RESAMPLES, len(sizes)))
    low, high = np.percentile((drawn / sizes) @ weights, _TAILS)
    return Score(score=score, low=float(low), high=float(high), items=items)


def paired(groups: Mapping[str, Sequence[tuple[bool, bool]]], *, macro: bool) -> Difference:
    """Return second minus first over items that both runs have, with a paired bootstrap interval.

    Where the runs agree on every item, the interval is what so many items can exclude.

    Args:
        groups: (first run right, second run right) of every common item, by group.
        macro: As for `stratified`.
    """
    filled = [np.asarray(group, dtype=np.int64) for group in groups.values() if len(group)]
    sizes = np.array([len(group) for group in filled])
    weights = np.full(len(sizes), 1 / len(sizes)) if macro else sizes / sizes.sum()
    steps = [group[:, 1] - group[:, 0] for group in filled]
    items = int(sizes.sum())
    if not any(step.any() for step in steps):
        limit = wilson(0, items)[1]
        return Difference(difference=0.0, low=-limit, high=limit, items=items)
    draw = np.random.default_rng(_SEED)
    total: NDArray[np.float64] = np.zeros(RESAMPLES)
    for step, size, weight in zip(steps, sizes, weights, strict=True):
        shares = [np.mean(step == sign) for sign in (1, -1, 0)]
        drawn = draw.multinomial(size, shares, size=RESAMPLES)
        total += weight * (drawn[:, 0] - drawn[:, 1]) / size
    low, high = np.percentile(total, _TAILS)
    observed = sum(weight * step.mean() for weight, step in zip(weights, steps, strict=True))
    return Difference(difference=float(observed), low=float(low), high=float(high), items=items)


def smallest_clear_difference(items: int, share: float) -> float:
    """Return the difference between two runs that would be found with 80 % power, unpaired."""
    spread = math.sqrt(2 * max(share * (1 - share), 0.25 / items) / items)
    return (_Z + 0.8416212335729143) * spread
