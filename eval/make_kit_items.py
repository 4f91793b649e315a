"""Makes the kit's own items for GenEval++ tags: `python -m echo4o.eval.make_kit_items`.

210 items, 30 per tag, over eight plain shapes and eight colours, so that the task runs offline.
They share form and tags with the benchmark, not a single item. No two ask for the same thing.
"""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from echo4o.records import write_atomic

from .english import NUMBER_WORDS, article, join, plural
from .items import Constraint, Item

KIT_ITEMS = Path(__file__).parent / "items" / "geneval_plus_plus_kit.jsonl"
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring", "bar", "pillar")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
PER_TAG = 30
_SEED = 20250812
_SIDES = (("left", "right"), ("above", "below"))
_PLACES = {"left": "left", "right": "right", "above": "top", "below": "bottom"}


def make() -> list[Item]:
    """Return the items; always the same ones."""
    draw = random.Random(_SEED)
    items: list[Item] = []
    keys: set[str] = set()
    for tag, maker in _MAKERS.items():
        fresh = 0
        while fresh < PER_TAG:
            item = maker(draw, fresh, len(items) + 1, tag)
            if item.key not in keys:
                keys.add(item.key)
                items.append(item)
                fresh += 1
    return items


def _color_attr(draw: random.Random, turn: int, number: int, tag: str) -> Item:
    kinds = 1 if turn < 6 else 2 if turn < 26 else 3
    include = tuple(
        Constraint(name=name, color=color)
        for name, color in zip(draw.sample(SHAPES, kinds), draw.sample(COLORS, kinds), strict=True)
    )
    return _item(number, tag, include, [article(f"{part.color} {part.name}") for part in include])


def _counting(draw: random.Random, turn: int, number: int, tag: str) -> Item:
    name, count = draw.choice(SHAPES), turn % 7 + 1
    include = (Constraint(name=name, count=count),)
    exclude = (Constraint(name=name, count=count + 1),)
    return _item(number, tag, include, [_counted(include[0])], exclude)


def _color_count_attr(draw: random.Random, turn: int, number: int, tag: str) -> Item:
    if turn < 8:
        counts = [2]
    elif turn < 12:
        counts = [1, 1]
    else:
        counts = draw.choice(_PAIRS_OF_COUNTS)
    names, colors = draw.sample(SHAPES, len(counts)), draw.sample(COLORS, len(counts))
    include = tuple(
        Constraint(name=name, count=count, color=color)
        for name, count, color in zip(names, counts, colors, strict=True)
    )
    return _item(number, tag, include, [_counted(part) for part in include])


def _color_spatial_attr(draw: random.Random, turn: int, number: int, tag: str) -> Item:
    include = tuple(
        Constraint(name=name, color=color, region=region)
        for name, color, region in zip(
            draw.sample(SHAPES, 2), draw.sample(COLORS, 2), _SIDES[turn % 2], strict=True
        )
    )
    phrases = [f"{article(f'{part.color} {part.name}')} {_place(part)}" for part in include]
    return _item(number, tag, include, phrases)


def _spatial_count_attr(draw: random.Random, turn: int, number: int, tag: str) -> Item:
    counts = [1, 1] if turn < 8 else draw.choice(_PAIRS_OF_COUNTS)
    include = tuple(
        Constraint(name=name, count=count, region=region)
        for name, count, region in zip(
            draw.sample(SHAPES, 2), counts, _SIDES[turn % 2], strict=True
        )
    )
    return _item(number, tag, include, [f"{_counted(part)} {_place(part)}" for part in include])


def _size_spatial_attr(draw: random.Random, turn: int, number: int, tag: str) -> Item:
    sizes = ("large", "small") if turn // 2 % 2 == 0 else ("small", "large")
    include = tuple(
        Constraint(name=name, size=size, region=region)
        for name, size, region in zip(draw.sample(SHAPES, 2), sizes, _SIDES[turn % 2], strict=True)
    )
    phrases = [f"{article(f'{part.size} {part.name}')} {_place(part)}" for part in include]
    return _item(number, tag, include, phrases)


def _multi_object_count_attr(draw: random.Random, turn: int, number: int, tag: str) -> Item:
    counts = draw.choice(_PAIRS_OF_COUNTS if turn < 16 else _TRIPLES_OF_COUNTS)
    include = tuple(
        Constraint(name=name, count=count)
        for name, count in zip(draw.sample(SHAPES, len(counts)), counts, strict=True)
    )
    return _item(number, tag, include, [_counted(part) for part in include])


_PAIRS_OF_COUNTS = [[i, j] for i in (1, 2, 3) for j in (1, 2, 3) if i + j > 2]
_TRIPLES_OF_COUNTS = [[i, j, k] for i in (1, 2) for j in (1, 2) for k in (1, 2)]

_MAKERS: dict[str, Callable[[random.Random, int, int, str], Item]] = {
    "color_attr": _color_attr,
    "counting": _counting,
    "color_count_attr": _color_count_attr,
    "color_spatial_attr": _color_spatial_attr,
    "spatial_count_attr": _spatial_count_attr,
    "size_spatial_attr": _size_spatial_attr,
    "multi_object_count_attr": _multi_object_count_attr,
}


def _counted(part: Constraint) -> str:
    words = (NUMBER_WORDS[part.count], part.color, plural(part.name, part.count))
    return " ".join(word for word in words if word)


def _place(part: Constraint) -> str:
    return f"on the {_PLACES[part.region or '']}"


def _item(
    number: int,
    tag: str,
    include: tuple[Constraint, ...],
    phrases: list[str],
    exclude: tuple[Constraint, ...] = (),
) -> Item:
    prompt = f"A photo of {join(phrases)}"
    return Item(number=number, tag=tag, prompt=prompt, include=include, exclude=exclude)


def lines() -> Iterator[str]:
    """Yield the file's lines."""
    for item in make():
        yield json.dumps(item.to_json()) + "\n"


if __name__ == "__main__":
    write_atomic(KIT_ITEMS, "".join(lines()))
