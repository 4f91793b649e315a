"""GenEval's verdict on one picture from what a detector found: counts, colours, positions.

Pure rules of the benchmark (Ghosh et al., 2023, arXiv 2310.11513), in its released reading: the
detector and the colour classifier are elsewhere. Boxes are (x0, y0, x1, y1) in pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

COLOURS = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "black",
    "white",
)
POSITIONS = ("above", "below", "left of", "right of")

Boxes = NDArray[np.float32]
"""(objects, 5): x0, y0, x1, y1, score."""
ColourOf = Callable[[str, NDArray[np.int64]], Sequence[str]]
"""Class and numbers of its detections, as given to `keep` -> one colour each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionRule:
    """Which detections count; defaults are the released ones."""

    threshold: float = 0.3
    """Scores above it count."""
    counting_threshold: float = 0.9
    """The same for items of the tag "counting"."""
    max_objects: int = 16
    """Best detections of a class that are looked at."""
    max_overlap: float = 1.0
    """Below 1, a box that covers a better one of its class this much (IoU) is left out."""
    position_threshold: float = 0.1
    """Share of the two sizes by which centres must differ to count as apart."""

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        for name in ("threshold", "counting_threshold", "max_overlap", "position_threshold"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"`{name}` must be from 0 to 1, got {value}")
        if self.max_objects < 1:
            raise ValueError(f"`max_objects` must be at least 1, got {self.max_objects}")


class GenEvalVerdict(NamedTuple):
    """One judged picture."""

    correct: bool
    reason: str
    """What was wrong, a line each; empty when correct."""


def keep(boxes: Boxes, tag: str, rule: DetectionRule) -> NDArray[np.int64]:
    """Numbers of a class's detections that count, the best first."""
    wanted = rule.counting_threshold if tag == "counting" else rule.threshold
    # Ascending and reversed, not descending: so equal scores come in the released order.
    order = np.argsort(boxes[:, 4])[::-1]
    order = order[boxes[order, 4] > np.float32(wanted)][: rule.max_objects]
    if rule.max_overlap >= 1:
        return order
    kept: list[int] = []
    rest = list(order)
    while rest:
        best = rest.pop(0)
        kept.append(best)
        rest = [one for one in rest if overlap(boxes[best], boxes[one]) < rule.max_overlap]
    return np.array(kept, dtype=np.int64)


def overlap(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Intersection over union of two boxes whose last pixels belong to them."""

    def area(x0: float, y0: float, x1: float, y1: float) -> float:
        return max(x1 - x0 + 1, 0) * max(y1 - y0 + 1, 0)

    common = area(*np.maximum(a[:2], b[:2]), *np.minimum(a[2:4], b[2:4]))
    return common / (area(*a[:4]) + area(*b[:4]) - common)


def relations(a: NDArray[np.float32], b: NDArray[np.float32], threshold: float) -> set[str]:
    """Where box `a` lies as seen from box `b`: none, one or two of `POSITIONS`."""
    corners_a, corners_b = a[:4].reshape(2, 2), b[:4].reshape(2, 2)
    offset = corners_a.mean(axis=0) - corners_b.mean(axis=0)
    sizes = np.abs(np.diff(corners_a, axis=0))[0] + np.abs(np.diff(corners_b, axis=0))[0]
    apart = np.maximum(np.abs(offset) - threshold * sizes, 0) * np.sign(offset)
    if np.all(np.abs(apart) < 1e-3):
        return set()
    x, y = apart / np.linalg.norm(offset)
    held = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return {name for name, holds in held.items() if holds}


def verdict(
    item: Mapping[str, Any],
    detections: Mapping[str, Boxes],
    colour_of: ColourOf,
    rule: DetectionRule | None = None,
) -> GenEvalVerdict:
    """Judge one picture.

    Args:
        item: a line of the benchmark: tag, include, and perhaps exclude.
        detections: boxes by class, as the detector gave them.
        colour_of: asked only where a colour matters.
        rule: which detections count.
    """
    found = [one for one in problems(item, detections, colour_of, rule) if one]
    return GenEvalVerdict(not found, "\n".join(found))


def problems(
    item: Mapping[str, Any],
    detections: Mapping[str, Boxes],
    colour_of: ColourOf,
    rule: DetectionRule | None = None,
) -> list[str | None]:
    """What is wrong with each part of an item, its includes first; None where nothing is."""
    rule = rule or DetectionRule()
    kept = {name: keep(boxes, item["tag"], rule) for name, boxes in detections.items()}
    none = np.empty(0, dtype=np.int64)
    wrong: list[str | None] = []
    groups: list[tuple[str, NDArray[np.int64]] | None] = []
    for wanted in item["include"]:
        name, count = wanted["class"], wanted["count"]
        found = kept.get(name, none)[:count]
        problem = _too_few(wanted, found, colour_of)
        if problem is None and "position" in wanted:
            place, number = wanted["position"]
            problem = _misplaced(name, found, place, groups[number], detections, rule)
        wrong.append(problem)
        groups.append(None if problem else (name, found))
    for unwanted in item.get("exclude", ()):
        name, count = unwanted["class"], unwanted["count"]
        found = kept.get(name, none)
        is_over = len(found) >= count
        wrong.append(f"expected {name}<{count}, found {len(found)}" if is_over else None)
    return wrong


def _too_few(
    wanted: Mapping[str, Any], found: NDArray[np.int64], colour_of: ColourOf
) -> str | None:
    name, count = wanted["class"], wanted["count"]
    if len(found) < count:
        return f"expected {name}>={count}, found {len(found)}"
    colour = wanted.get("color")
    if not colour:
        return None
    seen = list(colour_of(name, found))
    if seen.count(colour) >= count:
        return None
    others = ", ".join(f"{seen.count(one)} {one}" for one in COLOURS if one in seen)
    return f"expected {colour} {name}>={count}, found {seen.count(colour)} {colour}; and {others}"


def _misplaced(
    name: str,
    found: NDArray[np.int64],
    place: str,
    target: tuple[str, NDArray[np.int64]] | None,
    detections: Mapping[str, Boxes],
    rule: DetectionRule,
) -> str | None:
    if target is None:
        return f"no target for {name} to be {place}"
    target_name, target_found = target
    for one in found:
        for other in target_found:
            boxes = detections[name][one], detections[target_name][other]
            held = relations(*boxes, rule.position_threshold)
            if place not in held:
                words = " and ".join(word for word in POSITIONS if word in held)
                return f"expected {name} {place} target, found {words} target"
    return None
