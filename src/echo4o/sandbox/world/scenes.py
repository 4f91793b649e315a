"""Scenes of chance: instructions with their constraints, for training the tiny autoencoder."""

import random
from typing import Any

from .grammar import NUMBERS, plurals
from .vocabulary import COLOURS, SHAPES

_WORDS = {number: word for word, number in reversed(NUMBERS.items()) if len(word) > 2}
_WORDS |= {1: "one"}
_SIDES = (("left", "right"), ("top", "bottom"))
_REGIONS = {"top": "above", "bottom": "below"}


def random_scene(draw: random.Random) -> tuple[str, list[dict[str, Any]]]:
    """An instruction in the world's English and its GenEval++ `include` list."""
    kinds = draw.choice((1, 1, 2, 2, 3))
    sides = draw.choice(_SIDES) if kinds == 2 and draw.random() < 0.5 else None
    phrases, include = [], []
    for index, shape in enumerate(draw.sample(SHAPES, kinds)):
        count = draw.randint(1, (7, 3, 2)[kinds - 1])
        size = draw.choice((None, "small", "large")) if count == 1 else None
        colour = draw.choice(list(COLOURS))
        line: dict[str, Any] = {"class": shape, "count": count, "color": colour}
        noun = plurals(shape)[1] if count > 1 else shape
        words = [_WORDS[count], size or "", colour, noun]
        if size:
            line["size"] = size
        if sides:
            line["region"] = _REGIONS.get(sides[index], sides[index])
            words += ["on the", sides[index]]
        phrases.append(" ".join(word for word in words if word))
        include.append(line)
    return "A photo of " + " and ".join(phrases), include
