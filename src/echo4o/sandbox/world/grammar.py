"""Reads an instruction: which objects, how many, in which colour and size, where.

Understands the English of GenEval++ prompts ("A photo of three red circles on the left and one
small blue square on the right") and references ("the object from image 2 on the right").
"""

import re
from dataclasses import dataclass

from .vocabulary import COLOURS, OBJECTS, SHAPES

NUMBERS = {
    **{"a": 1, "an": 1, "the": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5},
    **{"six": 6, "seven": 7, "eight": 8, "nine": 9},
    **{str(number): number for number in range(1, 10)},
}
SIZE_WORDS = {
    **{"small": "small", "smaller": "small", "tiny": "small", "little": "small"},
    **{"large": "large", "larger": "large", "big": "large", "huge": "large"},
}
REGION_WORDS = {
    **{"left": "left", "right": "right", "top": "above", "above": "above"},
    **{"bottom": "below", "below": "below", "upper": "above", "lower": "below"},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """One kind of object in a scene."""

    shape: str
    count: int = 1
    colour: str | None = None
    size: str | None = None
    region: str | None = None
    reference: int | None = None
    """Number (from 1) of the reference picture whose object is meant."""


def plurals(noun: str) -> tuple[str, ...]:
    """Forms that mean several of `noun`: the right plural, and the naive one of GenEval++."""
    right = noun + ("es" if noun.endswith(("s", "sh", "ch", "x")) else "s")
    return (noun, right, noun + "s")


_NOUNS = {
    form: noun for noun in (*SHAPES, *OBJECTS) for form in sorted(set(plurals(noun)), key=len)
}
_PLACE = r"(?:(?:located |placed |standing )?(?:on|in|at|to) the (?P<region>{regions})\b)?"
_PATTERN = re.compile(
    r"(?:\b(?P<count>{counts}) )?"
    r"(?P<adjectives>(?:(?:{adjectives})(?:-colou?red|-shaped)?,? ){{0,8}})"
    r"(?:(?P<noun>{nouns})\b|object (?:from|of|in) image (?P<reference>\d)\b) ?".format(
        counts="|".join(NUMBERS),
        adjectives="|".join([*COLOURS, *SIZE_WORDS, *SHAPES]),
        nouns="|".join(sorted(map(re.escape, _NOUNS), key=len, reverse=True)),
    )
    + _PLACE.format(regions="|".join(REGION_WORDS))
)


def parse(instruction: str) -> list[Group]:
    """Groups of objects that an instruction names, in its order; empty when it names none."""
    return [_group(match) for match in _PATTERN.finditer(" ".join(instruction.lower().split()))]


def _group(match: re.Match[str]) -> Group:
    words = re.findall(r"[a-z]+", match["adjectives"])
    noun = _NOUNS.get(match["noun"] or "", "object")
    shape, colour = OBJECTS.get(noun, (noun, None))
    for word in words:
        shape = word if word in SHAPES else shape
        colour = word if word in COLOURS else colour
    return Group(
        shape=shape,
        count=NUMBERS.get(match["count"] or "one", 1),
        colour=colour,
        size=next((SIZE_WORDS[word] for word in words if word in SIZE_WORDS), None),
        region=REGION_WORDS.get(match["region"] or ""),
        reference=int(match["reference"]) if match["reference"] else None,
    )
