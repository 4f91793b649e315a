"""Multi-reference rows: two to four references put together, asked for by number, trained by name.

References come from a pool of given pictures (reference_pool.py) or are planned as pictures to be
made. Words and acts stand in references.toml.
"""

import random
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from echo4o.errors import Echo4oError
from echo4o.records import JsonValue
from echo4o.schema import MAX_REFERENCES

from .balance import Balance
from .composition import table as composition_table
from .objects import Table, read_table, things, words
from .plan import Entry
from .vocabulary import Deck

KINDS = {"h": "human", "o": "object", "s": "scene"}
ReferenceSet = dict[str, list[Entry]]
"""References that may meet in a row, by kind."""


class _Act(NamedTuple):
    needs: str
    ask: str
    say: tuple[str, ...]


@cache
def table() -> Table:
    """The words of references.toml."""
    return read_table("references.toml")


@cache
def _acts() -> dict[str, list[_Act]]:
    found: dict[str, list[_Act]] = {}
    for act in table()["act"]:
        if len(act["needs"]) > MAX_REFERENCES:
            raise ValueError(f"an act needs {act['needs']!r}, more than {MAX_REFERENCES}")
        found.setdefault(act["needs"], []).append(_Act(act["needs"], act["ask"], tuple(act["say"])))
    return found


class MultiReferencePlanner:
    """Makes rows of a category from sets of references, so many rows from each."""

    def __init__(self, draw: random.Random, sets: Sequence[ReferenceSet], rows: int) -> None:
        """`rows` is how many rows will be asked for in all."""
        self._draw = draw
        self._balance = Balance(draw)
        self._sets = sets
        self._per_set = -(-rows // len(sets)) if sets else 0
        self._made = 0
        self._needs = {
            category: Deck([one for one, weight in needs.items() for _ in range(weight)], draw)
            for category, needs in table()["categories"].items()
        }

    def took(self) -> None:
        """A row was taken; after so many the next set of references comes."""
        self._made += 1

    def make(self, category: str) -> Entry:
        """One row of a category; it may repeat an earlier one."""
        pool = self._sets[min(self._made // self._per_set, len(self._sets) - 1)]
        needs = self._needs[category].next()
        act: _Act = self._balance.pick(needs, _acts()[needs])
        chosen = self._choose(pool, needs)
        by_number = [
            f"the {table()['unnamed'][one.category]} from image {number}"
            for number, one in enumerate(chosen, 1)
        ]
        wording = self._balance.pick(act.ask, act.say)
        return Entry(
            kind="row",
            id="",
            prompt=_fill(act.ask, by_number),
            instruction=_fill(wording, _names(chosen)),
            subset="multi_reference",
            category=category,
            constraints=_constraints(needs, chosen),
            references=tuple(one.id for one in chosen),
        )

    def _choose(self, pool: ReferenceSet, needs: str) -> list[Entry]:
        drawn = {
            letter: iter(self._draw.sample(pool[kind], needs.count(letter)))
            for letter, kind in KINDS.items()
        }
        return [next(drawn[letter]) for letter in needs]


def _fill(pattern: str, names: Sequence[str]) -> str:
    text = pattern.format(**dict(zip("abcd", names, strict=False)))
    return text[0].upper() + text[1:]


def _names(chosen: Sequence[Entry]) -> list[str]:
    """What each reference is called; where two have the same name, all of them in full."""
    short = [str(one.constraints.get("name") or "") for one in chosen]
    if len(set(short)) == len(short) and all(short):
        return [f"the {name}" for name in short]
    full = [str(one.constraints.get("label") or "") for one in chosen]
    if len(set(full)) == len(full) and all(full):
        return [f"the {name}" for name in full]
    return _numbered(chosen)


_ORDINALS = ("first", "second", "third", "fourth")


def _numbered(chosen: Sequence[Entry]) -> list[str]:
    """Names for references that nobody described: "the first person", "the place"."""
    kinds = [one.category for one in chosen]
    names = []
    for index, kind in enumerate(kinds):
        noun = table()["unnamed"][kind]
        is_only = kinds.count(kind) == 1
        names.append(f"the {'' if is_only else _ORDINALS[kinds[:index].count(kind)] + ' '}{noun}")
    return names


def _constraints(needs: str, chosen: Sequence[Entry]) -> dict[str, JsonValue]:
    """Named references as objects to be found; what is not named cannot be asked for by class."""
    include: list[JsonValue] = [
        {"class": str(one.constraints["label"]), "count": 1}
        for one in chosen
        if one.category != "scene" and one.constraints.get("label")
    ]
    scenes: list[JsonValue] = [
        one.constraints.get("label") for one in chosen if one.category == "scene"
    ]
    constraints: dict[str, JsonValue] = {"tag": needs, "include": include}
    return constraints | {"scenes": scenes} if scenes else constraints


def sets_of_pool(pool: Sequence[Entry], rows: int, draw: random.Random) -> list[ReferenceSet]:
    """Deal a pool of pictures into sets that share nothing.

    Raises:
        Echo4oError: there are too few pictures of some kind for a single set.
    """
    by_kind: ReferenceSet = {kind: [] for kind in KINDS.values()}
    for entry in pool:
        by_kind[entry.category].append(entry)
    least = {kind: max(n.count(letter) for n in _acts()) for letter, kind in KINDS.items()}
    for kind, count in least.items():
        if len(by_kind[kind]) < count:
            raise Echo4oError(
                f"the reference pool has {len(by_kind[kind])} {kind} pictures, and rows need "
                f"{count} different ones; add some"
            )
    wanted = -(-rows // table()["sets"]["rows"])
    count = max(1, min(wanted, *(len(by_kind[kind]) // n for kind, n in least.items())))
    for entries in by_kind.values():
        draw.shuffle(entries)
    return [
        {kind: entries[index::count] for kind, entries in by_kind.items()} for index in range(count)
    ]


def sets_to_make(rows: int, draw: random.Random) -> list[ReferenceSet]:
    """References to be made for so many rows, all different."""
    sizes = table()["sets"]
    count = -(-rows // sizes["rows"])
    made = {
        kind: draw.sample(labels(), sizes[kind] * count)
        for kind, labels in (("human", _humans), ("object", _objects), ("scene", _scenes))
    }
    return [
        {
            kind: [
                _to_make(f"{kind}-{number:06d}", kind, *made[kind][number])
                for number in range(index * sizes[kind], (index + 1) * sizes[kind])
            ]
            for kind in KINDS.values()
        }
        for index in range(count)
    ]


def _to_make(identity: str, kind: str, name: str, label: str) -> Entry:
    text = table()[kind]["prompt"].format(label=words().article(label))
    return Entry(
        kind="reference",
        id=f"reference-{identity}",
        prompt=text,
        instruction=text,
        subset="multi_reference",
        category=kind,
        constraints={"include": [{"class": label, "count": 1}], "name": name, "label": label},
    )


@cache
def _humans() -> list[tuple[str, str]]:
    """(name, label) of people that can be asked for."""
    look, colors = table()["human"], composition_table()["colors"]
    return [
        (who, f"{who} with {hair} in {words().article(f'{color} {garment}')}")
        for who in look["who"]
        for hair in look["hair"]
        for garment in look["garments"]
        for color in colors
    ]


@cache
def _objects() -> list[tuple[str, str]]:
    look, colors = table()["object"], composition_table()["colors"]
    return [
        (thing.noun, f"{finish} {color} {thing.noun}".strip())
        for thing in things()
        if thing.length_cm <= look["longest_cm"]
        for finish in look["finishes"]
        for color in colors
        if color != thing.name
    ]


@cache
def _scenes() -> list[tuple[str, str]]:
    look = table()["scene"]
    return [
        (place, f"{view}{place} {light}")
        for side in (look["outdoors"], look["indoors"])
        for place in side["places"]
        for view in look["views"]
        for light in side["lights"]
    ]
