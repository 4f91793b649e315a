"""The recipe `shapes`: rows of a small world of shapes and colours, in all three subsets.

It plans what the rehearsal generates and learns. Words and weights stand in shapes.toml.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from echo4o.errors import Echo4oError
from echo4o.records import JsonValue

from .decontaminate import Blocklist
from .language import article, join
from .plan import Entry, Plan, Repeats, quotas
from .vocabulary import REGIONS, Deck, Group, Kind, Thing, difficulty, vocabulary

NAME = "shapes"
_ATTEMPTS = 1_000
_FRESH_ATTEMPTS = 20
Maker = Callable[[], Entry]


def plan_shapes(
    *, rows: int, seed: int, mix: dict[str, float] | None = None, block: Blocklist | None = None
) -> Plan:
    """Plan `rows` rows; the same arguments always give the same plan.

    Raises:
        Echo4oError: everything of some kind is blocked.
        ValueError: `rows` is less than 1, or the mix makes no sense.
    """
    if rows < 1:
        raise ValueError(f"`rows` must be at least 1, got {rows}")
    painter = _Planner(random.Random(seed), Blocklist() if block is None else block)
    counts = quotas(rows, vocabulary().mix if mix is None else mix)
    entries = painter.instruction_following(counts.get("instruction_following", 0))
    entries += painter.surreal_fantasy(counts.get("surreal_fantasy", 0))
    entries += painter.multi_reference(counts.get("multi_reference", 0))
    random.Random(f"order {seed}").shuffle(entries)
    both = (*painter.references, *entries)
    # Counted together: a reference must not be the very picture that some row has for its target.
    repeats = Repeats()
    numbered = [replace(entry, repeat=repeats.take(entry)) for entry in both]
    count = len(painter.references)
    return Plan(
        recipe=NAME,
        seed=seed,
        references=tuple(numbered[:count]),
        rows=tuple(_named(numbered[count:])),
    )


def _named(rows: list[Entry]) -> list[Entry]:
    """Rows with ids: subset and running number."""
    seen: Counter[str] = Counter()
    named = []
    for row in rows:
        named.append(replace(row, id=f"{row.subset}-{seen[row.subset]:06d}"))
        seen[row.subset] += 1
    return named


class _Planner:
    """Draws entries from balanced decks; blocked ones are drawn again."""

    def __init__(self, draw: random.Random, block: Blocklist) -> None:
        self._draw = draw
        self._block = block
        self._words = vocabulary()
        self._shapes = Deck(self._words.shapes, draw)
        self._colours = Deck(self._words.colours, draw)
        self._places = Deck(self._words.places, draw)
        self._things = Deck(self._words.things, draw)
        self._used: set[str] = set()
        self.references: list[Entry] = []

    def instruction_following(self, count: int) -> list[Entry]:
        kinds = {str(index): kind for index, kind in enumerate(self._words.kinds)}
        shares = quotas(count, {name: kind.weight for name, kind in kinds.items()})
        entries: list[Entry] = []
        for name, kind in kinds.items():
            counts = Deck(kind.counts, self._draw)
            sizes = Deck([self._words.sizes, self._words.sizes[::-1]], self._draw)
            make = partial(self._scene, kind, counts, sizes)
            entries += self._fresh(make, shares[name])
        return entries

    def surreal_fantasy(self, count: int) -> list[Entry]:
        makers = {
            "attribute_shift": Deck([self._shifted_colour, self._shifted_shape], self._draw),
            "spatiotemporal": Deck([self._shifted_place, self._swapped_places], self._draw),
            "multi_object": Deck([self._two_things], self._draw),
        }
        shares = quotas(count, self._words.surreal)
        entries: list[Entry] = []
        for name, deck in makers.items():
            for _ in range(shares[name]):
                entries += self._fresh(deck.next(), 1)
        return entries

    def multi_reference(self, count: int) -> list[Entry]:
        entries: list[Entry] = []
        while len(entries) < count:
            pool = self._reference_set()
            wanted = min(self._words.rows_per_set, count - len(entries))
            entries += self._fresh(partial(self._arranged, pool), wanted)
        return entries

    def _fresh(self, make: Maker, count: int) -> list[Entry]:
        """`count` entries that are not blocked, new ones as long as there are any."""
        entries: list[Entry] = []
        for _ in range(count):
            for attempt in range(_ATTEMPTS):
                entry = make()
                mark = f"{entry.prompt}|{entry.references}"
                if mark in self._used and attempt < _FRESH_ATTEMPTS:
                    continue
                if self._block.allows(entry.instruction, entry.constraints):
                    self._used.add(mark)
                    entries.append(entry)
                    break
            else:
                raise Echo4oError(
                    f"in {_ATTEMPTS} draws every {entry.category} row was a benchmark item, such "
                    f"as {entry.instruction!r}; leave out a file of --against"
                )
        return entries

    def _scene(
        self, kind: Kind, counts: Deck[tuple[int, ...]], sizes: Deck[tuple[str, ...]]
    ) -> Entry:
        numbers = counts.next()
        shapes = self._shapes.several(len(numbers))
        colours = self._colours.several(len(numbers)) if "color" in kind.say else []
        places = self._places.next() if "region" in kind.say else ()
        ordered_sizes = sizes.next() if "size" in kind.say else ()
        include: list[JsonValue] = []
        phrases = []
        for index, (shape, number) in enumerate(zip(shapes, numbers, strict=True)):
            group = Group(
                shape=shape,
                count=number,
                color=colours[index] if colours else None,
                size=ordered_sizes[index] if ordered_sizes else None,
                place=places[index] if places else None,
            )
            include.append(group.constraint())
            phrases.append(group.phrase(counted="count" in kind.say))
        constraints: dict[str, JsonValue] = {"tag": kind.tag, "include": include}
        if kind.tag == "counting":
            constraints["exclude"] = [{"class": shapes[0], "count": numbers[0] + 1}]
        category = difficulty(len(kind.say) * len(numbers))
        return _row(f"A photo of {join(phrases)}", "instruction_following", category, constraints)

    def _shifted_colour(self) -> Entry:
        thing = self._things.next()
        colour = self._colours.next([thing.color])
        return _surreal([(thing, {"color": colour})], f"{colour} {thing.name}", "attribute_shift")

    def _shifted_shape(self) -> Entry:
        thing = self._things.next()
        shape = self._shapes.next([thing.shape])
        words = f"{shape}-shaped {thing.name}"
        return _surreal([(thing, {"shape": shape})], words, "attribute_shift")

    def _shifted_place(self) -> Entry:
        grounded = [thing for thing in self._words.things if thing.region is not None]
        thing = self._draw.choice(grounded)
        place = "bottom" if thing.region == "above" else "top"
        shift = {"region": REGIONS[place]}
        return _surreal([(thing, shift)], f"{thing.name} on the {place}", "spatiotemporal")

    def _swapped_places(self) -> Entry:
        high = self._draw.choice([one for one in self._words.things if one.region == "above"])
        low = self._draw.choice([one for one in self._words.things if one.region == "below"])
        shifts = [(low, {"region": "above"}), (high, {"region": "below"})]
        words = f"{low.name} on the top and {article(high.name)} on the bottom"
        return _surreal(shifts, words, "spatiotemporal")

    def _two_things(self) -> Entry:
        first = self._things.next()
        alike = [thing for thing in self._words.things if thing.shape == first.shape]
        second = self._things.next(alike)
        colours = self._colours.several(2, [first.color, second.color])
        shifts = [(first, {"color": colours[0]}), (second, {"color": colours[1]})]
        words = f"{colours[0]} {first.name} and {article(f'{colours[1]} {second.name}')}"
        return _surreal(shifts, words, "multi_object")

    def _reference_set(self) -> list[Entry]:
        """Pictures of one object each, of different shapes and colours; no other set has them."""
        size = self._words.set_size
        places = [None, *(place for pair in self._words.places for place in pair)]
        entries: list[Entry] = []
        for shape, colour in zip(
            self._shapes.several(size), self._colours.several(size), strict=True
        ):
            looks = [
                Group(shape=shape, color=colour, size=extent, place=place)
                for extent in (None, *self._words.sizes)
                for place in self._draw.sample(places, len(places))
            ]
            group = next((one for one in looks if self._is_new_reference(one)), looks[0])
            self._used.add(f"reference {group.phrase()}")
            constraints: dict[str, JsonValue] = {"include": [group.constraint()]}
            entries.append(
                Entry(
                    kind="reference",
                    id=f"reference-{len(self.references) + len(entries):06d}",
                    prompt=f"A photo of {group.phrase()}",
                    instruction=f"A photo of {group.phrase()}",
                    subset="multi_reference",
                    category="object",
                    constraints=constraints,
                )
            )
        self.references += entries
        return entries

    def _is_new_reference(self, group: Group) -> bool:
        text, include = f"A photo of {group.phrase()}", [group.constraint()]
        if f"reference {group.phrase()}" in self._used:
            return False
        return self._block.allows(text, {"include": include})

    def _arranged(self, pool: list[Entry]) -> Entry:
        count = self._draw.choice(self._words.reference_counts)
        chosen = self._draw.sample(pool, count)
        first, second = self._draw.sample(self._words.places, 2)
        places = (*first, *second)[:count]
        groups = []
        for entry, place in zip(chosen, places, strict=True):
            include = entry.constraints["include"]
            assert isinstance(include, list)
            fact = include[0]
            assert isinstance(fact, dict)
            groups.append(Group(shape=str(fact["class"]), color=str(fact["color"]), place=place))
        explicit = [
            f"the object from image {n} on the {place}" for n, place in enumerate(places, 1)
        ]
        named = [f"the {group.color} {group.shape} on the {group.place}" for group in groups]
        row = _row(
            f"Put {join(named)}",
            "multi_reference",
            "object_object",
            {"include": [group.constraint() for group in groups]},
        )
        references = tuple(entry.id for entry in chosen)
        return replace(row, prompt=f"Put {join(explicit)}", references=references)


def _surreal(shifts: list[tuple[Thing, dict[str, str]]], words: str, category: str) -> Entry:
    include: list[JsonValue] = []
    regular: dict[str, JsonValue] = {}
    deflected: dict[str, JsonValue] = {}
    for thing, shift in shifts:
        looks = {"shape": thing.shape, "color": thing.color}
        shown = looks | shift
        fact: dict[str, JsonValue] = {"class": shown["shape"], "count": 1, "color": shown["color"]}
        include.append(fact | ({"region": shown["region"]} if "region" in shown else {}))
        usual: dict[str, JsonValue] = {
            **looks,
            **({"region": thing.region} if thing.region else {}),
        }
        regular[thing.name] = usual
        deflected[thing.name] = dict(shift)
    constraints: dict[str, JsonValue] = {"include": include}
    if len(shifts) == 1:
        name = shifts[0][0].name
        constraints |= {"object": name, "regular": regular[name], "deflected": deflected[name]}
    else:
        names = " and ".join(regular)
        constraints |= {"object": names, "regular": regular, "deflected": deflected}
    return _row(f"A photo of {article(words)}", "surreal_fantasy", category, constraints)


def _row(text: str, subset: str, category: str, constraints: dict[str, JsonValue]) -> Entry:
    return Entry(
        kind="row",
        id="",
        prompt=text,
        instruction=text,
        subset=subset,
        category=category,
        constraints=constraints,
    )
