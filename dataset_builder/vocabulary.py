"""Words of the recipe `shapes`: its table (shapes.toml), its phrases, and balanced drawing."""

import random
import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from echo4o.records import JsonValue

from .language import NUMBERS, article, plural

REGIONS = {"left": "left", "right": "right", "top": "above", "bottom": "below"}
T = TypeVar("T")


class Thing(NamedTuple):
    """How an everyday thing looks, and where it is, when nobody says otherwise."""

    name: str
    shape: str
    color: str
    region: str | None


class Kind(NamedTuple):
    """A kind of instruction-following rows."""

    tag: str
    weight: float
    counts: tuple[tuple[int, ...], ...]
    say: frozenset[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """The words of shapes.toml."""

    shapes: tuple[str, ...]
    colours: tuple[str, ...]
    sizes: tuple[str, ...]
    places: tuple[tuple[str, str], ...]
    things: tuple[Thing, ...]
    kinds: tuple[Kind, ...]
    mix: dict[str, float]
    surreal: dict[str, float]
    set_size: int
    rows_per_set: int
    reference_counts: tuple[int, ...]


@cache
def vocabulary() -> Vocabulary:
    """Read shapes.toml."""
    table = tomllib.loads(Path(__file__).with_name("shapes.toml").read_text(encoding="utf-8"))
    return Vocabulary(
        shapes=tuple(table["shapes"]),
        colours=tuple(table["colours"]),
        sizes=tuple(table["sizes"]),
        places=tuple((one, other) for one, other in table["places"]),
        things=tuple(
            Thing(name, look["shape"], look["color"], look.get("region"))
            for name, look in table["object"].items()
        ),
        kinds=tuple(
            Kind(
                kind["tag"],
                kind["weight"],
                tuple(tuple(counts) for counts in kind["counts"]),
                frozenset(kind["say"]),
            )
            for kind in table["kind"]
        ),
        mix=table["mix"],
        surreal=table["surreal"],
        set_size=table["references"]["set_size"],
        rows_per_set=table["references"]["rows_per_set"],
        reference_counts=tuple(table["references"]["counts"]),
    )


class Deck(Generic[T]):
    """Draws values so that each comes equally often: a shuffled deck, refilled when it is empty."""

    def __init__(self, values: Sequence[T], draw: random.Random) -> None:
        self._values = values
        self._draw = draw
        self._cards: list[T] = []

    def next(self, without: Collection[T] = ()) -> T:
        """The next card that is not in `without`; there must be one in a full deck."""
        for _ in range(2):
            for index in range(len(self._cards) - 1, -1, -1):
                if self._cards[index] not in without:
                    return self._cards.pop(index)
            self._cards = self._draw.sample(self._values, len(self._values)) + self._cards
        raise ValueError(f"the deck has no card besides {without}")

    def several(self, count: int, without: Collection[T] = ()) -> list[T]:
        """`count` different cards."""
        cards: list[T] = []
        for _ in range(count):
            cards.append(self.next([*without, *cards]))
        return cards


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """One kind of object in a scene."""

    shape: str
    count: int = 1
    color: str | None = None
    size: str | None = None
    place: str | None = None

    def constraint(self) -> JsonValue:
        """The group with GenEval++ keys."""
        region = None if self.place is None else REGIONS[self.place]
        facts: dict[str, JsonValue] = {"color": self.color, "region": region, "size": self.size}
        named = {name: value for name, value in facts.items() if value is not None}
        return {"class": self.shape, "count": self.count, **named}

    def phrase(self, *, counted: bool = False) -> str:
        """The group in words: "three red circles on the left", "a small bar"."""
        noun = self.shape if self.count == 1 else plural(self.shape)
        words = " ".join(word for word in (self.size, self.color, noun) if word)
        words = f"{NUMBERS[self.count]} {words}" if counted or self.count > 1 else article(words)
        return words if self.place is None else f"{words} on the {self.place}"


def difficulty(attributes: int) -> str:
    """The paper's band for a number of constrained attributes (1-3, 3-5, 6 or more)."""
    return "easy" if attributes <= 3 else "medium" if attributes <= 5 else "hard"
