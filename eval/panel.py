"""Several judges over the same pictures: one run for each, and how far they agree."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from echo4o.errors import Echo4oError
from echo4o.records import write_atomic

from .agreement import Agreement, agreement
from .items import Item, ItemSet
from .judging import JudgeConfig
from .runs import LEDGER, PANEL_FILE, RUN_FILE, Run, judge_run
from .scores import Scores
from .tasks import Task

FORMAT = 1
_NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """What several judges said about the same pictures."""

    runs: dict[str, Run]
    """One by folder name, in the order of the judges."""
    together: Scores
    """Scores of all verdicts; an item counts the mean of its judges and is one item."""
    overall: Agreement | None
    """Krippendorff's alpha; None where no picture was judged by two."""
    by_tag: dict[str, Agreement]


def folder_names(configs: Sequence[JudgeConfig]) -> list[str]:
    """Return the folder of each judge's run.

    Raises:
        Echo4oError: two judges have the same name.
    """
    names = [_NO_NAME.sub("_", config.name).strip("_.") or "judge" for config in configs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise Echo4oError(
            f"two judges have the name {twice!r}; name each judge once "
            "(--repeats asks one judge several times)"
        )
    return names


def judge_panel(
    task: Task,
    source: ItemSet,
    items: Sequence[Item],
    *,
    pictures: Path,
    out: Path,
    protocol: str,
    configs: Sequence[JudgeConfig],
    canaries: Path | None = None,
    progress: bool = False,
) -> Panel:
    """Let each judge of `configs` judge, one after the other, and write panel.json.

    All share one ledger and with it one budget; each one's run lies in a folder of its name.

    Raises:
        Echo4oError: as `runs.judge_run`, or two judges have the same name.
    """
    if (out / RUN_FILE).is_file():
        raise Echo4oError(f"{out} holds the run of one judge; give several judges another --out")
    runs = {
        name: judge_run(
            task,
            source,
            items,
            pictures=pictures,
            out=out / name,
            protocol=protocol,
            config=config,
            ledger=out / LEDGER,
            canaries=canaries,
            progress=progress,
        )
        for name, config in zip(folder_names(configs), configs, strict=True)
    }
    every = [run.verdicts for run in runs.values()]
    try:
        overall, by_tag = agreement(every)
    except Echo4oError:
        overall, by_tag = None, {}
    panel = Panel(
        runs=runs,
        together=task.score([one for verdicts in every for one in verdicts], protocol),
        overall=overall,
        by_tag=by_tag,
    )
    _save(panel, out / PANEL_FILE)
    return panel


def _save(panel: Panel, path: Path) -> None:
    value = {
        "format": FORMAT,
        "judges": {name: run.judge for name, run in panel.runs.items()},
        "protocol": next(iter(panel.runs.values())).protocol,
        "scores": {name: run.scores().to_json() for name, run in panel.runs.items()},
        "together": panel.together.to_json(),
        "agreement": {
            "overall": panel.overall and panel.overall.to_json(),
            "by_tag": {tag: one.to_json() for tag, one in panel.by_tag.items()},
        },
    }
    write_atomic(path, json.dumps(value, indent=1) + "\n")
