"""Instruction-following rows: groups of objects with number, colour, size, place and relation.

Words, kinds and bands stand in composition.toml. Every value is drawn as the one that its class saw
least, so that rare combinations are covered as well as common ones.
"""

import random
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from echo4o.records import JsonValue

from .balance import Balance
from .language import NUMBERS, join
from .objects import Table, Thing, read_table, things, words
from .plan import Entry
from .vocabulary import Deck

BANDS = {"easy": (1, 3), "medium": (3, 5), "hard": (6, 99)}
"""Least and most constrained attributes of a band, as the paper's figure has them."""
_PARTNERS_TRIED = 6


class Kind(NamedTuple):
    """A kind of rows: how many groups, and what is said of each."""

    band: str
    tag: str
    groups: int
    say: frozenset[str]
    weight: int
    relation: bool = False
    most: int = 1

    @property
    def attributes(self) -> int:
        """Number of constrained attributes."""
        return self.groups * len(self.say) + self.relation


@dataclass(frozen=True, slots=True)
class _Group:
    thing: Thing
    count: int
    color: str | None
    size: str | None
    region: str | None

    def fact(self) -> dict[str, JsonValue]:
        named = {"color": self.color, "size": self.size, "region": self.region}
        facts: dict[str, JsonValue] = {"class": self.thing.name, "count": self.count}
        return facts | {name: value for name, value in named.items() if value is not None}


@cache
def table() -> Table:
    """The words of composition.toml."""
    return read_table("composition.toml")


@cache
def kinds() -> tuple[Kind, ...]:
    """The kinds of rows, each in its band.

    Raises:
        ValueError: a kind constrains more or fewer attributes than its band allows.
    """
    found = tuple(Kind(**{**one, "say": frozenset(one["say"])}) for one in table()["kind"])
    for kind in found:
        low, high = BANDS[kind.band]
        if not low <= kind.attributes <= high:
            raise ValueError(f"{kind} has {kind.attributes} attributes, {kind.band} {low}-{high}")
    return found


class CompositionPlanner:
    """Makes rows of a band."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._balance = Balance(draw)
        self._things = Deck(things(), draw)
        self._kinds = {
            band: Deck(
                [kind for kind in kinds() if kind.band == band for _ in range(kind.weight)], draw
            )
            for band in BANDS
        }

    def make(self, category: str) -> Entry:
        """One row of a band; it may repeat an earlier one."""
        kind = self._kinds[category].next()
        groups = self._groups(kind)
        relation = None
        if kind.relation:
            pair = (groups[0].thing.name, groups[1].thing.name)
            relation = self._balance.pick(("relation", pair[0]), list(table()["relations"]))
        instruction = self._sentence(kind, groups, relation)
        background = self._balance.pick("background", table()["backgrounds"])
        return Entry(
            kind="row",
            id="",
            prompt=f"{instruction}. {background}",
            instruction=instruction,
            subset="instruction_following",
            category=category,
            constraints=_constraints(kind, groups, relation),
        )

    def _groups(self, kind: Kind) -> list[_Group]:
        chosen = self._classes(kind.groups)
        regions = self._regions(kind) if "region" in kind.say else []
        sizes = self._sizes(kind) if "size" in kind.say else []
        used: list[str] = []
        groups = []
        for index, thing in enumerate(chosen):
            color = self._color(thing, used) if "color" in kind.say else None
            used.append(color or "")
            groups.append(
                _Group(
                    thing=thing,
                    count=self._count(thing, color, kind),
                    color=color,
                    size=sizes[index] if sizes else None,
                    region=regions[index] if regions else None,
                )
            )
        return groups

    def _classes(self, count: int) -> list[Thing]:
        """Different classes; of a few candidates the one that met the first least often."""
        chosen = [self._things.next()]
        while len(chosen) < count:
            others = self._draw.sample(things(), _PARTNERS_TRIED + count)
            fresh = [one for one in others if one not in chosen]
            chosen.append(self._balance.pick(("partner", chosen[0].name), fresh))
        return chosen

    def _color(self, thing: Thing, used: list[str]) -> str:
        free = [color for color in table()["colors"] if color not in (*used, thing.name)]
        return self._balance.pick(("color", thing.name), free)

    def _count(self, thing: Thing, color: str | None, kind: Kind) -> int:
        if "count" not in kind.say:
            return 1
        # A row that only counts asks for several.
        least = 2 if kind.groups == 1 else 1
        return self._balance.pick(("count", thing.name, color), range(least, kind.most + 1))

    def _sizes(self, kind: Kind) -> list[str]:
        if kind.groups == 1:
            return [self._balance.pick("size", ("small", "large"))]
        first = self._balance.pick("size order", (("small", "large"), ("large", "small")))
        return [first[index % 2] for index in range(kind.groups)]

    def _regions(self, kind: Kind) -> list[str]:
        axes: list[list[str]] = table()["axes"]
        if kind.groups > 2:
            every = [region for axis in axes for region in axis]
            return self._draw.sample(every, kind.groups)
        orders = [tuple(order) for axis in axes for order in (axis, axis[::-1])]
        return list(self._balance.pick("regions", orders))

    def _sentence(self, kind: Kind, groups: list[_Group], relation: str | None) -> str:
        phrases = [self._phrase(kind, group) for group in groups]
        if relation is not None:
            said = self._draw.choice(table()["relations"][relation])
            phrases = [f"{phrases[0]} {said} {phrases[1]}", *phrases[2:]]
        return str(self._draw.choice(table()["frames"])).format(groups=join(phrases))

    def _phrase(self, kind: Kind, group: _Group) -> str:
        noun = group.thing.noun if group.count == 1 else group.thing.plural
        size = group.size and self._draw.choice(table()["sizes"][group.size])
        text = " ".join(word for word in (size, group.color, noun) if word)
        if group.count > 1:
            text = f"{NUMBERS[group.count]} {text}"
        elif "count" in kind.say:
            text = f"{self._draw.choice(table()['one'])} {text}"
        else:
            text = words().article(text)
        if group.region is None:
            return text
        return f"{text} {self._draw.choice(table()['places'][group.region])}"


def _constraints(kind: Kind, groups: list[_Group], relation: str | None) -> dict[str, JsonValue]:
    constraints: dict[str, JsonValue] = {
        "tag": kind.tag,
        "include": [group.fact() for group in groups],
    }
    if kind.tag == "counting":
        constraints["exclude"] = [{"class": groups[0].thing.name, "count": groups[0].count + 1}]
    if relation is not None:
        constraints["relations"] = [{"subject": 0, "relation": relation, "object": 1}]
    return constraints
