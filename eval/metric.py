"""What the `evaluate` modules call: judge a list of pictures for a list of items, and score."""

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
    progress: bool = False,
) -> dict[str, Any]:
    """Judge `pictures[i]` against `items[i]`; return scores, verdicts and cost as plain values.

    Args:
        task_name: A task of the table.
        pictures: {bytes, path} as `datasets.Image(decode=False)` gives them.
        items: Rows in the form of the benchmark.
        config: Which judge.
        ledger: Where replies are kept, so that the same question is never paid twice.
        protocol: How the judge is asked.
        progress: Show a bar on stderr.

    Raises:
        Echo4oError: the lists differ in length or an item is malformed.
    """
    if len(pictures) != len(items):
        raise Echo4oError(f"there are {len(pictures)} pictures for {len(items)} items")
    task = get_task(task_name)
    asked = [_item(task, row, number) for number, row in enumerate(items, start=1)]
    with tempfile.TemporaryDirectory() as folder:
        judged = judge(
            asked,
            {
                number: _as_file(picture, Path(folder) / _NAMES.format(number=number))
                for number, picture in enumerate(pictures, start=1)
            },
            protocol=task.protocol(protocol),
            config=config,
            ledger=ledger,
            progress=progress,
        )
    return {
        **task.score(judged.verdicts, protocol).to_json(),
        "verdicts": [verdict.to_json() for verdict in judged.verdicts],
        "calls": judged.calls,
        "cost_usd": sum(verdict.cost_usd for verdict in judged.verdicts),
    }


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
