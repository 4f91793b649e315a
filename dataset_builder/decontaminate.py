"""Keeps benchmark items out of a plan.

Rows with constraints are compared by their key (multiset of class, count, colour, region, size),
because text similarity is useless on template instructions; items without constraints by their
normalised text.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from echo4o.errors import Echo4oError
from echo4o.records import Input, JsonValue, sha256_file
from echo4o.schema import check_constraints, constraint_key, dump_json


class _Item(NamedTuple):
    file: str
    line: int


class Blocklist:
    """Benchmark items that no planned row may ask for; remembers what it refused."""

    def __init__(self, files: Sequence[Path] = ()) -> None:
        """Read JSON lines with `include` (GenEval++) or `prompt` / `instruction` (Imagine-Bench).

        Raises:
            Echo4oError: a file cannot be read, or a line is no item.
        """
        self.inputs = tuple(_input(path) for path in files)
        self._keys: dict[str, _Item] = {}
        self._texts: dict[str, _Item] = {}
        self._refused: dict[str, dict[str, JsonValue]] = {}
        for path in files:
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if line.strip():
                    self._add(path, number, line)

    def __len__(self) -> int:
        return len(self._keys) + len(self._texts)

    def allows(self, instruction: str, constraints: Mapping[str, JsonValue]) -> bool:
        """False for a row that asks exactly what an item asks; such a row is remembered."""
        key = constraint_key(constraints)
        item = self._keys.get(key) or self._texts.get(normalised(instruction))
        if item is None:
            return True
        entry = self._refused.setdefault(
            key,
            {"instruction": instruction, "key": key, "against": item.file, "line": item.line},
        )
        times = entry.get("times", 0)
        entry["times"] = (times if isinstance(times, int) else 0) + 1
        return False

    @property
    def dropped(self) -> list[dict[str, JsonValue]]:
        """What was refused: instruction, key, the item's file and line, how often."""
        return list(self._refused.values())

    def report(self) -> str:
        """The list of refused rows as JSON lines."""
        return "".join(dump_json(entry) + "\n" for entry in self.dropped)

    def _add(self, path: Path, number: int, line: str) -> None:
        try:
            item = json.loads(line)
            if "include" in item:
                check_constraints(item, str(number))
                self._keys.setdefault(constraint_key(item), _Item(path.name, number))
            else:
                text = item["prompt"] if "prompt" in item else item["instruction"]
                self._texts.setdefault(normalised(text), _Item(path.name, number))
        except (ValueError, KeyError, TypeError, AttributeError, Echo4oError) as error:
            raise Echo4oError(
                f"--against {path} line {number} is no benchmark item ({error})"
            ) from None


def _input(path: Path) -> Input:
    if not path.is_file():
        raise Echo4oError(f"--against {path}: no such file")
    return Input(kind="items", id=path.name, sha256=sha256_file(path))


def normalised(text: str) -> str:
    """Lower case, letters and digits only, single spaces."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))
