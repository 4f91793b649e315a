"""What the `evaluate` modules call: judge a list of pictures for a list of items, and score."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from echo4o.errors import Echo4oError

from .items import Item
from .judging import JudgeConfig, judge
from .tasks import Task, get_task

_NAMES = "{number}.bin"


def compute(
    task_name: str,
    pictures: Sequence[Mapping[str, Any]],
    items: Sequence[Mapping[str, Any]],
    *,
    config: JudgeConfig,
    ledger: Path,
    protocol: str = "kit",
) -> dict[str, Any]:
    """Judge `pictures[i]` against `items[i]`; return scores, verdicts and cost as plain values.

    Args:
        task_name: A task of the table.
        pictures: {bytes, path} as `datasets.Image(decode=False)` gives them.
        items: Rows in the form of the benchmark; where it takes several pictures of a prompt, equal
            rows are one item.
        config: Which judge.
        ledger: Where replies are kept, so that the same question is never paid twice.
        protocol: How the judge is asked.

    Raises:
        Echo4oError: the lists differ in length or an item is malformed.
    """
    if len(pictures) != len(items):
        raise Echo4oError(f"there are {len(pictures)} pictures for {len(items)} items")
    task = get_task(task_name)
    how = task.protocol(protocol)
    groups = _grouped(items, several=task.pictures > 1)
    asked = [_item(task, items[group[0]], number) for number, group in enumerate(groups, start=1)]
    with tempfile.TemporaryDirectory() as folder:
        files = [
            _as_file(picture, Path(folder) / _NAMES.format(number=number))
            for number, picture in enumerate(pictures, start=1)
        ]
        samples = [
            {
                number: files[group[sample]]
                for number, group in enumerate(groups, start=1)
                if sample < len(group)
            }
            for sample in range(max(map(len, groups), default=1))
        ]
        if len({len(group) for group in groups}) > 1:
            fewest, most = min(map(len, groups)), max(map(len, groups))
            raise Echo4oError(
                f"items have between {fewest} and {most} pictures; give as many of each item"
            )
        judged = judge(
            asked,
            samples[0],
            more=samples[1:],
            protocol=how,
            config=config,
            ledger=ledger,
        )
    return {
        **task.score(judged.verdicts, protocol).to_json(),
        "verdicts": [verdict.to_json() for verdict in judged.verdicts],
        "calls": judged.calls,
        "cost_usd": sum(verdict.cost_usd for verdict in judged.verdicts),
    }


def _grouped(items: Sequence[Mapping[str, Any]], *, several: bool) -> list[list[int]]:
    """Return the places of each item's pictures; equal rows are one item where it takes several."""
    if not several:
        return [[place] for place in range(len(items))]
    groups: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault(json.dumps(item, sort_keys=True), []).append(place)
    return list(groups.values())


def _item(task: Task, row: Mapping[str, Any], number: int) -> Item:
    try:
        # Pictures belong to rows by their place in the list, whatever the rows' own ids are.
        item = replace(task.read_row(row, number), number=number)
    except ValueError as error:
        raise Echo4oError(f"item {number}: {error}") from error
    return item if task.hooks.locate is None else task.hooks.locate(item, Path.cwd())


def _as_file(picture: Mapping[str, Any], path: Path) -> Path:
    if picture["bytes"] is None:
        return Path(picture["path"])
    path.write_bytes(picture["bytes"])
    return path
