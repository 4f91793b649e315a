"""Makes the kit's own items for Imagine-Bench's types.

Run `python -m echo4o.eval.make_imagine_kit_items` to write the file again. 90 items, 10 per type
and 20 with several objects, about sixteen everyday things, so that the task runs offline. They
share form and types with the benchmark, not a single item.
"""

import json
import random
from collections.abc import Callable
from itertools import product
from pathlib import Path

from echo4o.records import write_atomic

from .english import article
from .items import Item
from .make_kit_items import COLORS, SHAPES

IMAGINE_KIT_ITEMS = Path(__file__).parent / "items" / "imagine_bench_kit.jsonl"
PER_TYPE = 10
_SEED = 20250814
# Each thing with the colour and shape that it usually has.
_THINGS = {
    "sun": ("yellow", "circle"),
    "apple": ("red", "circle"),
    "tire": ("black", "ring"),
    "donut": ("pink", "ring"),
    "brick": ("red", "bar"),
    "plank": ("orange", "bar"),
    "tent": ("green", "triangle"),
    "traffic cone": ("orange", "triangle"),
    "kite": ("blue", "diamond"),
    "gem": ("purple", "diamond"),
    "window": ("blue", "square"),
    "chalkboard": ("black", "square"),
    "starfish": ("orange", "cross"),
    "clover": ("green", "cross"),
    "candle": ("pink", "pillar"),
    "chimney": ("red", "pillar"),
}
_SIZES = ("huge", "tiny")
_MATERIALS = ("clear glass", "knitted wool", "polished wood", "running water", "folded paper")
_TIMES = ("the Stone Age", "ancient Egypt", "the age of steam", "the far future")
_PLACES = ("on the moon", "deep under the sea", "inside a volcano", "among the clouds")
_Draft = tuple[str, str]


def make() -> list[Item]:
    """Return the items; always the same ones."""
    items: list[Item] = []
    for tag, drafts in _MAKERS.items():
        number = 2 * PER_TYPE if tag == "Multi-Object" else PER_TYPE
        for prompt, note in random.Random(f"{_SEED} {tag}").sample(drafts(), number):
            items.append(Item(number=len(items) + 1, tag=tag, prompt=prompt, note=note))
    return items


def lines() -> list[str]:
    """Return the file's lines."""
    return [json.dumps(item.to_json()) + "\n" for item in make()]


def _color() -> list[_Draft]:
    return [
        (
            f"A photo of {article(f'{color} {thing}')}",
            f"The {thing} is {color} where it usually is {usual}. Its outline stays that of "
            f"{article(thing)}.",
        )
        for (thing, (usual, _)), color in product(_THINGS.items(), COLORS)
        if color != usual
    ]


def _shape() -> list[_Draft]:
    return [
        (
            f"A photo of {article(f'{shape}-shaped {thing}')}",
            f"The {thing} has the outline of {article(shape)}. Its usual color, {color}, stays.",
        )
        for (thing, (color, usual)), shape in product(_THINGS.items(), SHAPES)
        if shape != usual
    ]


def _size() -> list[_Draft]:
    return [
        (
            f"A photo of {article(f'{size} {thing}')}",
            f"The {thing} is {size} beside what is around it. Outline and color stay.",
        )
        for thing, size in product(_THINGS, _SIZES)
    ]


def _material() -> list[_Draft]:
    return [
        (
            f"A photo of {article(thing)} made of {material}",
            f"The {thing} consists of {material}, which shows on its surface. Outline and color "
            "stay.",
        )
        for thing, material in product(_THINGS, _MATERIALS)
    ]


def _combination() -> list[_Draft]:
    return [
        (
            f"A photo of {article(one)} fused with {article(other)}",
            f"Both grow into one thing without a seam. One still knows the {one} and the {other}.",
        )
        for one, other in product(_THINGS, _THINGS)
        if one < other
    ]


def _time() -> list[_Draft]:
    return [
        (
            f"A photo of {article(thing)} from {time}",
            f"The {thing} looks as if {time} had made it. One still knows what it is.",
        )
        for thing, time in product(_THINGS, _TIMES)
    ]


def _environment() -> list[_Draft]:
    return [
        (
            f"A photo of {article(thing)} {place}",
            f"The {thing} is {place}, where it never is. The thing itself stays as it always is.",
        )
        for thing, place in product(_THINGS, _PLACES)
    ]


def _multi_object() -> list[_Draft]:
    return [
        (
            f"A photo of {article(f'{color} {one}')} and {article(f'{shape}-shaped {other}')}",
            f"Two things side by side: the {one} is {color}, the {other} has the outline of "
            f"{article(shape)}. Everything else about both stays.",
        )
        for (one, (usual, _)), color, (other, (_, outline)), shape in product(
            _THINGS.items(), COLORS, _THINGS.items(), SHAPES
        )
        if one != other and color != usual and shape != outline
    ]


_MAKERS: dict[str, Callable[[], list[_Draft]]] = {
    "COLOR": _color,
    "SHAPE": _shape,
    "SIZE": _size,
    "MATERIAL": _material,
    "COMBINATION": _combination,
    "TIME": _time,
    "ENVIRONMENT": _environment,
    "Multi-Object": _multi_object,
}

if __name__ == "__main__":
    write_atomic(IMAGINE_KIT_ITEMS, "".join(lines()))
