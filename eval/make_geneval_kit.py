"""Makes the kit's items for GenEval: four of each tag, in words of our own.

Run as `python -m echo4o.eval.make_geneval_kit FILE`; the same code gives the same bytes.
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from echo4o.records import write_atomic

from .english import article, plural
from .geneval_classes import NAMES
from .geneval_rules import COLOURS, POSITIONS

_EACH = 4
_NUMBERS = {2: "two", 3: "three", 4: "four"}


def main(path: Path) -> None:
    """Write the items."""
    draw = random.Random(20260102)
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in _rows(draw)))


def _rows(draw: random.Random) -> Iterator[dict[str, Any]]:
    for _ in range(_EACH):
        (name,) = _pick(draw, 1)
        yield _row("single_object", [_part(name)], f"Show {article(name)}.")
    for _ in range(_EACH):
        one, other = _pick(draw, 2)
        parts = [_part(one), _part(other)]
        yield _row("two_object", parts, f"Show {article(one)} together with {article(other)}.")
    for _ in range(_EACH):
        (name,), count = _pick(draw, 1), draw.choice(list(_NUMBERS))
        row = _row("counting", [_part(name, count)], f"Show {_NUMBERS[count]} {plural(name, 2)}.")
        yield {**row, "exclude": [_part(name, count + 1)]}
    for _ in range(_EACH):
        (name,), colour = _pick(draw, 1), draw.choice(COLOURS)
        yield _row("colors", [_part(name, color=colour)], f"Show {article(f'{colour} {name}')}.")
    for place in POSITIONS:
        one, other = _pick(draw, 2)
        parts = [_part(one), _part(other, position=[place, 0])]
        yield _row("position", parts, f"Show {article(other)} {place} {article(one)}.")
    for _ in range(_EACH):
        names, colours = _pick(draw, 2), draw.sample(COLOURS, 2)
        parts = [_part(name, color=word) for name, word in zip(names, colours, strict=True)]
        told = " and ".join(
            article(f"{word} {name}") for name, word in zip(names, colours, strict=True)
        )
        yield _row("color_attr", parts, f"Show {told}.")


def _row(tag: str, include: list[dict[str, Any]], prompt: str) -> dict[str, Any]:
    return {"tag": tag, "include": include, "prompt": prompt}


def _part(name: str, count: int = 1, **facts: object) -> dict[str, Any]:
    return {"class": name, "count": count, **facts}


def _pick(draw: random.Random, count: int) -> list[str]:
    """Things of which people say "a" and "two"; nobody, and nothing that comes in pairs."""
    left_out = ("person", "skis", "scissors", "broccoli", "hot dog")
    return draw.sample([name for name in NAMES if name not in left_out], count)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
