"""Inline SVG for reports, made from numbers only: intervals in a table cell, and a loss curve."""

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from echo4o.errors import Echo4oError

from .intervals import Score

_WIDTH, _LANE, _PAD = 220, 12, 6
_CURVE_WIDTH, _CURVE_HEIGHT = 720, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 20, 12, 26
_MOST_POINTS = 700
_MOST = 1e12
"""Steps and losses beyond it, and what is no number, are not drawn."""


def intervals(scores: Sequence[Score | None], scale: float = 1.0) -> Markup:
    """Return one lane per run: a line over the 95 % interval, a dot at the score; 0 to `scale`."""
    height = _LANE * len(scores) + 4
    parts = [
        f'<svg class="lanes" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        'role="img" aria-label="scores with 95 % intervals">'
    ]
    for share in (0.0, 0.5, 1.0):
        parts.append(f'<line class="grid" x1="{_x(share)}" x2="{_x(share)}" y1="0" y2="{height}"/>')
    for lane, score in enumerate(scores):
        if score is None:
            continue
        y = 2 + _LANE * (lane + 0.5)
        parts.append(
            f'<g class="run{lane % 4}"><line x1="{_x(score.low / scale)}" '
            f'x2="{_x(score.high / scale)}" y1="{y}" y2="{y}"/>'
            f'<circle cx="{_x(score.score / scale)}" cy="{y}" r="4"/></g>'
        )
    return Markup("".join([*parts, "</svg>"]))


def loss_curve(points: Sequence[tuple[float, float]]) -> Markup:
    """Return the loss over steps: every value thin, a running mean thick."""
    steps = [step for step, _ in points]
    mean = _running_mean([loss for _, loss in points])
    ordered = sorted(loss for _, loss in points)
    # The first steps are far above all others; the axis shows 98 % of the values.
    top = max(ordered[int(0.98 * (len(ordered) - 1))], max(mean[len(mean) // 20 :], default=0.0))
    low, high = min(0.0, ordered[0]), top * 1.05 if top > 0 else 1.0
    first, last = steps[0], max(steps[-1], steps[0] + 1)

    def place(step: float, loss: float) -> str:
        x = _LEFT + (step - first) / (last - first) * (_CURVE_WIDTH - _LEFT - _RIGHT)
        inside = (min(loss, high) - low) / (high - low)
        y = _CURVE_HEIGHT - _BOTTOM - inside * (_CURVE_HEIGHT - _TOP - _BOTTOM)
        return f"{x:.1f},{y:.1f}"

    def line(name: str, values: Sequence[float]) -> str:
        pairs = zip(steps, values, strict=True)
        stride = math.ceil(len(steps) / _MOST_POINTS)
        dots = " ".join(place(*pair) for pair in itertools.islice(pairs, 0, None, stride))
        return f'<polyline class="{name}" points="{dots}"/>'

    parts = [
        f'<svg class="curve" viewBox="0 0 {_CURVE_WIDTH} {_CURVE_HEIGHT}" role="img" '
        'aria-label="training loss by step">'
    ]
    for value in _ticks(low, high):
        _, y = place(first, value).split(",")
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_CURVE_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
            f'<text x="{_LEFT - 6}" y="{float(y) + 4:.1f}" text-anchor="end">{value:.3g}</text>'
        )
    for value in _ticks(first, last):
        x, _ = place(value, low).split(",")
        parts.append(
            f'<text x="{x}" y="{_CURVE_HEIGHT - 8}" text-anchor="middle">{value:,.0f}</text>'
        )
    parts += [line("raw", [loss for _, loss in points]), line("mean", mean), "</svg>"]
    return Markup("".join(parts))


def read_loss(path: Path) -> list[tuple[float, float]]:
    """Read `loss.jsonl`: one object with `step` and `loss` per line, in order of steps.

    Raises:
        Echo4oError: no such file, a malformed line, or no value that can be drawn.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise Echo4oError(f"there is no loss file {path}") from error
    points = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            point = float(value["step"]), float(value["loss"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise Echo4oError(f"{path}, line {number}: needs numbers `step`, `loss`") from error
        if all(abs(one) <= _MOST for one in point):
            points.append(point)
    if not points:
        raise Echo4oError(f"{path} holds no loss")
    return sorted(points)


def _x(share: float) -> str:
    return f"{_PAD + max(share, 0.0) * (_WIDTH - 2 * _PAD):.1f}"


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers between `low` and `high`, about five of them."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [place * step for place in range(first, last + 1)]


def _running_mean(values: Sequence[float]) -> list[float]:
    window = max(1, len(values) // 60)
    sums = list(itertools.accumulate(values, initial=0.0))
    return [
        (sums[end] - sums[start]) / (end - start)
        for end in range(1, len(values) + 1)
        for start in [max(0, end - window)]
    ]
