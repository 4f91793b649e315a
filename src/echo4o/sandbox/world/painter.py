"""Paints the scene that an instruction describes; references are cut out and pasted in."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw

from .grammar import Group, parse
from .sight import Seen, cut_out, see
from .vocabulary import ASPECTS, BACKGROUNDS, COLOURS, EXTENTS, RING_HOLE, SHAPES, outline

_CELLS = 4
"""Cells along the shorter side: room for one small object each."""
_JITTER = 0.5 / 64
"""How far an object may stand from its cell's middle, as a share of the shorter side."""
_HALVES: dict[str | None, tuple[float, float, float, float]] = {
    **{"left": (0.0, 0.0, 0.5, 1.0), "right": (0.5, 0.0, 1.0, 1.0)},
    **{"above": (0.0, 0.0, 1.0, 0.5), "below": (0.0, 0.5, 1.0, 1.0)},
    None: (0.0, 0.0, 1.0, 1.0),
}


@dataclass(frozen=True, slots=True)
class _Placed:
    """An object with its centre and half size in shares of the picture's sides."""

    group: Group
    x: float
    y: float
    half_width: float
    half_height: float


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
    """
    draw = random.Random(f"{seed}|{instruction}")
    groups = parse(instruction) or _scene_of_chance(draw)
    groups = [_decide(group, draw) for group in _name_references(groups, references)]
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
    """Places on a loose grid of cells; the grid gets finer when the picture is too full."""
    objects = [group for group in groups for _ in range(group.count)]
    objects.sort(key=lambda group: -EXTENTS[group.size])
    cells = _CELLS
    while True:
        for _ in range(16):
            placed = _try_to_place(objects, aspect, cells, draw)
            if placed is not None:
                return placed
        cells += 1


def _try_to_place(
    objects: list[Group], aspect: float, cells: int, draw: random.Random
) -> list[_Placed] | None:
    """Give every object a free cell (large ones four), never two side by side if that works."""
    columns, rows = round(cells * max(aspect, 1)), round(cells * max(1 / aspect, 1))
    free = {(column, row) for column in range(columns) for row in range(rows)}
    parity = draw.randint(0, 1)
    scale = _CELLS / cells
    placed: list[_Placed] = []
    for group in objects:
        block = 2 if EXTENTS[group.size] * cells > 1 else 1
        corners = [
            (column, row)
            for column in range(0, columns - block + 1, block)
            for row in range(0, rows - block + 1, block)
            if _cells_of(column, row, block) <= free
            and _inside(group.region, (column + block / 2) / columns, (row + block / 2) / rows)
        ]
        preferred = [one for one in corners if block == 2 or sum(one) % 2 == parity]
        if not (preferred or corners):
            return None
        corner = draw.choice(preferred or corners)
        free -= _cells_of(*corner, block)
        placed.append(_place(group, corner, block, (columns, rows), scale, draw))
    return placed


def _cells_of(column: int, row: int, block: int) -> set[tuple[int, int]]:
    return {(column + x, row + y) for x in range(block) for y in range(block)}


def _inside(region: str | None, x: float, y: float) -> bool:
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
    return _Placed(
        group,
        x=(corner[0] + block / 2) / grid[0] + draw.uniform(-jitter, jitter) * shorter / grid[0],
        y=(corner[1] + block / 2) / grid[1] + draw.uniform(-jitter, jitter) * shorter / grid[1],
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
