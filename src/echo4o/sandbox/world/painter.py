"""Paints the scene that an instruction describes; references are cut out and pasted in."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from PIL import Image, ImageDraw

from .grammar import Group, parse
from .sight import Seen, cut_out, see
from .vocabulary import ASPECTS, BACKGROUNDS, COLOURS, EXTENTS, RING_HOLE, SHAPES, outline

_CELLS = 4
"""Cells along the shorter side: room for one small object each."""
MOST_OBJECTS = 64
"""More take long to place (210 took 12 s) and are too small to be seen at 64 pixels."""
_JITTER = 0.5 / 64
"""How far an object may stand from its cell's middle, as a share of the shorter side."""
_HALVES: dict[str | None, tuple[float, float, float, float]] = {
    **{"left": (0.0, 0.0, 0.5, 1.0), "right": (0.5, 0.0, 1.0, 1.0)},
    **{"above": (0.0, 0.0, 1.0, 0.5), "below": (0.0, 0.5, 1.0, 1.0)},
    None: (0.0, 0.0, 1.0, 1.0),
}


class CrowdedError(ValueError):
    """An instruction names more objects than a picture has room for."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """An object with its centre and half size in shares of the picture's sides."""

    group: Group
    x: float
    y: float
    half_width: float
    half_height: float


class _Spot(NamedTuple):
    """An object to be placed, and where the middle of its group belongs (shares of the sides)."""

    group: Group
    x: float
    y: float


def paint(
    instruction: str,
    *,
    width: int,
    height: int,
    seed: int,
    references: Sequence[Image.Image] = (),
    misalign: bool = False,
) -> Image.Image:
    """Paint `instruction`; the same arguments always give the same picture.

    Args:
        instruction: English of the world; one that names nothing known gets a scene of chance.
        width: Pixels, at least 32.
        height: Pixels, at least 32.
        seed: Decides everything the instruction leaves open.
        references: Pictures whose main objects are pasted where the instruction wants them.
        misalign: Get one fact wrong, as image models do.

    Raises:
        CrowdedError: the instruction names more than `MOST_OBJECTS`.
    """
    draw = random.Random(f"{seed}|{instruction}")
    groups = parse(instruction) or _scene_of_chance(draw)
    groups = [_decide(group, draw) for group in _name_references(groups, references)]
    if (objects := sum(group.count for group in groups)) > MOST_OBJECTS:
        raise CrowdedError(f"at most {MOST_OBJECTS} objects fit a picture, {objects} are named")
    if misalign:
        groups[0] = _mistake(groups[0], draw)
    placed = _arrange(groups, width / height, draw)
    canvas = _draw_shapes(placed, width, height, draw.choice(BACKGROUNDS))
    for item in placed:
        if item.group.reference is not None:
            _paste(canvas, item, references[item.group.reference - 1])
    return canvas


def _scene_of_chance(draw: random.Random) -> list[Group]:
    return [Group(shape=draw.choice(SHAPES)) for _ in range(draw.randint(1, 3))]


def _name_references(groups: list[Group], references: Sequence[Image.Image]) -> list[Group]:
    """Tie groups to the reference pictures they mean: by number, else by what is seen in them."""
    known = [group for group in groups if (group.reference or 0) <= len(references)]
    free = {index: see(picture) for index, picture in enumerate(references, 1)}
    for group in known:
        free.pop(group.reference or 0, None)
    return [group if group.reference else _match(group, free) for group in known] or [
        Group(shape="object", reference=index) for index in free
    ]


def _match(group: Group, free: dict[int, list[Seen]]) -> Group:
    for index, seen in free.items():
        if any(one.shape == group.shape and group.colour in (None, one.colour) for one in seen):
            del free[index]
            return replace(group, reference=index)
    return group


def _decide(group: Group, draw: random.Random) -> Group:
    return replace(group, colour=group.colour or draw.choice(list(COLOURS)))


def _mistake(group: Group, draw: random.Random) -> Group:
    if draw.random() < 0.5:
        return replace(group, count=group.count + 1 if group.count < 7 else 6)
    return replace(group, colour=draw.choice([name for name in COLOURS if name != group.colour]))


def _arrange(groups: list[Group], aspect: float, draw: random.Random) -> list[_Placed]:
    """Tidy places on a grid of cells; the grid gets finer when the picture is too full."""
    spots = [spot for spot in _spots(groups) for _ in range(spot.group.count)]
    spots.sort(key=lambda spot: -EXTENTS[spot.group.size])
    for cells in itertools.count(_CELLS):
        for parity in draw.sample((0, 1), 2):
            placed = _try_to_place(spots, aspect, cells, parity, draw)
            if placed is not None:
                return placed
    raise AssertionError("a grid that is fine enough has room for everything")


def _spots(groups: list[Group]) -> list[_Spot]:
    """The middle of each group: of its half, else side by side in the order of mention.

    People place things so; and as the text then decides the layout, a small model learns it soon.
    """
    columns = 1 if any(group.region for group in groups) else len(groups)
    spots = []
    for index, group in enumerate(groups):
        left, top, right, bottom = _HALVES[group.region]
        across = (2 * (index % columns) + 1) / (2 * columns)
        spots.append(_Spot(group, left + across * (right - left), (top + bottom) / 2))
    return spots


def _try_to_place(
    spots: list[_Spot], aspect: float, cells: int, parity: int, draw: random.Random
) -> list[_Placed] | None:
    """Give every object the free cell (large ones four) nearest to the middle of its group."""
    grid = round(cells * max(aspect, 1)), round(cells * max(1 / aspect, 1))
    free = set(itertools.product(range(grid[0]), range(grid[1])))
    placed: list[_Placed] = []
    for spot in spots:
        block = 2 if EXTENTS[spot.group.size] * cells > 1 else 1
        columns, rows = (range(0, side - block + 1, block) for side in grid)
        ranked = [
            (_rank(spot, corner, block, grid, parity), corner)
            for corner in itertools.product(columns, rows)
            if _cells_of(*corner, block) <= free and _inside(spot.group.region, corner, block, grid)
        ]
        if not ranked:
            return None
        _, corner = min(ranked)
        free -= _cells_of(*corner, block)
        placed.append(_place(spot.group, corner, block, grid, _CELLS / cells, draw))
    return placed


def _rank(
    spot: _Spot, corner: tuple[int, int], block: int, grid: tuple[int, int], parity: int
) -> tuple[bool, float]:
    """Lower is better: cells of one colour of the chessboard first, so that few objects touch.

    Distance sideways counts double: a group grows upwards before it reaches its neighbour.
    """
    x, y = _centre(corner, block, grid)
    distance = 2 * abs(x - spot.x) + abs(y - spot.y)
    return block == 1 and sum(corner) % 2 != parity, round(distance, 6)


def _centre(corner: tuple[int, int], block: int, grid: tuple[int, int]) -> tuple[float, float]:
    return (corner[0] + block / 2) / grid[0], (corner[1] + block / 2) / grid[1]


def _cells_of(column: int, row: int, block: int) -> set[tuple[int, int]]:
    return {(column + x, row + y) for x in range(block) for y in range(block)}


def _inside(region: str | None, corner: tuple[int, int], block: int, grid: tuple[int, int]) -> bool:
    x, y = _centre(corner, block, grid)
    left, top, right, bottom = _HALVES[region]
    return left < x < right and top < y < bottom


def _place(
    group: Group,
    corner: tuple[int, int],
    block: int,
    grid: tuple[int, int],
    scale: float,
    draw: random.Random,
) -> _Placed:
    shorter = min(grid)
    wide, high = ASPECTS.get(group.shape, (1.0, 1.0))
    extent = EXTENTS[group.size] * scale / 2
    jitter = _JITTER * scale
    x, y = _centre(corner, block, grid)
    return _Placed(
        group,
        x=x + draw.uniform(-jitter, jitter) * shorter / grid[0],
        y=y + draw.uniform(-jitter, jitter) * shorter / grid[1],
        half_width=extent * wide * shorter / grid[0],
        half_height=extent * high * shorter / grid[1],
    )


def _draw_shapes(
    placed: list[_Placed], width: int, height: int, background: tuple[int, int, int]
) -> Image.Image:
    """Draw enlarged, then average down, for smooth edges."""
    zoom = 4 if max(width, height) <= 512 else 2 if max(width, height) <= 1536 else 1
    canvas = Image.new("RGB", (width * zoom, height * zoom), background)
    pen = ImageDraw.Draw(canvas)
    for item in placed:
        if item.group.reference is None:
            _draw_one(pen, item, canvas.size, background)
    return canvas.reduce(zoom) if zoom > 1 else canvas


def _draw_one(
    pen: ImageDraw.ImageDraw,
    item: _Placed,
    size: tuple[int, int],
    background: tuple[int, int, int],
) -> None:
    colour = COLOURS[item.group.colour or "black"]
    left, top = (item.x - item.half_width) * size[0], (item.y - item.half_height) * size[1]
    wide, high = 2 * item.half_width * size[0], 2 * item.half_height * size[1]
    corners = outline(item.group.shape)
    if corners is not None:
        pen.polygon([(left + x * wide, top + y * high) for x, y in corners], fill=colour)
        return
    pen.ellipse((left, top, left + wide, top + high), fill=colour)
    if item.group.shape == "ring":
        rim = (1 - RING_HOLE) / 2
        box = (left + rim * wide, top + rim * high)
        pen.ellipse((*box, left + (1 - rim) * wide, top + (1 - rim) * high), fill=background)


def _paste(canvas: Image.Image, item: _Placed, reference: Image.Image) -> None:
    """Cut the main object out of `reference` and fit it into the item's box."""
    piece = cut_out(reference)
    box = (2 * item.half_width * canvas.width, 2 * item.half_height * canvas.height)
    ratio = min(box[0] / piece.width, box[1] / piece.height)
    size = (max(1, round(piece.width * ratio)), max(1, round(piece.height * ratio)))
    piece = piece.resize(size, Image.Resampling.LANCZOS)
    corner = (item.x * canvas.width - size[0] / 2, item.y * canvas.height - size[1] / 2)
    canvas.paste(piece, (round(corner[0]), round(corner[1])), piece)
