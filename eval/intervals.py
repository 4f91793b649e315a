"""Confidence intervals for shares of right items and for mean points, and for two runs.

Wilson for the share of one group, Student's t for its mean points; a stratified bootstrap for
groups together; a paired bootstrap for two runs over the same items. A bootstrap and a spread of
few items are too narrow (two items a tag: 81 % instead of 95), so there it is Wilson's interval of
as many right or wrong items as say as much, and for two runs that of Agresti and Min (2005). Always
95 %, always seeded: the same verdicts give the same interval.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
_Z = 1.959963984540054  # the 97.5 % point of the normal distribution
_POWER = 0.8416212335729143  # the 80 % point
_NOTHING = 1e-9
_SEED = 20250813
_TAILS = (2.5, 97.5)
_FEW = 30
"""Items of a group below which neither a bootstrap nor a spread is trusted."""
_FEWEST = 6
"""Items below which a spread says nothing at all."""
_FEW_PAIRS = 100
"""The same for all pairs of two runs together: most of them do not differ."""
_SHARPEST = 12
"""Items that are all alike say at most so many times as much as right and wrong ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A share of right items, or mean points, with its 95 % interval."""

    score: float
    """Between 0 and 1, or on the task's scale of points."""
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
    """How much better the second run is; positive means better."""

    difference: float
    """Second minus first, in shares or points."""
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


def one_group(values: Sequence[float], each: int = 1) -> Score:
    """Return the share of right items of one group, with its Wilson interval.

    Args:
        values: The share of right verdicts of each item.
        each: Verdicts of an item. Those of one item resemble each other, so the interval is that
            of as many independent verdicts as spread like these (Korn and Graubard 1998).
    """
    share, items = sum(values) / len(values), len(values)
    effective = _effective(values, each)
    low, high = wilson(share * effective, effective)
    return Score(score=share, low=low, high=high, items=items)


def _effective(values: Sequence[float], each: int) -> float:
    """Return how many independent verdicts say as much: between the items and all verdicts."""
    items, share = len(values), sum(values) / len(values)
    if each == 1 or share in (0, 1):
        return items
    spread = float(np.var(values, ddof=1)) if items > 1 else 0.0
    most = items * each
    return max(items, min(most, items * share * (1 - share) / spread)) if spread else most


def stratified(groups: Mapping[str, Sequence[float]], *, macro: bool) -> Score:
    """Return the share over all groups, with a stratified bootstrap interval.

    Items are drawn anew within each group. Where every group is all right or all wrong there is no
    spread to draw from and a bootstrap would be sure of itself; Wilson's interval is used there.

    Args:
        groups: Shares of right verdicts of the items, by group; empty groups are left out, one
            item at least is needed.
        macro: True for the mean of the groups' shares (the benchmark's overall), False for the
            share of all items.
    """
    filled = [np.asarray(group, dtype=np.float64) for group in groups.values() if len(group)]
    sizes = np.array([len(group) for group in filled])
    weights = np.full(len(sizes), 1 / len(sizes)) if macro else sizes / sizes.sum()
    items = int(sizes.sum())
    shares = np.array([group.mean() for group in filled])
    score = float(shares.mean()) if macro else float(sum(map(sum, filled))) / items
    if min(sizes) < _FEW or all(group.min() == group.max() for group in filled):
        low, high = _of_few(filled, weights)
        return Score(score=score, low=low, high=high, items=items)
    if all(np.isin(group, (0, 1)).all() for group in filled):
        # Drawing n outcomes with replacement and adding them up is one binomial draw.
        draw = np.random.default_rng(_SEED)
        drawn = draw.binomial(sizes, shares, size=(RESAMPLES, len(sizes))) / sizes
    else:
        drawn = np.stack([_resampled(group, place) for place, group in enumerate(filled)], axis=1)
    low, high = np.percentile(drawn @ weights, _TAILS)
    return Score(score=score, low=float(low), high=float(high), items=items)


def paired(groups: Mapping[str, Sequence[tuple[float, float]]], *, macro: bool) -> Difference:
    """Return second minus first over items that both runs have, with a paired bootstrap interval.

    Args:
        groups: (share right in the first run, in the second) of every common item, by group.
        macro: As for `stratified`.
    """
    filled = [np.asarray(group, dtype=np.float64) for group in groups.values() if len(group)]
    sizes = np.array([len(group) for group in filled])
    weights = np.full(len(sizes), 1 / len(sizes)) if macro else sizes / sizes.sum()
    steps = [group[:, 1] - group[:, 0] for group in filled]
    items = int(sizes.sum())
    observed = sum(weight * step.mean() for weight, step in zip(weights, steps, strict=True))
    if min(sizes) < _FEW or items < _FEW_PAIRS or all(one.min() == one.max() for one in steps):
        low, high = _of_few_pairs(steps, weights, float(observed))
        return Difference(difference=float(observed), low=low, high=high, items=items)
    draw = np.random.default_rng(_SEED)
    total: NDArray[np.float64] = np.zeros(RESAMPLES)
    for place, (step, size, weight) in enumerate(zip(steps, sizes, weights, strict=True)):
        if np.isin(step, (-1, 0, 1)).all():
            shares = [np.mean(step == sign) for sign in (1, -1, 0)]
            drawn = draw.multinomial(size, shares, size=RESAMPLES)
            total += weight * (drawn[:, 0] - drawn[:, 1]) / size
        else:
            total += weight * _resampled(step, place)
    low, high = np.percentile(total, _TAILS)
    return Difference(difference=float(observed), low=float(low), high=float(high), items=items)


def smallest_clear_difference(values: Sequence[float], each: int = 1) -> float:
    """Return the difference between two runs that would be found with 80 % power, unpaired.

    `values` and `each` are those of `one_group`.
    """
    share, items = sum(values) / len(values), _effective(values, each)
    share = min(share, 1 - share)
    # d^2 = k (p (1 - p) + q (1 - q)) with q = p + d: the other run lies towards the middle, where
    # shares spread most. With few items or at an end, p alone would promise far too much.
    factor = (_Z + _POWER) ** 2 / items
    linear, constant = factor * (1 - 2 * share), 2 * factor * share * (1 - share)
    return (linear + math.sqrt(linear**2 + 4 * (1 + factor) * constant)) / (2 * (1 + factor))


def mean_points(points: Sequence[float], scale: float) -> Score:
    """Return the mean of one group, with its t interval, clipped to where points can be."""
    values = np.asarray(points, dtype=np.float64)
    mean, items = sum(points) / len(points), len(points)
    spread = float(values.std(ddof=1)) if items >= _FEW else 0.0
    if spread == 0:
        low, high = _of_few([values], np.ones(1), scale)
    else:
        half = _t(items - 1) * spread / math.sqrt(items)
        low, high = mean - half, mean + half
    low, high = max(low, min(0.0, float(values.min()))), min(high, scale)
    return Score(score=mean, low=min(low, mean), high=max(high, mean), items=items)


def weighted_points(
    groups: Mapping[str, Sequence[float]], weights: Mapping[str, float], scale: float
) -> Score:
    """Return the weighted mean of the groups' means, with a stratified bootstrap interval.

    Groups that are empty or have no weight are left out; without any, the score is 0 of 0 items.
    """
    score, low, high, items = _weighted(groups, weights)
    if not items:
        return Score(score=0.0, low=0.0, high=scale, items=0)
    used, shares = _used(groups, weights)
    if high - low < _NOTHING or min(map(len, used)) < _FEW:
        low, high = _of_few(used, shares, scale)
    return Score(score=score, low=min(low, score), high=max(high, score), items=items)


def paired_points(
    groups: Mapping[str, Sequence[tuple[float, float]]], weights: Mapping[str, float], scale: float
) -> Difference:
    """Return second minus first over items that both runs have, with its paired interval."""
    steps = {name: [second - first for first, second in group] for name, group in groups.items()}
    difference, low, high, items = _weighted(steps, weights)
    used, shares = _used(steps, weights)
    if not used:
        low, high = -scale, scale
    elif high - low < _NOTHING or items < _FEW_PAIRS or min(map(len, used)) < _FEW:
        low, high = _of_few_pairs(used, shares, difference, scale)
    return Difference(difference=difference, low=low, high=high, items=items)


def smallest_clear_points(
    groups: Mapping[str, Sequence[float]], weights: Mapping[str, float], scale: float
) -> float:
    """Return the difference of weighted means that is found with 80 % power, unpaired."""
    used = {name: group for name, group in groups.items() if len(group) and weights.get(name)}
    total = sum(weights[name] for name in used) or 1.0
    steps = ((weights[name] / total) * _smallest_step(group, scale) for name, group in used.items())
    return math.sqrt(sum(step**2 for step in steps))


def _smallest_step(points: Sequence[float], scale: float) -> float:
    """Return what `smallest_clear_points` is for one group; as for shares if it shows no spread."""
    spread = float(np.std(points, ddof=1)) if len(points) >= _FEWEST else 0.0
    if spread == 0:
        share = _inside(sum(points) / len(points) / scale)
        return scale * smallest_clear_difference([share] * len(points))
    return (_Z + _POWER) * spread * math.sqrt(2 / len(points))


def _weighted(
    groups: Mapping[str, Sequence[float]], weights: Mapping[str, float]
) -> tuple[float, float, float, int]:
    """Return the weighted mean, both ends of its bootstrap interval and the items behind it."""
    used = {name: group for name, group in groups.items() if len(group) and weights.get(name)}
    if not used:
        return 0.0, 0.0, 0.0, 0
    total = sum(weights[name] for name in used)
    score = sum(weights[name] * (sum(used[name]) / len(used[name])) for name in used) / total
    drawn: NDArray[np.float64] = np.zeros(RESAMPLES)
    for place, (name, group) in enumerate(used.items()):
        drawn += weights[name] / total * _resampled(np.asarray(group, dtype=np.float64), place)
    low, high = np.percentile(drawn, _TAILS)
    return score, float(low), float(high), sum(map(len, used.values()))


def _used(
    groups: Mapping[str, Sequence[float]], weights: Mapping[str, float]
) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
    """Return the groups that count, and their weights, which add up to 1."""
    names = [name for name, group in groups.items() if len(group) and weights.get(name)]
    shares = np.array([weights[name] for name in names])
    values = [np.asarray(groups[name], dtype=np.float64) for name in names]
    return values, shares / max(shares.sum(), _NOTHING)


def _of_few(
    groups: Sequence[NDArray[np.float64]], weights: NDArray[np.float64], scale: float = 1.0
) -> tuple[float, float]:
    """Return Wilson's interval for the weighted mean of groups of few items.

    The spread is that of all items together and of one right and one wrong, at half weight, which
    nobody saw: what few items show of it is too little. As many right or wrong items as spread like
    that are the interval's sample size.
    """
    values = np.clip(np.concatenate(groups) / scale, 0, 1)
    mean = _inside(
        float(sum(w * one.mean() for w, one in zip(weights, groups, strict=True))) / scale
    )
    items = len(values)
    middle = (values.sum() + 0.5) / (items + 1)
    spread = ((values**2).sum() + 0.5) / (items + 1) - middle**2
    variance = float(spread) * _weight_per_item(groups, weights)
    shrunk = (mean * items + 0.5) / (items + 1)
    effective = min(max(shrunk * (1 - shrunk) / variance, 1.0), float(_SHARPEST * items))
    if np.ptp(values) < _NOTHING:  # no spread to measure: nothing spreads more than all or nothing
        effective = min(effective, float(items))
    low, high = wilson(mean * effective, effective)
    return scale * low, scale * high


def _of_few_pairs(
    steps: Sequence[NDArray[np.float64]],
    weights: NDArray[np.float64],
    observed: float,
    scale: float = 1.0,
) -> tuple[float, float]:
    """Return the interval of Agresti and Min for the weighted mean step of few pairs.

    One pair more is better and one worse, at half weight each, beside two that do not differ.
    """
    every = np.concatenate(steps) / scale
    items = len(every)
    if np.ptp(every) < _NOTHING:  # what so many items can exclude
        limit = scale * wilson(0, items)[1]
        return max(-scale, observed - limit), min(scale, observed + limit)
    middle = float(every.sum()) / (items + 2)
    spread = float((every**2).sum() + 1) / (items + 2) - middle**2
    shrink = items / (items + 2)
    half = scale * _Z * math.sqrt(spread * _weight_per_item(steps, weights) * shrink)
    centre = observed * shrink
    low, high = max(-scale, centre - half), min(scale, centre + half)
    return min(low, observed), max(high, observed)


def _weight_per_item(groups: Sequence[NDArray[np.float64]], weights: NDArray[np.float64]) -> float:
    """Return by what an item's variance becomes that of the weighted mean."""
    return float(sum(w**2 / len(one) for w, one in zip(weights, groups, strict=True)))


def _resampled(values: NDArray[np.float64], place: int) -> NDArray[np.float64]:
    draw = np.random.default_rng([_SEED, place])
    chosen = draw.integers(0, len(values), size=(RESAMPLES, len(values)))
    means: NDArray[np.float64] = values[chosen].mean(axis=1)
    return means


def _inside(share: float) -> float:
    return min(max(share, 0.0), 1.0)


def _t(freedom: int) -> float:
    """Return the 97.5 % point of Student's t (Cornish-Fisher, within 0.002 from 5 degrees on)."""
    z = _Z
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
