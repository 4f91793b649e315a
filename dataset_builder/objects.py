"""Common objects with their usual look (objects.toml): what surreal rows deflect and others count.

Plausible rows begin here: nouns carry their article and plural, sizes are real lengths.
"""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from echo4o.records import JsonValue

from . import language

Table = dict[str, Any]
_SKINS = ("fur", "wool", "feathers", "skin", "scales", "spines")


class Group(NamedTuple):
    """What holds for all objects of a group."""

    name: str
    homes: frozenset[str]
    """Kinds of place where such an object is nothing odd."""
    poses: tuple[str, ...]


class Thing(NamedTuple):
    """An object and its regular attributes."""

    name: str
    """Its class, as GenEval++ would call it."""
    noun: str
    """One of it in words, without article."""
    plural: str
    with_article: str
    colors: tuple[str, ...]
    shape: str
    material: str
    length_cm: float
    """Longest side."""
    era: str
    """modern, historic or timeless."""
    group: Group

    @property
    def skin(self) -> str | None:
        """What carries an animal's colour; None where the whole object does."""
        return self.material if self.material in _SKINS else None

    def regular(self) -> dict[str, JsonValue]:
        """The attributes it has when nobody deflects them."""
        return {
            "color": " or ".join(self.colors),
            "shape": self.shape,
            "material": self.material,
            "size_cm": self.length_cm,
        }


class Words(NamedTuple):
    """Irregular words: plural by noun, article by first word."""

    plurals: dict[str, str]
    articles: dict[str, str]

    def article(self, words: str) -> str:
        """`words` with "a" or "an" before them."""
        return language.article(words, self.articles)


@cache
def words() -> Words:
    """The irregular words of objects.toml."""
    table = _table()
    return Words(table["plural"], table["article"])


@cache
def things() -> tuple[Thing, ...]:
    """All objects, in the order of the file."""
    return tuple(
        _thing(name, look, group["era"], _group(group_name, group))
        for group_name, group in _table()["group"].items()
        for name, look in group["objects"].items()
    )


@cache
def by_name() -> dict[str, Thing]:
    """The objects by class."""
    return {thing.name: thing for thing in things()}


@cache
def _table() -> Table:
    return read_table("objects.toml")


def read_table(name: str) -> Table:
    """A data file that lies beside this module."""
    return tomllib.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def _group(name: str, table: Table) -> Group:
    return Group(
        name=name,
        homes=frozenset(table["homes"]),
        poses=tuple(table["poses"]),
    )


def _thing(name: str, look: tuple[str, str, str, float], era: str, group: Group) -> Thing:
    colors, shape, material, length = look
    noun = _table()["noun"].get(name, name)
    return Thing(
        name=name,
        noun=noun,
        plural=language.plural(noun, words().plurals),
        with_article=words().article(noun),
        colors=tuple(colors.split("/")),
        shape=shape,
        material=material,
        length_cm=length,
        era="timeless" if name in _table()["timeless"] else era,
        group=group,
    )
