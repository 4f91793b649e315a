"""How far judges agree on the same pictures: Krippendorff's alpha, per tag and over all.

1 is full agreement, 0 is what chance alone gives, below 0 is worse than chance. For right and wrong
the distance of two verdicts is 0 or 1; for points it is the square of their difference
(Krippendorff 2004, section 11.3).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echo4o.errors import Echo4oError

from .verdicts import Verdict

_RESAMPLES = 2_000
_SEED = 20250815


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Alpha with its 95 % interval."""

    alpha: float | None
    """None where all verdicts are the same, so that there is nothing to agree or disagree on."""
    low: float | None
    """Lower end of the interval, by bootstrap over items."""
    high: float | None
    """Upper end."""
    items: int
    """Pictures that at least two judged."""

    def to_json(self) -> dict[str, Any]:
        """Return {alpha, low, high, items}."""
        return asdict(self)


def agreement(runs: Sequence[Sequence[Verdict]]) -> tuple[Agreement, dict[str, Agreement]]:
    """Return the agreement of several judges over all items and per tag.

    Args:
        runs: The verdicts of each judge, the mean of its repeats where it has some; what a judge
            did not answer does not count.

    Raises:
        Echo4oError: fewer than two judges, other pictures, or no item that two judged.
    """
    if len(runs) < 2:
        raise Echo4oError("agreement needs the verdicts of at least two judges")
    values: dict[tuple[int, int], list[float]] = defaultdict(list)
    seen: dict[int, Verdict] = {}
    for run in runs:
        for place, verdicts in _by_picture(run).items():
            first = seen.setdefault(place[0], verdicts[0])
            if (first.prompt, first.tag) != (verdicts[0].prompt, verdicts[0].tag):
                raise Echo4oError(f"item {place[0]} is another one in one of the runs")
            values[place].append(sum(one.value for one in verdicts) / len(verdicts))
    both = {place: given for place, given in values.items() if len(given) > 1}
    if not both:
        raise Echo4oError("no item was judged by two judges; compare runs of the same pictures")
    tags: dict[str, list[list[float]]] = defaultdict(list)
    for (number, _), given in both.items():
        tags[seen[number].tag].append(given)
    return alpha(list(both.values())), {tag: alpha(units) for tag, units in tags.items()}


def self_agreement(verdicts: Sequence[Verdict]) -> dict[str, Any] | None:
    """Return how far a judge's repeats agree with each other; None where it judged once."""
    times = sorted({one.repeat for one in verdicts})
    try:
        overall, by_tag = agreement(
            [[one for one in verdicts if one.repeat == time] for time in times]
        )
    except Echo4oError:
        return None
    named = {tag: one.to_json() for tag, one in by_tag.items()}
    return {"overall": overall.to_json(), "by_tag": named}


def _by_picture(run: Sequence[Verdict]) -> dict[tuple[int, int], list[Verdict]]:
    """Return the verdicts that are ones, by item and picture."""
    pictures: dict[tuple[int, int], list[Verdict]] = defaultdict(list)
    for verdict in run:
        if verdict.outcome == "judged":
            pictures[verdict.number, verdict.sample].append(verdict)
    return pictures


def alpha(units: Sequence[Sequence[float]]) -> Agreement:
    """Return Krippendorff's alpha of `units`, each the values that one item got (two or more)."""
    sums = np.array([(len(one), sum(one), sum(x * x for x in one)) for one in units])
    draw = np.random.default_rng(_SEED)
    drawn = _alphas(sums[draw.integers(0, len(sums), size=(_RESAMPLES, len(sums)))])
    drawn = drawn[np.isfinite(drawn)]
    value = float(_alphas(sums[None])[0])
    if not np.isfinite(value):
        return Agreement(alpha=None, low=None, high=None, items=len(units))
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Agreement(alpha=value, low=float(low), high=float(high), items=len(units))


def _alphas(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return alpha for each set of items: [sets, items, 3] of count, sum and sum of squares."""
    count, total, squares = np.moveaxis(sums.astype(np.float64), -1, 0)
    # Over all ordered pairs of m values, the squared differences add up to 2 (m q - s s).
    observed = (2 * (count * squares - total**2) / (count - 1)).sum(axis=1) / count.sum(axis=1)
    n, s, q = count.sum(axis=1), total.sum(axis=1), squares.sum(axis=1)
    expected = 2 * (n * q - s**2) / (n * (n - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        result: NDArray[np.float64] = np.where(expected > 1e-12, 1 - observed / expected, np.nan)
    return result
