"""Makes the kit's items for DPG-Bench: coloured shapes in a long sentence, with questions.

Run as `python -m echo4o.eval.make_dpg_kit FILE`; the same code gives the same bytes.
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from echo4o.records import write_atomic

from .english import article, plural

_SHAPES = ("circle", "square", "triangle", "ring", "cross", "diamond")
_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black")
_PLACES = {"left": "on the left", "right": "on the right"}
_COUNTS = {1: "one", 2: "two", 3: "three"}
_ITEMS = 24


class _Thing(NamedTuple):
    shape: str
    colour: str
    number: int
    place: str

    @property
    def words(self) -> str:
        """Number, colour and name."""
        return f"{_COUNTS[self.number]} {self.colour} {plural(self.shape, self.number)}"


def main(path: Path) -> None:
    """Write the items."""
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in _rows()))


def _rows() -> Iterator[dict[str, Any]]:
    draw = random.Random(20260101)
    for number in range(1, _ITEMS + 1):
        shapes = draw.sample(_SHAPES, 2 + number % 2)
        colours = draw.sample(_COLOURS, len(shapes))
        places = [list(_PLACES)[n % 2] for n in range(len(shapes))]
        things = [
            _Thing(shape, colour, draw.choice(list(_COUNTS)), place)
            for shape, colour, place in zip(shapes, colours, places, strict=True)
        ]
        told = ", and ".join(f"{one.words} {_PLACES[one.place]}" for one in things)
        questions = [row for one in things for row in _questions(one)]
        for place, row in enumerate(questions, start=1):
            row["needs"] = [place - step for step in row["needs"]]
            row["id"] = place
        yield {
            "item_id": f"kit{number:03d}",
            "text": f"A plain picture on a white background with {told}, and nothing else.",
            "questions": questions,
        }


def _questions(one: _Thing) -> Iterator[dict[str, Any]]:
    """Four questions about one kind of thing; `needs` counts back from each."""
    coloured = article(f"{one.colour} {one.shape}")
    many = f"{_COUNTS[one.number]} {one.colour} {plural(one.shape, one.number)}"
    be = "Are" if one.number > 1 else "Is"
    yield {"question": f"Is there a {one.shape}?", "needs": [], "of": "entity - whole"}
    yield {"question": f"Is there {coloured}?", "needs": [1], "of": "attribute - color"}
    yield {"question": f"{be} there {many}?", "needs": [1], "of": "other - count"}
    yield {
        "question": f"Is there {coloured} {_PLACES[one.place]}?",
        "needs": [2],
        "of": "relation - spatial",
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
