"""Has a judge moved? Its verdicts on fixed pictures, run after run, held against the first ones.

Two tests. One run against the recorded verdicts: an exact sign test. All runs so far: was there a
moment since which the mean is another? The pictures are the independent units, so that verdicts
on one picture may resemble each other from run to run. Its level is spent over the runs to come
(1/k^2, Bonferroni over the moments), so that it may be looked at after every run for ever.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

FALSE_ALARMS = 0.01
"""Chance of an alarm from a judge that stays as it is, for each of the two tests."""
POWER = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """What the canary says after a run."""

    pictures: int
    """Pictures with a verdict in every run that is compared."""
    runs: int
    """Runs so far, the one that recorded the verdicts not counted."""
    higher: int
    """Pictures that count more now than when they were recorded."""
    lower: int
    p_value: float
    """Of this run against the recorded verdicts."""
    shift: float
    """Mean change since the recording, in shares of the scale."""
    since: int
    """Run (from 1) with which a change began most likely."""
    shift_since: float
    """Mean change at that moment."""
    moved_now: bool
    """Whether this run differs from the recorded verdicts: 1 % false alarms a run."""
    moved_over_runs: bool
    """Whether there was such a moment: 1 % false alarms over all runs to come."""
    smallest_shift: float
    """Change, in shares of the scale, that the test over all runs would find by now with 95 %
    power."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object kept in run.json."""
        return asdict(self)


def drift_lines(found: Mapping[str, Any], judge: str) -> list[str]:
    """Return lines for people from what run.json keeps of a `Drift`."""
    lines = [
        f"canary: {found['higher']} of {found['pictures']} pictures count more than when they were "
        f"recorded, {found['lower']} less ({100 * found['shift']:+.1f} % of the scale, "
        f"p = {found['p_value']:.3f}); after {found['runs']} runs a lasting shift of "
        f"{100 * found['smallest_shift']:.1f} % would be seen"
    ]
    if found["moved_now"] or found["moved_over_runs"]:
        since = f" since run {found['since']} after it" if found["moved_over_runs"] else ""
        lines.append(
            f"WARNING: judge {judge} is not the one that it was{since}; do not compare these "
            "scores with earlier ones (`echo4o eval calibrate` maps one to the other)"
        )
    return lines


def drift(recorded: Sequence[float | None], runs: Sequence[Sequence[float | None]]) -> Drift:
    """Return what the verdicts of the runs so far say; the last run is the present one.

    Args:
        recorded: What each picture counted at first, in shares of the scale.
        runs: The same for each later run; None where there was no verdict.
    """
    table = np.array([recorded, *runs], dtype=np.float64)  # None becomes NaN
    table = table[:, ~np.isnan(table).any(axis=0)]
    pictures, later = table.shape[1], len(runs)
    if not pictures:
        return Drift(
            pictures=0,
            runs=later,
            higher=0,
            lower=0,
            p_value=1.0,
            shift=0.0,
            since=later,
            shift_since=0.0,
            moved_now=False,
            moved_over_runs=False,
            smallest_shift=1.0,
        )
    step = table[-1] - table[0]
    higher, lower = int((step > 0).sum()), int((step < 0).sum())
    p_value = _sign_test(higher, lower)
    changes = [_change(table, moment) for moment in range(1, later + 1)]
    strength = [_strength(change) for change in changes]
    since = int(np.argmax(strength))
    critical = _critical(later)
    noise = min(float(change.var()) for change in changes)
    return Drift(
        pictures=pictures,
        runs=later,
        higher=higher,
        lower=lower,
        p_value=p_value,
        shift=float(step.mean()),
        since=since + 1,
        shift_since=float(changes[since].mean()),
        moved_now=p_value <= FALSE_ALARMS,
        moved_over_runs=strength[since] > critical,
        smallest_shift=_smallest(noise, pictures, critical),
    )


def _change(table: NDArray[np.float64], moment: int) -> NDArray[np.float64]:
    """Return how much more each picture counts from run `moment` on than before."""
    change: NDArray[np.float64] = table[moment:].mean(axis=0) - table[:moment].mean(axis=0)
    return change


def _strength(change: NDArray[np.float64]) -> float:
    """Return the mean change in its standard errors, if there was none in truth."""
    total = math.sqrt(float(np.sum(change**2)))
    return abs(float(change.sum())) / total if total else 0.0


def _critical(run: int) -> float:
    level = FALSE_ALARMS * 6 / (math.pi * run) ** 2 / run
    return NormalDist().inv_cdf(1 - level / 2)


def _smallest(noise: float, pictures: int, critical: float) -> float:
    """Solve d = k sqrt((noise + d) / n): a shift of d adds at most d to the mean square."""
    factor = (critical + NormalDist().inv_cdf(POWER)) ** 2 / pictures
    return min(1.0, (factor + math.sqrt(factor**2 + 4 * factor * noise)) / 2)


def _sign_test(higher: int, lower: int) -> float:
    """Return the two-sided p-value of so many changes each way, if both are equally likely."""
    changed = higher + lower
    tail = sum(math.comb(changed, k) for k in range(max(higher, lower), changed + 1))
    return min(1.0, 2 * tail / 2**changed)
