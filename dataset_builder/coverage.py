"""Counts what a plan asks for, while its rows pass, and which combinations it covers."""

from collections import Counter
from collections.abc import Iterable
from itertools import combinations

from echo4o.records import JsonValue
from echo4o.schema import included

from .plan import Entry

_PAIRS = (("class", "color"), ("class", "count"), ("class", "region"), ("class", "size"))
_MORE = (("color", "count"), ("class", "color", "count"), ("class", "class"))


class Coverage:
    """Categories, tags, facts, and how evenly combinations of facts occur.

    Combinations are counted in instruction-following rows. Those that never occur count against
    all that could be made of the values that do.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._categories: Counter[str] = Counter()
        self._tags: Counter[str] = Counter()
        self._facts: dict[str, Counter[str]] = {}
        self._together: dict[tuple[str, ...], Counter[tuple[str, ...]]] = {
            names: Counter() for names in (*_PAIRS, *_MORE)
        }

    def add(self, row: Entry) -> None:
        """Count one row."""
        self.rows += 1
        self._tags[str(row.constraints.get("tag", "none"))] += 1
        self._categories[f"{row.subset}/{row.category}"] += 1
        groups = included(row.constraints)
        if row.references:
            self._count_fact("references", len(row.references))
        else:
            self._add_facts(groups)
        if row.subset == "instruction_following":
            self._add_together(groups)

    def to_dict(self, references: int) -> dict[str, JsonValue]:
        """The counts as JSON; `references` is the plan's number of reference pictures."""
        return {
            "rows": self.rows,
            "references": references,
            "categories": _sorted(self._categories),
            "tags": _sorted(self._tags),
            "facts": {name: _sorted(counts) for name, counts in sorted(self._facts.items())},
            "combinations": {
                " x ".join(names): self._spread(names)
                for names, counts in self._together.items()
                if counts
            },
        }

    def _add_facts(self, groups: Iterable[dict[str, JsonValue]]) -> None:
        for group in groups:
            for name, value in group.items():
                self._count_fact(name, value)

    def _count_fact(self, name: str, value: JsonValue) -> None:
        self._facts.setdefault(name, Counter())[str(value)] += 1

    def _add_together(self, groups: list[dict[str, JsonValue]]) -> None:
        for group in groups:
            for names, counts in self._together.items():
                if names != ("class", "class") and all(name in group for name in names):
                    counts[tuple(str(group[name]) for name in names)] += 1
        classes = sorted(str(group["class"]) for group in groups)
        self._together["class", "class"].update(combinations(classes, 2))

    def _spread(self, names: tuple[str, ...]) -> dict[str, JsonValue]:
        counts = self._together[names]
        possible = 1
        for position in range(len(names)):
            possible *= len({values[position] for values in counts})
        if names == ("class", "class"):
            seen = len({name for pair in counts for name in pair})
            possible = seen * (seen - 1) // 2
        ordered = sorted(counts.values())
        return {
            "possible": possible,
            "covered": len(counts),
            "least": ordered[0] if len(counts) == possible else 0,
            "median": ordered[len(ordered) // 2],
            "most": ordered[-1],
        }


def _sorted(counts: Counter[str]) -> dict[str, JsonValue]:
    return dict(sorted(counts.items()))
