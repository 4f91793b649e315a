"""Counts rows while they pass: the statistics of a dataset without its pictures in memory."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from echo4o.records import JsonValue
from echo4o.schema import Row, included, json_list, json_object

_COUNTED = (
    *("split", "subset", "category", "width", "height", "generator"),
    *("instruction", "requested_instruction"),
)
_FACTS = ("class", "count", "color", "region", "size")


@dataclass(slots=True)
class Tally:
    """Counters over rows; `to_dict` is what `statistics.json` and `data stats` show."""

    rows: int = 0
    by_split: Counter[str] = field(default_factory=Counter)
    by_category: dict[str, Counter[str]] = field(default_factory=dict)
    by_references: Counter[int] = field(default_factory=Counter)
    by_size: Counter[str] = field(default_factory=Counter)
    by_generator: Counter[str] = field(default_factory=Counter)
    rewritten: int = 0
    instruction_characters: int = 0
    longest_instruction: int = 0
    facts: dict[str, Counter[str]] = field(default_factory=dict)

    def add_row(self, row: Row) -> None:
        """Count one row."""
        record = {name: getattr(row, name) for name in _COUNTED}
        self._add(record, len(row.input_images), row.constraints or {})

    def add(self, record: Mapping[str, object]) -> None:
        """Count one row as loaded, with or without its picture columns."""
        self._add(record, len(json_list(record, "references")), json_object(record, "constraints"))

    def _add(
        self, record: Mapping[str, object], references: int, constraints: Mapping[str, JsonValue]
    ) -> None:
        self.rows += 1
        self.by_split[str(record["split"])] += 1
        categories = self.by_category.setdefault(str(record["subset"]), Counter())
        categories[str(record["category"] or "unknown")] += 1
        self.by_references[references] += 1
        self.by_size[f"{record['width']}x{record['height']}"] += 1
        self.by_generator[str(record["generator"] or "unknown")] += 1
        self.rewritten += record["requested_instruction"] is not None
        length = len(str(record["instruction"]))
        self.instruction_characters += length
        self.longest_instruction = max(self.longest_instruction, length)
        for entry in included(constraints):
            for name in _FACTS:
                if entry.get(name) is not None:
                    self.facts.setdefault(name, Counter())[str(entry[name])] += 1

    def to_dict(self) -> dict[str, JsonValue]:
        """JSON with every counter sorted by name; sizes are the 20 most frequent."""
        return {
            "rows": self.rows,
            "by_split": _sorted(self.by_split),
            "by_subset": {name: sum(c.values()) for name, c in sorted(self.by_category.items())},
            "by_category": {name: _sorted(c) for name, c in sorted(self.by_category.items())},
            "by_references": _sorted(self.by_references),
            "by_size": _sorted(Counter(dict(self.by_size.most_common(20)))),
            "by_generator": _sorted(self.by_generator),
            "instructions": {
                "mean_characters": round(self.instruction_characters / max(1, self.rows), 2),
                "longest": self.longest_instruction,
                "rewritten": self.rewritten,
            },
            "facts": {name: _sorted(counts) for name, counts in sorted(self.facts.items())},
        }


def _sorted(counts: Counter[str] | Counter[int]) -> dict[str, JsonValue]:
    return {str(name): count for name, count in sorted(counts.items())}
