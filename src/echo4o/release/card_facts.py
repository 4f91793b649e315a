"""Whether a card says what its records say, whichever echo4o worded it.

Another version renders other sentences from the same records, so cards of theirs are compared by
what is a fact: metadata, figures, ids, addresses, hashes. Every fact on the card must stand on the
card that this version renders, or in the records themselves; the numbers of one table row must
belong together there, too.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import yaml

from ..manifest import Difference
from ..records import JsonValue

FACT_KEYS = (
    "license",
    "license_name",
    "base_model",
    "datasets",
    "models",
    "model-index",
    "configs",
)
"""Metadata that records decide; the rest (tags, colours, libraries) is the version's own choice."""
_SMALL = 10
"""Bare whole numbers up to here are words of a sentence ("up to 4 pictures")."""
_PLACEHOLDER = "ORG/"
"""Of a card that was rendered before its repo had a name."""
_NUMBER = re.compile(r"(?<![\w.-])(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?![\w]|\.\d)(\s?%)?")
_MARK = re.compile(
    r"https?://[^\s<>()\"'`|]+|\b[0-9a-f]{12,64}\b|\b\d{4}-\d\d-\d\d(?:T[\d:.]+(?:Z|\+[\d:]+)?)?"
    r"|\b\d+(?:\.\d+){2,}\b"
)
"""Addresses, hashes, times and versions: what must be found to the letter."""
_CODE = re.compile(r"(`+)(.+?)\1")
_STRING = re.compile(r"\"([^\"\n]*)\"|'([^'\n]*)'")
_FENCE = re.compile(r"^```\w*\n(.*?)^```", re.M | re.S)


class Number(NamedTuple):
    """A figure as it is printed."""

    value: float
    digits: int
    """After the point."""
    is_share: bool

    def fits(self, exact: float) -> bool:
        """Whether `exact`, rounded as this one is, is the same."""
        printed = 100 * exact if self.is_share else exact
        return abs(printed - self.value) <= 0.5 * 10**-self.digits + 1e-9


@dataclass(kw_only=True)
class _Known:
    """What the records and this version's card say."""

    text: str
    """All of it, to look up what must be found to the letter."""
    numbers: list[float] = field(default_factory=list)
    groups: list[tuple[frozenset[str], list[float]]] = field(default_factory=list)
    """Numbers that belong together: labels, and the numbers of a table row or of an object."""
    labels: set[str] = field(default_factory=set)


def compare_card(found: str, wanted: str, records: Iterable[JsonValue]) -> list[Difference]:
    """Facts of a card that neither the records nor today's rendering have.

    Args:
        found: The published card.
        wanted: What this version renders from the same records.
        records: The decoded records beside the card.
    """
    known = _gather(wanted, list(records))
    differences = list(_matter_differences(found, wanted, known))
    body = _body(found)
    for inner in _FENCE.findall(body):
        differences += _fence_differences(inner, known)
    for line in _FENCE.sub("", body).splitlines():
        differences += _line_differences(line, known)
    return differences


def _gather(wanted: str, records: list[JsonValue]) -> _Known:
    told = "\n".join(_plain(one) for one in records)
    known = _Known(text=f"{wanted}\n{told}")
    for line in _body(wanted).splitlines():
        # A share is kept as one: 38 % says nothing of a seed of 38.
        numbers = [one.value / 100 if one.is_share else one.value for one in _numbers(line)]
        known.numbers += numbers
        if line.startswith("|"):
            labels = frozenset(_cells(line))
            known.groups.append((labels, numbers))
            known.labels |= labels
    for record in records:
        for labels, numbers in _objects(record, frozenset()):
            known.groups.append((labels, numbers))
            known.numbers += numbers
    known.numbers += [one.value for one in _numbers(told)]
    known.labels -= {"", "-"}
    return known


def _matter_differences(found: str, wanted: str, known: _Known) -> Iterator[Difference]:
    have, want = _matter(found), _matter(wanted)
    for key in FACT_KEYS:
        if key not in have:
            continue
        place = f"README.md metadata `{key}`"
        if isinstance(have[key], str | int | float) and have[key] != want.get(key):
            yield Difference(place, str(have[key]), str(want.get(key, "nothing")))
            continue
        for leaf in _leaves(have[key]):
            if isinstance(leaf, int | float) and not isinstance(leaf, bool):
                number = Number(leaf, len(str(leaf).partition(".")[2]), False)
                if not any(number.fits(one) for one in known.numbers):
                    yield Difference(place, str(leaf), "a figure of the records")
            elif isinstance(leaf, str) and _is_name(leaf) and leaf not in known.text:
                yield Difference(place, leaf, "something that the records name")


def _fence_differences(text: str, known: _Known) -> Iterator[Difference]:
    """A snippet is code of the version; what it loads comes from the records."""
    for found in _STRING.finditer(text):
        word = found[1] or found[2] or ""
        if _is_name(word) and word not in known.text:
            yield Difference("README.md snippet", word[:120], "something that the records name")


def _line_differences(line: str, known: _Known) -> Iterator[Difference]:
    place = f"README.md {' '.join(line.split())[:60]!r}"
    rest = line
    for mark in _MARK.findall(line):
        rest = rest.replace(mark, " ")
        if mark.rstrip(".,;:") not in known.text:
            yield Difference(place, mark[:120], "something that the records name")
    is_row = line.startswith("|")
    for _, word in _CODE.findall(rest):
        if (is_row or "/" in word or re.search(r"\d", word)) and word.strip() not in known.text:
            yield Difference(place, word[:120], "something that the records name")
    numbers = [one for one in _numbers(_CODE.sub(" ", rest)) if not _is_word(one)]
    if is_row and len(numbers) > 1:
        labels = frozenset(_cells(line)) & known.labels
        if not any(_fits_all(numbers, labels, group) for group in known.groups):
            told = ", ".join(f"{one.value:g}" for one in numbers)
            yield Difference(place, told[:120], "the numbers of one score or count")
        return
    for one in numbers:
        if not any(one.fits(exact) for exact in known.numbers):
            yield Difference(place, f"{one.value:g}", "a figure of the records")


def _fits_all(
    numbers: list[Number],
    labels: frozenset[str],
    group: tuple[frozenset[str], list[float]],
) -> bool:
    """Whether one row or object has all these numbers, and is that of the row's own labels."""
    names, values = group
    return labels <= names and _is_assigned(numbers, values)


def _is_assigned(numbers: list[Number], values: list[float]) -> bool:
    """Whether each number has a value of its own: the end of an interval is not its middle.

    A matching by augmenting paths: a hostile row of many equal numbers takes no longer.
    """
    taken: dict[int, int] = {}

    def assign(number: int, tried: set[int]) -> bool:
        for place, value in enumerate(values):
            if place in tried or not numbers[number].fits(value):
                continue
            tried.add(place)
            if place not in taken or assign(taken[place], tried):
                taken[place] = number
                return True
        return False

    return all(assign(number, set()) for number in range(len(numbers)))


def _is_name(text: str) -> bool:
    if text.startswith(_PLACEHOLDER):
        return False
    return "/" in text or _MARK.search(text) is not None


def _is_word(number: Number) -> bool:
    return number.digits == 0 and not number.is_share and number.value <= _SMALL


def _numbers(line: str) -> Iterator[Number]:
    for found in _NUMBER.finditer(line):
        whole, part, share = found.groups()
        yield Number(
            float(whole.replace(",", "") + (part or "")), len(part or ".") - 1, share is not None
        )


def _objects(
    value: JsonValue, above: frozenset[str]
) -> Iterator[tuple[frozenset[str], list[float]]]:
    """Each object of a record with numbers: what it is called, and its numbers."""
    if isinstance(value, Mapping):
        texts = {str(one) for one in _leaves(value) if isinstance(one, str) and len(one) < 200}
        names = above | texts
        direct = [float(one) for one in value.values() if isinstance(one, int | float)]
        if direct:
            yield names, direct
        for key, inner in value.items():
            if isinstance(inner, int | float):
                yield above | {str(key)}, [float(inner)]
            yield from _objects(inner, names | {str(key)})
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _objects(inner, above)


def _cells(line: str) -> Iterator[str]:
    """What stands in a table row besides numbers."""
    for cell in re.split(r"(?<!\\)\|", line.strip().strip("|")):
        text = cell.strip().strip("`").replace("\\", "")
        if not _NUMBER.fullmatch(text) and not re.fullmatch(r"[\d\s.,%\[\]-]*", text):
            yield text


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value


def _plain(record: JsonValue) -> str:
    """A record as text in which words and numbers stand as they are."""
    return "\n".join([json.dumps(record, ensure_ascii=False), *map(str, _leaves(record))])


def _matter(card: str) -> Mapping[str, object]:
    parts = card.split("---\n", 2)
    try:
        value = yaml.safe_load(parts[1]) if len(parts) == 3 else None
    except yaml.YAMLError:
        return {}
    return value if isinstance(value, Mapping) else {}


def _body(card: str) -> str:
    return card.split("---\n", 2)[-1]
