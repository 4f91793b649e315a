"""Finds the objects in a picture: shape, colour, size, place. Looks at pixels and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from .grammar import REGION_WORDS, SIZE_WORDS, plurals
from .vocabulary import COLOURS, LARGE_ABOVE, RING_HOLE, SHAPES, SMALL_BELOW, outline

Array = NDArray[np.float32]

_WORKING_SIDE = 96
_FOREGROUND = 60.0
"""Distance from the background, in RGB units, from which a pixel belongs to an object."""
_COLOUR_LIMIT = 75.0
"""An object further than this from every colour of the world has no name for its colour."""
_SPECK = 14 / 64**2
"""Smaller spots, as a share of the picture, are dirt."""
_SHAPE_LIMIT = 0.72
_GRID = 20
_NUMBER_WORDS = ("no", "a", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True, slots=True)
class Seen:
    """One object found in a picture; lengths are shares of the picture's sides."""

    shape: str
    """A name from the vocabulary, or "unknown"."""
    colour: str
    """A name from the vocabulary, or "unknown"."""
    extent: float
    """Longest side as a share of the picture's shorter side."""
    x: float
    y: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Finding:
    """One expectation held against what was seen."""

    ok: bool
    expectation: str
    reason: str


def see(image: Image.Image) -> list[Seen]:
    """All objects in `image`, from left to right; a 1024 px picture takes about 10 ms."""
    pixels = _pixels(image)
    background = _background(pixels)
    away = np.linalg.norm(pixels - background, axis=2)
    labels, _ = ndimage.label(away > _FOREGROUND)
    areas = np.bincount(labels.ravel())
    found = []
    for number, window in enumerate(ndimage.find_objects(labels), 1):
        if areas[number] >= _SPECK * labels.size:
            found += _look(pixels, background, labels == number, window)
    return sorted(found, key=lambda one: (one.x, one.y))


def _pixels(image: Image.Image) -> Array:
    picture = image.convert("RGB")
    shorter = min(picture.size)
    if shorter > _WORKING_SIDE:
        ratio = _WORKING_SIDE / shorter
        size = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
        picture = picture.resize(size, Image.Resampling.BOX)
    return np.asarray(picture, dtype=np.float32)


def _background(pixels: Array) -> Array:
    rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return np.asarray(np.median(rim, axis=0), dtype=np.float32)


def _look(
    pixels: Array, background: Array, mask: NDArray[np.bool_], window: tuple[slice, slice]
) -> list[Seen]:
    """The object under `mask`; two when two colours touch."""
    inside = mask[window]
    core = ndimage.binary_erosion(inside)
    core = core if core.sum() >= 4 else inside
    names = _nearest_colours(pixels[window])
    votes = np.bincount(names[core], minlength=len(COLOURS))
    if votes.max() >= 0.7 * core.sum():
        return [_describe_one(pixels, background, mask, window, core, int(votes.argmax()))]
    found = []
    for colour in np.flatnonzero(votes >= 0.2 * core.sum()):
        part = np.zeros_like(mask)
        part[window] = ndimage.binary_opening(inside & (names == colour))
        labels, _ = ndimage.label(part)
        for number, part_window in enumerate(ndimage.find_objects(labels), 1):
            piece = labels == number
            if piece.sum() >= _SPECK * mask.size:
                core = piece[part_window]
                found.append(
                    _describe_one(pixels, background, piece, part_window, core, int(colour))
                )
    return found


def _nearest_colours(pixels: Array) -> NDArray[np.intp]:
    palette = np.array(list(COLOURS.values()), dtype=np.float32)
    return np.linalg.norm(pixels[:, :, None] - palette, axis=3).argmin(axis=2)


def _describe_one(
    pixels: Array,
    background: Array,
    mask: NDArray[np.bool_],
    window: tuple[slice, slice],
    core: NDArray[np.bool_],
    colour: int,
) -> Seen:
    height, width = mask.shape
    middle = np.median(pixels[window][core], axis=0)
    name, rgb = list(COLOURS.items())[colour]
    known = float(np.linalg.norm(middle - np.array(rgb))) <= _COLOUR_LIMIT
    alpha, box = _coverage(pixels, background, middle, mask, window)
    left, top, right, bottom = box
    return Seen(
        shape=_shape(alpha, right - left, bottom - top),
        colour=name if known else "unknown",
        extent=max(right - left, bottom - top) / min(width, height),
        x=(left + right) / 2 / width,
        y=(top + bottom) / 2 / height,
        box=(left / width, top / height, right / width, bottom / height),
    )


def _coverage(
    pixels: Array,
    background: Array,
    middle: Array,
    mask: NDArray[np.bool_],
    window: tuple[slice, slice],
) -> tuple[Array, tuple[float, float, float, float]]:
    """How much of each pixel the object covers, cropped to its edges, and those edges.

    Edges are found to a fraction of a pixel: a rim pixel counts by its coverage.
    """
    rows = slice(max(window[0].start - 1, 0), window[0].stop + 1)
    columns = slice(max(window[1].start - 1, 0), window[1].stop + 1)
    near = ndimage.binary_dilation(mask[rows, columns])
    span = middle - background
    alpha = ((pixels[rows, columns] - background) @ span) / max(float(span @ span), 1.0)
    alpha = np.where(near, np.clip(alpha, 0, 1), 0)
    top, bottom = _edges(alpha.max(axis=1))
    left, right = _edges(alpha.max(axis=0))
    box = (columns.start + left, rows.start + top, columns.start + right, rows.start + bottom)
    return _resample(alpha, (left, top, right, bottom)), box


def _edges(profile: NDArray[np.floating[Any]]) -> tuple[float, float]:
    solid = np.flatnonzero(profile > 0.5)
    first, last = (int(solid[0]), int(solid[-1])) if solid.size else (0, profile.size - 1)
    before = float(profile[first - 1]) if first else 0.0
    after = float(profile[last + 1]) if last + 1 < profile.size else 0.0
    low = first + 1 - float(profile[first]) - before
    high = last + float(profile[last]) + after
    return low, max(high, low + 1.0)


def _resample(coverage: NDArray[np.floating[Any]], box: tuple[float, float, float, float]) -> Array:
    picture = Image.fromarray(coverage.astype(np.float32))
    clipped = (max(box[0], 0), max(box[1], 0), min(box[2], coverage.shape[1]))
    region = (*clipped, min(box[3], coverage.shape[0]))
    return np.asarray(picture.resize((_GRID, _GRID), Image.Resampling.BILINEAR, box=region))


def _shape(alpha: Array, width: float, height: float) -> str:
    aspect = width / height
    if aspect > 1.55 or aspect < 1 / 1.55:
        candidates = ["bar" if aspect > 1 else "pillar"]
    elif 0.7 < aspect < 1 / 0.7:
        candidates = [name for name in SHAPES if name not in ("bar", "pillar")]
    else:
        return "unknown"
    overlaps = {name: _overlap(alpha, _template(name)) for name in candidates}
    best = max(overlaps, key=lambda name: overlaps[name])
    return best if overlaps[best] >= _SHAPE_LIMIT else "unknown"


def _overlap(one: Array, other: Array) -> float:
    return float(np.minimum(one, other).sum() / np.maximum(one, other).sum())


@cache
def _template(shape: str) -> Array:
    side = _GRID * 8
    picture = Image.new("L", (side, side))
    pen = ImageDraw.Draw(picture)
    corners = outline(shape)
    if corners is not None:
        pen.polygon([(x * (side - 1), y * (side - 1)) for x, y in corners], fill=255)
    else:
        pen.ellipse((0, 0, side - 1, side - 1), fill=255)
    if shape == "ring":
        rim = (1 - RING_HOLE) / 2 * side
        pen.ellipse((rim, rim, side - 1 - rim, side - 1 - rim), fill=0)
    return np.asarray(picture.reduce(8), dtype=np.float32) / np.float32(255)


def cut_out(image: Image.Image) -> Image.Image:
    """The largest object of `image` on transparent ground; the whole picture if none is found."""
    found = max(see(image), key=lambda one: one.extent, default=None)
    if found is None:
        return image.convert("RGBA")
    left, top, right, bottom = found.box
    wide, high = image.size
    corners = (left * wide - 1, top * high - 1, right * wide + 1, bottom * high + 1)
    piece = image.convert("RGB").crop(corners)
    pixels = np.asarray(piece, dtype=np.float32)
    background = _background(_pixels(image))
    span = np.asarray(COLOURS.get(found.colour, (0, 0, 0)), dtype=np.float32) - background
    alpha = np.clip(((pixels - background) @ span) / max(float(span @ span), 1.0) * 1.1, 0, 1)
    piece.putalpha(Image.fromarray((alpha * 255).astype(np.uint8)))
    return piece


def check(
    seen: list[Seen], include: list[dict[str, Any]], exclude: Sequence[dict[str, Any]] = ()
) -> list[Finding]:
    """Hold GenEval++ constraints (class, count, color, region, size) against what was seen.

    What cannot be found is not satisfied, and objects that nobody asked for are held against the
    picture. Relative sizes ("larger", "smaller") compare with the other listed objects.
    """
    findings = [_check_line(seen, line, include) for line in include]
    for line in exclude:
        number, limit = len(_matching(seen, line, {"class", "color"})), int(line.get("count", 1))
        findings.append(
            Finding(number < limit, f"fewer than {limit} {line['class']}", f"found {number}")
        )
    listed = [one for line in include for one in _matching(seen, line, {"class", "color"})]
    extra = [one for one in seen if one not in listed]
    reason = f"also found: {describe(extra)}" if extra else "found nothing else"
    return [*findings, Finding(not extra, "nothing else", reason)]


def _check_line(seen: list[Seen], line: dict[str, Any], lines: list[dict[str, Any]]) -> Finding:
    count = int(line.get("count") or 1)
    wanted = [str(line[key]) for key in ("color", "size", "region") if line.get(key)]
    expectation = " ".join([str(count), *wanted, str(line["class"])])
    alike = _matching(seen, line, {"class", "color"})
    exact = _matching(alike, line, {"region"})
    exact = [one for one in exact if _size_fits(one, line, lines, seen)]
    same = [other for other in lines if _key(other) == _key(line)]
    total = sum(int(other.get("count") or 1) for other in same)
    if len(exact) == count and len(alike) == total:
        return Finding(True, expectation, f"found {count}")
    if len(alike) == total:
        return Finding(False, expectation, f"{len(exact)} of {count} have the right place and size")
    instead = describe(_matching(seen, line, {"class"}))
    return Finding(False, expectation, f"found {len(alike)} instead of {total} ({instead})")


def _key(line: dict[str, Any]) -> tuple[object, object]:
    return (line["class"], line.get("color"))


def _matching(seen: list[Seen], line: dict[str, Any], keys: set[str]) -> list[Seen]:
    name, colour = str(line["class"]).lower(), line.get("color")
    shape = next((shape for shape in SHAPES if name in plurals(shape)), name)
    region = REGION_WORDS.get(str(line.get("region") or ""))
    return [
        one
        for one in seen
        if ("class" not in keys or one.shape == shape)
        and ("color" not in keys or colour in (None, "", one.colour))
        and ("region" not in keys or not line.get("region") or _within(one, region))
    ]


def _within(one: Seen, region: str | None) -> bool:
    inside = {"left": one.x < 0.5, "right": one.x > 0.5, "above": one.y < 0.5, "below": one.y > 0.5}
    return inside.get(region or "", False)


def _size_fits(
    one: Seen, line: dict[str, Any], lines: list[dict[str, Any]], seen: list[Seen]
) -> bool:
    size = str(line.get("size") or "")
    if not size:
        return True
    if size in ("larger", "smaller"):
        others = [x for other in lines if other is not line for x in _matching(seen, other, _BOTH)]
        ratios = [one.extent / other.extent for other in others]
        return all(ratio > 1.15 if size == "larger" else ratio < 1 / 1.15 for ratio in ratios)
    kind = SIZE_WORDS.get(size)
    return one.extent < SMALL_BELOW if kind == "small" else one.extent > LARGE_ABOVE


_BOTH = {"class", "color"}


def describe(seen: list[Seen]) -> str:
    """What was seen, in the world's English: "two red circles and a blue square"."""
    counts: dict[tuple[str, str], int] = {}
    for one in seen:
        counts[one.colour, one.shape] = counts.get((one.colour, one.shape), 0) + 1
    parts = []
    for (colour, shape), count in counts.items():
        noun = "object" if shape == "unknown" else shape
        noun = plurals(noun)[1] if count > 1 else noun
        number = _NUMBER_WORDS[count] if count < len(_NUMBER_WORDS) else str(count)
        article = "an" if number == "a" and colour[0] in "aeiou" else number
        parts.append(f"{article} {'' if colour == 'unknown' else colour + ' '}{noun}")
    if len(parts) < 3:
        return " and ".join(parts) or "nothing"
    return ", ".join(parts[:-1]) + f", and {parts[-1]}"
