"""Maps a new judge's scores to an old judge's, from pictures that both have judged.

The judges of the published tables are being retired; this says what the old one would have given,
and how surely. The result is an estimate with a name of its own, `calibrated`: it is kept apart
from runs, and no run or comparison reads it.

Right and wrong: the share of right items q of the new judge is turned by how often it agrees with
the old one on what that called right and wrong (Rogan and Gladen 1978). Points: each of the new
judge's marks becomes the old judge's mean mark there, on a line that never falls (isotonic
regression) or on a straight one. Intervals are bootstraps over pairs and items together.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from echo4o.errors import Echo4oError
from echo4o.records import write_atomic

from .runs import Run, load_run
from .scores import by_item
from .tasks import get_task
from .verdicts import Verdict

Method = Literal["isotonic", "linear"]
Vector: TypeAlias = NDArray[np.float64]
KIND = "calibrated"
FEWEST_PAIRS = 60
FEWEST_OF_A_KIND = 15
"""Pairs that the old judge called right, and pairs that it called wrong."""
_LEAST_AGREEMENT = 0.3
"""Sensitivity + specificity - 1 below which the new judge says too little about the old one."""
_RESAMPLES = 1000
_SEED = 20250817


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimated:
    """A calibrated score with its 95 % interval."""

    raw: float
    """What the new judge gave."""
    calibrated: float
    """What the old judge would have given."""
    low: float
    high: float
    items: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibrated:
    """A run of the new judge in the old judge's terms."""

    old_judge: str
    new_judge: str
    method: str
    pairs: int
    overall: Estimated
    by_tag: dict[str, Estimated]
    scale: float

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is kept."""
        return {"kind": KIND, **asdict(self)}


def calibrate(
    new: Path, old: Path, runs: Sequence[Path], *, method: Method = "isotonic"
) -> list[Calibrated]:
    """Return each of `runs`, judged by the new judge, in the old judge's terms.

    Args:
        new: Run folder of the new judge over pictures that the old one judged, too.
        old: Run folder of the old judge over the same pictures.
        runs: Run folders of the new judge.
        method: For points only.

    Raises:
        Echo4oError: too few pairs, judges that agree too little, or runs that do not fit together.
    """
    first, second, targets = load_run(new), load_run(old), [load_run(run) for run in runs]
    _refuse_mixture(first, second, targets)
    pairs = _pairs(first.verdicts, second.verdicts)
    task = get_task(first.task)
    if task.grading is None:
        _refuse_little_to_learn(pairs)
    results = []
    for run in targets:
        groups, weights = _groups(run)
        each = {tag: _values(verdicts) for tag, verdicts in groups.items()}
        scale = 1.0 if task.grading is None else task.grading.scale
        overall, by_tag = _estimate(pairs, each, weights, scale, None if scale == 1 else method)
        results.append(
            Calibrated(
                old_judge=second.judge["model"],
                new_judge=first.judge["model"],
                method="confusion" if scale == 1 else method,
                pairs=len(pairs),
                overall=overall,
                by_tag=by_tag,
                scale=scale,
            )
        )
    return results


def save(results: Sequence[Calibrated], runs: Sequence[Path], path: Path) -> None:
    """Write what `calibrate` returned, by run folder."""
    named = zip(runs, results, strict=True)
    value = {
        "kind": KIND,
        "about": "estimates of what the old judge would have given; not measured",
        "runs": {run.resolve().name: result.to_json() for run, result in named},
    }
    write_atomic(path, json.dumps(value, indent=1) + "\n")


def lines(result: Calibrated, name: str) -> list[str]:
    """Return lines for people."""
    told = [
        f"{KIND}: {name} as {result.old_judge} would have judged it, from {result.pairs} pictures "
        f"that {result.new_judge} judged, too ({result.method})"
    ]
    size, digits = (100.0, 1) if result.scale == 1 else (1.0, 2)
    for tag, one in {"overall": result.overall, **result.by_tag}.items():
        ends = f"[{size * one.low:.{digits}f}, {size * one.high:.{digits}f}]"
        told.append(
            f"  {tag:26}{size * one.calibrated:6.{digits}f}  {ends}  "
            f"(raw {size * one.raw:.{digits}f})  {one.items:4d} items"
        )
    return told


def isotonic(x: Vector, y: Vector) -> tuple[Vector, Vector]:
    """Return the places and heights of the non-falling line nearest to (x, y), by pooling."""
    places, index = np.unique(x, return_inverse=True)
    weight = np.bincount(index).astype(np.float64)
    height = np.bincount(index, weights=y) / weight
    blocks: list[tuple[float, float, int]] = []
    for h, w in zip(height, weight, strict=True):
        blocks.append((float(h), float(w), 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, u, n), (b, v, m) = blocks[-2:]
            blocks[-2:] = [((a * u + b * v) / (u + v), u + v, n + m)]
    return places, np.repeat([b[0] for b in blocks], [b[2] for b in blocks])


def _estimate(
    pairs: Vector,
    groups: dict[str, Vector],
    weights: dict[str, float],
    scale: float,
    method: Method | None,
) -> tuple[Estimated, dict[str, Estimated]]:
    draw = np.random.default_rng(_SEED)
    points = _apply(pairs, groups, method)
    drawn: dict[str, list[float]] = defaultdict(list)
    for _ in range(_RESAMPLES):
        again = pairs[draw.integers(len(pairs), size=len(pairs))]
        other = {tag: one[draw.integers(len(one), size=len(one))] for tag, one in groups.items()}
        for tag, value in _apply(again, other, method).items():
            drawn[tag].append(value)
    by_tag = {
        tag: _with_interval(float(one.mean()), points[tag], drawn[tag], scale, len(one))
        for tag, one in groups.items()
    }
    total = sum(weights.values())

    def mean(values: dict[str, Any]) -> Any:
        return sum(weights[tag] * values[tag] for tag in groups) / total

    overall = _with_interval(
        mean({tag: float(one.mean()) for tag, one in groups.items()}),
        mean(points),
        list(mean({tag: np.array(values) for tag, values in drawn.items()})),
        scale,
        sum(map(len, groups.values())),
    )
    return overall, by_tag


def _with_interval(
    raw: float, point: float, drawn: Sequence[float], scale: float, items: int
) -> Estimated:
    finite = [value for value in drawn if np.isfinite(value)]
    low, high = np.percentile(finite, (2.5, 97.5))
    inside = [min(max(float(value), 0.0), scale) for value in (point, low, high)]
    return Estimated(raw=raw, calibrated=inside[0], low=inside[1], high=inside[2], items=items)


def _apply(pairs: Vector, groups: dict[str, Vector], method: Method | None) -> dict[str, float]:
    new, old = pairs[:, 0], pairs[:, 1]
    if method is None:
        right = old >= 0.5
        if not right.any() or right.all():
            return dict.fromkeys(groups, np.nan)
        hit, false = new[right].mean(), new[~right].mean()
        gap = hit - false
        return {
            tag: float((one.mean() - false) / gap) if gap > 0 else np.nan
            for tag, one in groups.items()
        }
    if method == "linear":
        slope, start = np.polyfit(new, old, 1) if np.ptp(new) else (0.0, old.mean())
        return {tag: float((slope * one + start).mean()) for tag, one in groups.items()}
    places, heights = isotonic(new, old)
    return {tag: float(np.interp(one, places, heights).mean()) for tag, one in groups.items()}


def _pairs(new: Sequence[Verdict], old: Sequence[Verdict]) -> Vector:
    """Return the values [pictures, 2] of the pictures that both judges answered about."""
    first, second = _by_picture(new), _by_picture(old)
    common = [key for key in first if key in second]
    if len(common) < FEWEST_PAIRS:
        raise Echo4oError(
            f"both judges have judged only {len(common)} of the same pictures; a calibration needs "
            f"{FEWEST_PAIRS} or more"
        )
    return np.array([(first[key], second[key]) for key in common])


def _by_picture(verdicts: Sequence[Verdict]) -> dict[tuple[int, int, str], float]:
    """Return the mean value of what was judged, by item and picture."""
    values: dict[tuple[int, int, str], list[float]] = defaultdict(list)
    for one in verdicts:
        if one.outcome == "judged":
            values[one.number, one.sample, one.prompt].append(one.value)
    return {key: sum(each) / len(each) for key, each in values.items()}


def _refuse_mixture(new: Run, old: Run, targets: Sequence[Run]) -> None:
    for name, values in {
        "task": {run.task for run in (new, old, *targets)},
        "protocol": {str(run.protocol) for run in (new, old, *targets)},
        "new judge": {run.judge["model"] for run in (new, *targets)},
    }.items():
        if len(values) > 1:
            raise Echo4oError(
                f"these runs have not one {name} but {', '.join(sorted(values))}; calibrate runs "
                "that differ in the judge only"
            )
    if new.judge["model"] == old.judge["model"]:
        raise Echo4oError(f"both runs were judged by {new.judge['model']}; give an older judge's")
    hashes = [
        {(one.number, one.sample): one.picture_sha256 for one in run.verdicts if one.picture_sha256}
        for run in (new, old)
    ]
    if any(hashes[0][key] != hashes[1][key] for key in hashes[0].keys() & hashes[1].keys()):
        raise Echo4oError("the two judges saw different pictures of an item; judge the same folder")


def _refuse_little_to_learn(pairs: Vector) -> None:
    new, old = pairs[:, 0], pairs[:, 1] >= 0.5
    right = int(old.sum())
    if min(right, len(old) - right) < FEWEST_OF_A_KIND:
        raise Echo4oError(
            f"the old judge called {right} of {len(old)} pictures right; a calibration needs "
            f"{FEWEST_OF_A_KIND} or more right ones, and as many wrong ones"
        )
    hit, false = float(new[old].mean()), float(new[~old].mean())
    if hit - false < _LEAST_AGREEMENT:
        raise Echo4oError(
            f"the new judge calls right {hit:.0%} of what the old one called right and {false:.0%} "
            "of what it called wrong; that says too little to map one to the other"
        )


def _groups(run: Run) -> tuple[dict[str, list[list[Verdict]]], dict[str, float]]:
    """Return the items of each part of the overall score, and the parts' weights."""
    grading = get_task(run.task).grading
    groups: dict[str, list[list[Verdict]]] = defaultdict(list)
    for item in by_item(run.verdicts):
        counted = [one for one in item if not one.is_left_out]
        if counted:
            tag = counted[0].tag
            groups[tag if grading is None else grading.group_of.get(tag, tag)].append(counted)
    if not groups:
        raise Echo4oError(f"no item of {run.pictures.name} counts, so there is nothing to map")
    if grading is None:
        return dict(groups), dict.fromkeys(groups, 1.0)
    weights = grading.weights_of(run.protocol["name"])
    used = {name: group for name, group in groups.items() if weights.get(name)}
    return used, {name: weights[name] for name in used}


def _values(items: Sequence[Sequence[Verdict]]) -> Vector:
    return np.array([sum(one.value for one in item) / len(item) for item in items])
