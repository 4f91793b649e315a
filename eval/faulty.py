"""Items with known faults: they stay in their set, so that scores remain comparable, and are named.

The authors' own are found by rule, since their texts are not ours to list here.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from echo4o.errors import Echo4oError

from .english import plural
from .items import Item


class Faulty(NamedTuple):
    """An item, and what is wrong with it."""

    number: int
    reason: str


def known_faults(task: str, items: Sequence[Item]) -> list[Faulty]:
    """Return the items of a set that a judge is asked about in a faulty way under `released`.

    The faults are those of the authors' questions: plurals made by an added "s", and quotation
    marks inside text that is itself put into quotation marks.
    """
    faults = []
    for item in items:
        wrong = [
            f"{part.name}s"
            for part in (*item.include, *item.exclude)
            if part.count > 1 and plural(part.name) != f"{part.name}s"
        ]
        if wrong:
            said = f"the checklist says {wrong[0]!r}, not {plural(wrong[0][:-1])!r}"
            faults.append(Faulty(item.number, said))
        elif task == "imagine_bench" and '"' in item.note + item.prompt:
            faults.append(Faulty(item.number, "quotation marks inside a quoted text"))
    return faults


def read_faults(path: Path, items: Sequence[Item]) -> list[Faulty]:
    """Read a file of known faults: one {"id", "reason"} a line.

    Raises:
        Echo4oError: no such file, a malformed line, or an id that no item has.
    """
    numbers, faults = {item.number for item in items}, []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise Echo4oError(f"there is no file of known faults {path}") from error
    for place, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = cast(Mapping[str, Any], json.loads(line))
            number, reason = value["id"], value["reason"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Echo4oError(
                f"{path}, line {place}: needs an object with id and reason"
            ) from error
        is_item = isinstance(number, int) and number in numbers
        if not is_item or not isinstance(reason, str) or not reason.strip():
            raise Echo4oError(f"{path}, line {place}: {number!r:.40} is no item, or has no reason")
        faults.append(Faulty(number, reason.strip()))
    return faults
