"""Reads what a judge is asked: expectation lines, score names, the instruction under question.

Only questions are read here. Answers come from pixels (judge.py); words in a prompt that claim
something about the picture, or ask for marks, are never looked at.
"""

import re
from dataclasses import dataclass
from typing import Any

from . import world
from .world.grammar import REGION_WORDS, SIZE_WORDS

Line = dict[str, Any]

_INCLUDE = re.compile(
    r"^(?:[-*]|\d+[.)])\s+(?:(?P<colour>[a-z]+)-colou?red )?"
    r"(?:(?P<size>small|large|smaller|larger|tiny|big|huge) )?(?P<count>\d+) (?P<noun>.+?) "
    r"(?:located in the (?P<region>[a-z]+) part of the image|present in the image)\.?$",
    re.IGNORECASE,
)
_EXCLUDE = re.compile(
    r"^(?:[-*]|\d+[.)])\s+No more than (?P<count>\d+) (?P<noun>.+?) should appear\.?$",
    re.IGNORECASE,
)
_KIT = re.compile(
    r"^(?:[-*]|\d+[.)])\s+(?P<kind>exactly|fewer than) (?P<count>\d+) "
    r"(?:(?P<size>small|large|smaller|larger|tiny|big|huge) )?"
    rf"(?:(?P<colour>{'|'.join(world.COLOURS)}) )?(?P<noun>[^,]+?)"
    r"(?:, in the (?P<region>left|right|upper|lower) half)?\.?$",
    re.IGNORECASE,
)
_KIT_SURPLUS = re.compile(r"^(?:[-*]|\d+[.)])\s+no objects besides these\.?$", re.IGNORECASE)
_DEFLECTED = re.compile(
    r"^(?:[-*]|\d+[.)])\s+the (?P<noun>[a-z ]+): (?P<facts>(?:color|shape|region) [a-z]+"
    r"(?:, (?:color|shape|region) [a-z]+)*)\.?$"
)
_HALVES = {"upper": "above", "lower": "below"}
_BULLET = re.compile(r"^(?:[-*]|\d+[.)])\s+\S")
_HEADER = re.compile(
    r"(checklist|expectations?|should contain|check each line)\b.*:$", re.IGNORECASE
)
_SCORE_LINE = re.compile(
    r"^\W*(?P<name>[A-Z][A-Za-z]*(?: [A-Z][A-Za-z]*)*)\W*:\W*<\s*score\s*>", re.MULTILINE
)
_INSTRUCTION = re.compile(
    r"^\W*(?:editing instruction|instruction|prompt|what was asked)\W*:\s*(?P<text>.*?)\s*"
    r"(?=^\W*[A-Z][A-Za-z ]*:|\n\s*\n|\Z)",
    re.IGNORECASE | re.MULTILINE | re.DOTALL,
)
_QUESTION = re.compile(
    r"(?P<text>\b(?:is|are|does|do|can|has|have) (?:there|the|you|this|it)?\b[^?\n]*)\?",
    re.IGNORECASE,
)
_HOW_MANY = re.compile(r"how many (?P<text>[^?\n]+?)(?: are| is| do| can|\?|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Expectation:
    """One line that the picture is held against."""

    text: str
    """The line as it was asked, without its bullet."""
    include: Line | None = None
    exclude: Line | None = None
    is_surplus: bool = False
    """Whether the line asks that nothing but the included objects is there."""
    somewhere: Line | None = None
    """One such object must be there, however many others are."""

    @property
    def is_understood(self) -> bool:
        """False for a line in no form we know; such a line is never satisfied."""
        known = (self.include, self.exclude, self.somewhere)
        return self.is_surplus or any(line is not None for line in known)


def read_expectations(text: str) -> list[Expectation]:
    """Expectation lines in the form of GenEval++ or of the kit protocol, in order.

    Below a header such as "Expectation checklist:" every bullet is an expectation, also one that is
    not understood; elsewhere only lines in the form of GenEval++ are.
    """
    found = []
    in_list = False
    for raw in text.splitlines():
        line = raw.strip()
        if _HEADER.search(line):
            in_list = True
        elif not line:
            continue
        elif expectation := _read_line(line) or (_read_kit_line(line) if in_list else None):
            found.append(expectation)
        elif in_list and _BULLET.match(line):
            found.append(Expectation(_strip_bullet(line)))
        else:
            in_list = False
    return found


def _read_line(line: str) -> Expectation | None:
    match = _EXCLUDE.match(line)
    if match is not None:
        limit = {"class": match["noun"].lower(), "count": int(match["count"]) + 1}
        return Expectation(_strip_bullet(line), exclude=limit)
    match = _INCLUDE.match(line)
    if match is None:
        return None
    include: Line = {"class": match["noun"].lower(), "count": int(match["count"])}
    if match["colour"]:
        include["color"] = match["colour"].lower()
    if match["size"]:
        size = match["size"].lower()
        include["size"] = size if size in ("larger", "smaller") else SIZE_WORDS[size]
    if match["region"]:
        region = match["region"].lower()
        include["region"] = REGION_WORDS.get(region, region)
        if region not in REGION_WORDS:
            return Expectation(_strip_bullet(line))
    return Expectation(_strip_bullet(line), include=include)


def _read_kit_line(line: str) -> Expectation | None:
    text = _strip_bullet(line)
    if _KIT_SURPLUS.match(line):
        return Expectation(text, is_surplus=True)
    match = _KIT.match(line)
    if match is None:
        return _read_deflected(line)
    asked: Line = {"class": match["noun"].lower(), "count": int(match["count"])}
    if match["colour"]:
        asked["color"] = match["colour"].lower()
    if match["size"]:
        size = match["size"].lower()
        asked["size"] = SIZE_WORDS.get(size, size)
    if match["region"]:
        side = match["region"].lower()
        asked["region"] = _HALVES.get(side, side)
    if match["kind"].lower() == "exactly":
        return Expectation(text, include=asked)
    # Limits are held against all objects of a kind and colour; one by size or place is not known.
    return Expectation(text, exclude=None if {"size", "region"} & set(asked) else asked)


def _read_deflected(line: str) -> Expectation | None:
    """A thing that looks as ever but for what is said: "the kite: color pink"."""
    match = _DEFLECTED.match(line)
    if match is None or match["noun"] not in world.OBJECTS:
        return None
    shape, colour = world.OBJECTS[match["noun"]]
    said = dict(fact.split(" ") for fact in match["facts"].split(", "))
    wanted: Line = {"class": said.get("shape", shape), "color": said.get("color", colour)}
    if "region" in said:
        wanted["region"] = said["region"]
    return Expectation(_strip_bullet(line), somewhere=wanted)


def _strip_bullet(line: str) -> str:
    return re.sub(r"^(?:[-*]|\d+[.)])\s+", "", line)


def read_score_names(text: str) -> list[str]:
    """Names of the scores a reply must give as lines ("Aesthetic Quality: <score>"), in order."""
    names: list[str] = []
    for match in _SCORE_LINE.finditer(text):
        if match["name"] not in names:
            names.append(match["name"])
    return names


def read_instruction(text: str) -> str | None:
    """The instruction that a picture is said to follow; the last one that is given."""
    found = [match["text"].strip().strip('"') for match in _INSTRUCTION.finditer(text)]
    found = [one for one in found if one and not one.startswith("[")]
    return found[-1] if found else None


def read_yes_no(text: str) -> str | None:
    """What a yes-or-no question asks about, None when there is no such question."""
    found = [match["text"] for match in _QUESTION.finditer(text)]
    return found[-1] if found else None


def read_questions(text: str) -> list[str]:
    """The yes-or-no questions of a numbered list, in order."""
    lines = (line for line in text.splitlines() if re.match(r"\d+[.)]\s+\S", line))
    return [asked for line in lines if (asked := read_yes_no(line)) is not None]


def read_how_many(text: str) -> str | None:
    """What is to be counted, None when nothing is."""
    match = _HOW_MANY.search(text)
    return None if match is None else match["text"]


def constraints_of(groups: list[world.Group]) -> list[Line]:
    """GenEval++ constraints of what an instruction names."""
    lines = []
    for group in groups:
        line: Line = {"class": group.shape, "count": group.count}
        for key, value in (("color", group.colour), ("size", group.size), ("region", group.region)):
            if value is not None:
                line[key] = value
        lines.append(line)
    return lines
