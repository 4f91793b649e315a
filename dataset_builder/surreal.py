"""Surreal rows without an LLM: a common object, its regular attributes, one deflection, a sentence.

Section 3 of the paper, with a grammar (surreal.toml) in the place of the language model.
"""

import random
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from echo4o.records import JsonValue

from .balance import Balance
from .objects import Table, Thing, by_name, read_table, things, words
from .plan import Entry
from .vocabulary import Deck

_PARTNERS_TRIED = 12


class Deflection(NamedTuple):
    """What became of one object."""

    thing: Thing
    text: str
    """The object in words: "a glass shark"."""
    deflected: dict[str, JsonValue]
    color: str | None = None


@cache
def grammar() -> Table:
    """The patterns and words of surreal.toml."""
    return read_table("surreal.toml")


class SurrealPlanner:
    """Makes rows of a category; objects, deflections and kinds come equally often."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._balance = Balance(draw)
        self._words = grammar()
        self._kinds = {
            category: Deck([kind for kind, weight in kinds.items() for _ in range(weight)], draw)
            for category, kinds in self._words["categories"].items()
        }
        self._makers: dict[str, Callable[[], Entry]] = {
            "color": self._color,
            "shape": self._shape,
            "size": self._size,
            "material": self._material,
            "combination": self._combination,
            "time": self._time,
            "environment": self._environment,
            "multi_object": self._two,
        }
        self._things: dict[str, Deck[Thing]] = {}

    def make(self, category: str) -> Entry:
        """One row of a category; it may repeat an earlier one."""
        return self._makers[self._kinds[category].next()]()

    def _thing(self, kind: str) -> Thing:
        if kind not in self._things:
            self._things[kind] = Deck(self._eligible(kind), self._draw)
        return self._things[kind].next()

    def _eligible(self, kind: str) -> list[Thing]:
        if kind == "time":
            return [thing for thing in things() if thing.era != "timeless"]
        if kind == "multi_object":
            longest = self._words[kind]["longest_cm"]
            return [thing for thing in things() if thing.length_cm <= longest]
        return list(things())

    def _color(self) -> Entry:
        thing = self._thing("color")
        shade = self._shade(thing)
        patterns = self._words["color"]["patterns"]
        if thing.skin is not None:
            patterns = patterns + self._words["color"]["skin_patterns"]
        shaded = words().article(f"{shade} {thing.noun}")
        text = self._say(patterns, thing, shade=shade, shaded=shaded)
        return _row("color", "attribute_shift", text, thing, {"color": shade}, color=shade)

    def _shape(self) -> Entry:
        thing = self._thing("shape")
        form = self._form(thing)
        text = self._say(self._words["shape"]["patterns"], thing, form=form)
        return _row("shape", "attribute_shift", text, thing, {"shape": form})

    def _size(self) -> Entry:
        thing, table = self._thing("size"), self._words["size"]
        ratio = table["ratio"]
        larger = [one for one in things() if one.length_cm >= ratio * thing.length_cm]
        smaller = [one for one in things() if one.length_cm * ratio <= thing.length_cm]
        is_large = self._draw.random() < 0.5 if larger and smaller else bool(larger)
        other = self._balance.pick("size", self._few(larger if is_large else smaller))
        patterns = table["patterns_large" if is_large else "patterns_small"]
        text = self._say(patterns, thing, other=other.with_article)
        shift: dict[str, JsonValue] = {"size": f"of {other.with_article}"}
        return _row("size", "attribute_shift", text, thing, shift)

    def _material(self) -> Entry:
        thing = self._thing("material")
        stuff = self._stuff(thing)
        text = self._say(self._words["material"]["patterns"], thing, stuff=stuff)
        return _row("material", "hybridization", text, thing, {"material": stuff})

    def _combination(self) -> Entry:
        thing, table = self._thing("combination"), self._words["combination"]
        blocks = [
            one
            for one in things()
            if one.length_cm * table["block_ratio"] <= thing.length_cm
            and one.length_cm <= table["block_cm"]
            and one.group.name in table["block_groups"]
        ]
        if blocks and self._draw.random() < 0.5:
            other = self._balance.pick("built", self._few(blocks))
            text = self._say(table["built"], thing, others=other.plural)
            built: dict[str, JsonValue] = {"built_from": other.plural}
            return _row("combination", "hybridization", text, thing, built)
        donors = [by_name()[name] for name in table["parts"]]
        other = self._balance.pick("donor", [one for one in donors if one.group != thing.group])
        part = self._balance.pick(("part", other.name), table["parts"][other.name])
        borrowed = {"part": part, "other": other.with_article, "other_noun": other.noun}
        text = self._say(table["patterns"], thing, **borrowed)
        shift: dict[str, JsonValue] = {"part": part, "of": other.noun}
        return _row("combination", "hybridization", text, thing, shift)

    def _time(self) -> Entry:
        thing, table = self._thing("time"), self._words["time"]
        wanted = ("past", "antiqued") if thing.era == "modern" else ("future", "upgraded")
        scenes = table[wanted[0]] + table[wanted[1]]
        if thing.length_cm <= table["small_cm"]:
            scenes = scenes + table[f"{wanted[0]}_small"]
        scene = self._balance.pick("time", scenes).format(x=thing.with_article)
        text = self._say(table["patterns"], thing, scene=scene)
        shift: dict[str, JsonValue] = {"time": scene}
        return _row("time", "spatiotemporal", text, thing, shift, era=thing.era)

    def _environment(self) -> Entry:
        thing, table = self._thing("environment"), self._words["environment"]
        strange = [
            place for place, homes in table["places"].items() if thing.group.homes.isdisjoint(homes)
        ]
        place = self._balance.pick("environment", strange)
        pose = self._draw.choice(thing.group.poses)
        text = self._say(table["patterns"], thing, place=place, pose=pose)
        homes: list[JsonValue] = [*sorted(thing.group.homes)]
        shift: dict[str, JsonValue] = {"environment": place}
        return _row("environment", "spatiotemporal", text, thing, shift, environment=homes)

    def _two(self) -> Entry:
        table = self._words["multi_object"]
        first = self._thing("multi_object")
        ratio = table["ratio"]
        alike = [
            one
            for one in self._eligible("multi_object")
            if one.group != first.group
            and first.length_cm / ratio <= one.length_cm <= first.length_cm * ratio
        ]
        second = self._balance.pick("partner", self._few(alike))
        deflect = self._balance.pick(
            "multi_object", (self._colored, self._made_of, self._shaped, self._sized)
        )
        one, other = deflect(first, True), deflect(second, False)
        setting = self._balance.pick("setting", table["settings"])
        pattern = self._draw.choice(table["patterns"])
        text = _sentence(pattern.format(a=one.text, b=other.text, setting=setting))
        return _pair(text, one, other)

    def _colored(self, thing: Thing, is_first: bool) -> Deflection:
        shade = self._shade(thing)
        text = words().article(f"{shade} {thing.noun}")
        return Deflection(thing, text, {"color": shade}, shade)

    def _made_of(self, thing: Thing, is_first: bool) -> Deflection:
        stuff = self._stuff(thing)
        return Deflection(thing, f"{thing.with_article} made of {stuff}", {"material": stuff})

    def _shaped(self, thing: Thing, is_first: bool) -> Deflection:
        form = self._form(thing)
        return Deflection(thing, f"{thing.with_article} {form}", {"shape": form})

    def _sized(self, thing: Thing, is_first: bool) -> Deflection:
        # Opposite sizes show: the longer of the two is tiny beside the shorter one.
        size = "gigantic" if is_first else "tiny"
        return Deflection(thing, f"a {size} {thing.noun}", {"size": size})

    def _shade(self, thing: Thing) -> str:
        shades = self._words["color"]["shades"]
        strange = [shade for shade, family in shades.items() if family not in thing.colors]
        return self._balance.pick("shade", strange)

    def _form(self, thing: Thing) -> str:
        forms = self._words["shape"]["forms"]
        strange = [form for form, usual in forms.items() if thing.shape not in usual]
        return self._balance.pick("form", strange)

    def _stuff(self, thing: Thing) -> str:
        stuffs = self._words["material"]["stuffs"]
        strange = [stuff for stuff, usual in stuffs.items() if thing.material not in usual]
        return self._balance.pick("stuff", strange)

    def _few(self, candidates: list[Thing]) -> list[Thing]:
        """A handful of partners: the least used of all would come in the same order each round."""
        return self._draw.sample(candidates, min(_PARTNERS_TRIED, len(candidates)))

    def _say(self, patterns: list[str], thing: Thing, **facts: str) -> str:
        pattern = self._draw.choice(patterns)
        named = {"x": thing.with_article, "noun": thing.noun, "skin": thing.skin or ""}
        return _sentence(pattern.format(**named, **facts))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _row(
    kind: str,
    category: str,
    text: str,
    thing: Thing,
    deflected: dict[str, JsonValue],
    *,
    color: str | None = None,
    **more: JsonValue,
) -> Entry:
    include: dict[str, JsonValue] = {"class": thing.name, "count": 1}
    if color is not None:
        include["color"] = color
    return _entry(
        text,
        category,
        {
            "tag": kind,
            "include": [include],
            "object": thing.name,
            "regular": thing.regular() | more,
            "deflected": deflected,
        },
    )


def _pair(text: str, one: Deflection, other: Deflection) -> Entry:
    include: list[JsonValue] = []
    for part in (one, other):
        fact: dict[str, JsonValue] = {"class": part.thing.name, "count": 1}
        include.append(fact if part.color is None else fact | {"color": part.color})
    return _entry(
        text,
        "multi_object",
        {
            "tag": "multi_object",
            "include": include,
            "object": f"{one.thing.name} and {other.thing.name}",
            "regular": {part.thing.name: part.thing.regular() for part in (one, other)},
            "deflected": {part.thing.name: part.deflected for part in (one, other)},
        },
    )


def _entry(text: str, category: str, constraints: dict[str, JsonValue]) -> Entry:
    return Entry(
        kind="row",
        id="",
        prompt=text,
        instruction=text,
        subset="surreal_fantasy",
        category=category,
        constraints=constraints,
    )
