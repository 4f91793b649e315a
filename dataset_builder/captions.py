"""Which combinations of facts real captions hold, and how many of their rare ones a dataset covers.

The paper's argument for synthetic data: what is rare in captions of the web (a purple dog, seven
forks) can be made as often as what is common.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from echo4o.errors import Echo4oError
from echo4o.records import JsonValue

from .language import NUMBERS, plural
from .objects import by_name, words

PAIRS = (("class", "color"), ("class", "count"))
_RARE = 1
"""Combinations that captions hold this often or less are rare."""
_WORD = re.compile(r"[a-z]+|\d+")
_MOST_WORDS = 200
_NUMBER = {word: str(number) for number, word in enumerate(NUMBERS) if number}
_NUMBER |= {number: number for number in _NUMBER.values()}


def read_captions(path: Path) -> Iterator[str]:
    """Captions of a file: one a line, or JSON lines with `caption` (or `text`).

    Raises:
        Echo4oError: the file cannot be read, or a line is none of both.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _caption(path, number, line)
    except OSError as error:
        raise Echo4oError(f"--captions: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Echo4oError(f"--captions: {path} is not UTF-8 text") from None


def _caption(path: Path, number: int, line: str) -> str:
    if not line.lstrip().startswith("{"):
        return line
    try:
        said = json.loads(line)
    except ValueError:
        said = {}
    text = said.get("caption", said.get("text"))
    if not isinstance(text, str):
        raise Echo4oError(
            f"--captions: {path} line {number} has no text `caption`; give one caption a line, or "
            "JSON lines"
        )
    return text


class Combinations:
    """How often classes occur with colours and with numbers."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], Counter[tuple[str, str]]] = {
            pair: Counter() for pair in PAIRS
        }

    def add(self, groups: Iterable[Mapping[str, object]]) -> None:
        """Count the groups of objects of one row."""
        for group in groups:
            for pair, counts in self.counts.items():
                values = [group.get(name) for name in pair]
                if all(value is not None for value in values):
                    counts[str(values[0]).lower(), str(values[1]).lower()] += 1

    def to_dict(self) -> dict[str, JsonValue]:
        """Of all combinations of the values that occur: how many occur, and how often."""
        told: dict[str, JsonValue] = {}
        for pair, counts in self.counts.items():
            if counts:
                ordered = sorted(counts.values())
                told[" x ".join(pair)] = {
                    "possible": len(_possible(counts)),
                    "covered": len(counts),
                    "median": ordered[len(ordered) // 2],
                    "most": ordered[-1],
                }
        return told

    def against(self, captions: Iterable[str]) -> dict[str, JsonValue]:
        """What of this captions rarely or never hold, and how much of that is covered here."""
        said, read = self._in_captions(captions)
        told: dict[str, JsonValue] = {"captions": read, "rare_means_at_most": _RARE}
        for pair, counts in self.counts.items():
            possible = _possible(counts)
            rare = {one for one in possible if said[pair][one] <= _RARE}
            if possible:
                told[" x ".join(pair)] = {
                    "possible": len(possible),
                    "in_captions": sum(one in said[pair] for one in possible),
                    "rare_in_captions": len(rare),
                    "rare_covered": sum(one in counts for one in rare),
                    "share_of_rare_covered": _share(sum(one in counts for one in rare), len(rare)),
                }
        return told

    def _in_captions(
        self, captions: Iterable[str]
    ) -> tuple[dict[tuple[str, str], Counter[tuple[str, str]]], int]:
        classes = {name for counts in self.counts.values() for name, _ in counts}
        forms = {tuple(_WORD.findall(form)): name for name in classes for form in _forms(name)}
        longest = max(map(len, forms), default=1)
        values = [{value for _, value in self.counts[pair]} for pair in PAIRS]
        said: dict[tuple[str, str], Counter[tuple[str, str]]] = {p: Counter() for p in PAIRS}
        read = 0
        for caption in captions:
            read += 1
            heard = _WORD.findall(caption.lower())[:_MOST_WORDS]
            for before, name in _nouns(heard, forms, longest):
                numbers = [_NUMBER[word] for word in before if word in _NUMBER]
                if not numbers and {"a", "an"} & set(before):
                    numbers = ["1"]
                for pair, allowed, heard_of in zip(PAIRS, values, (before, numbers), strict=True):
                    said[pair].update((name, value) for value in heard_of if value in allowed)
        return said, read


def _nouns(
    heard: list[str], forms: Mapping[tuple[str, ...], str], longest: int
) -> Iterator[tuple[list[str], str]]:
    """Class of every noun, the longest that fits, and the words since the last, at most 3."""
    place = free = 0
    while place < len(heard):
        for length in range(min(longest, len(heard) - place), 0, -1):
            name = forms.get(tuple(heard[place : place + length]))
            if name is not None:
                yield heard[max(free, place - 3) : place], name
                place += length - 1
                free = place + 1
                break
        place += 1


def _forms(name: str) -> set[str]:
    thing = by_name().get(name)
    more = {thing.noun.lower(), thing.plural.lower()} if thing else set()
    return {name, plural(name, words().plurals), *more}


def _possible(counts: Counter[tuple[str, str]]) -> set[tuple[str, str]]:
    firsts, seconds = {one for one, _ in counts}, {one for _, one in counts}
    return {(first, second) for first in firsts for second in seconds}


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
