"""A run: one task, one protocol, one judge, one set of pictures; kept as run.json.

Holds every verdict with its raw reply, so that a report or a new score needs no call.
"""

import datetime
import json
import logging
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from echo4o.errors import Echo4oError
from echo4o.records import (
    Input,
    RunRecord,
    environment,
    refuse_foreign,
    sha256_file,
    write_atomic,
)

from .agreement import self_agreement
from .canary import Canary, compare, open_canary, record
from .cases import Case
from .generate import read_manifest
from .items import Item, ItemSet, read_items
from .judging import JudgeConfig, Judged, judge_cases, make_cases
from .layouts import item_row
from .pictures import samples_in
from .released import write_released
from .scores import RELEASED, Scores
from .tasks import Task, get_task
from .verdicts import Verdict, check_types

logger = logging.getLogger(__name__)

FORMAT = 1
RUN_FILE = "run.json"
PANEL_FILE = "panel.json"
ITEMS_FILE = "items.jsonl"
_DERIVED = ("format", "scores", "self_agreement")
LEDGER = Path("judge") / "ledger.sqlite"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What run.json holds."""

    task: str
    """Name of the task."""
    protocol: dict[str, str]
    """Name and version."""
    items: dict[str, Any]
    """Source, SHA-256, how many the source has and how many were judged."""
    judge: dict[str, Any]
    """Model asked for, the model names that answered, repeats, and pictures of each prompt."""
    generation: dict[str, Any] | None
    """The pictures' manifest; None when nobody knows what made them."""
    verdicts: tuple[Verdict, ...]
    """By item, picture and repeat, in this order."""
    calls: int
    """HTTP requests of the last invocation."""
    spent_usd: float
    """All this run ever paid its judge."""
    started: str
    """Start of the last invocation, ISO 8601, UTC."""
    seconds: float
    """Duration of the last invocation, generation left out."""
    drift: dict[str, Any] | None = None
    """What the canary says about the judge; None when it was not asked or was recorded by this
    run."""
    versions: dict[str, str] = field(default_factory=environment)
    """Versions of the libraries."""
    pictures: Path
    """Folder of the pictures, as found from here; not kept in the file."""

    @property
    def model(self) -> str:
        """What made the pictures, as people call it."""
        if self.generation is None:
            return self.pictures.resolve().name
        return str(self.generation["model"]["id"])

    def scores(self) -> Scores:
        """Return the scores of the verdicts, as the task defines them."""
        return get_task(self.task).score(self.verdicts, self.protocol["name"])


def run_cases(
    task: Task, items: Sequence[Item], *, pictures: Path, protocol: str, config: JudgeConfig
) -> list[Case]:
    """Return what a run asks about: every picture that each item has in the folder.

    Raises:
        Echo4oError: there is no such folder or wording, or the reading knows no second picture.
    """
    if not items:
        raise Echo4oError("there are no items to judge; give at least one")
    samples = samples_in(pictures)
    most = task.pictures
    if protocol == RELEASED and (samples > most or config.repeats > 1):
        one = "one picture" if most == 1 else f"{most} pictures"
        raise Echo4oError(
            f"the published script asks once about {one} of a prompt, not {config.repeats} "
            f"times about {samples}; use another --protocol than {RELEASED}"
        )
    asked = task.protocol(protocol)
    found = [asked.find(pictures, sample) for sample in range(1, samples + 1)]
    if task.hooks.check is not None:
        task.hooks.check(items, found, protocol)
    return make_cases(items, found, asked, config.repeats)


def judge_run(
    task: Task,
    source: ItemSet,
    items: Sequence[Item],
    *,
    pictures: Path,
    out: Path,
    protocol: str,
    config: JudgeConfig,
    ledger: Path | None = None,
    canaries: Path | None = None,
    progress: bool = False,
) -> Run:
    """Judge a folder of pictures and write run.json, items.jsonl and record.json into `out`.

    `ledger` is the run's own if not given. `canaries` is the folder in which the pictures lie that
    show whether a judge has moved; without it none are asked about or recorded.

    Under `released` the published script's own result files go into a folder of that name.

    Raises:
        Echo4oError: as `judging.judge`, the wording of the protocol is not here, or `out` holds
            another run.
    """
    started, clock = datetime.datetime.now(datetime.UTC), time.monotonic()
    cases = run_cases(task, items, pictures=pictures, protocol=protocol, config=config)
    refuse_another_run(
        out,
        {
            "task": task.name,
            "protocol": protocol,
            "judge": config.name,
            "items": source.sha256,
            "pictures": _relative(pictures, out),
        },
    )
    asked = cases[0].protocol
    canary = None
    if canaries is not None and not config.is_local:  # fixed weights do not move
        canary = open_canary(canaries, task, asked, config.model, config.base_url)
    # The canary is asked about last, in the same pass: it makes nobody wait.
    judged = judge_cases(
        [*cases, *(canary.cases() if canary else ())],
        config=config,
        ledger=ledger or out / LEDGER,
        progress=progress,
    )
    verdicts = judged.verdicts[: len(cases)]
    run = Run(
        task=task.name,
        protocol={"name": asked.name, "version": asked.version},
        items=_items_facts(source, items),
        judge={
            "model": config.name,
            "answered_as": _names(verdicts),
            "repeats": config.repeats,
            "samples": max(case.sample for case in cases),
        },
        generation=read_manifest(pictures),
        verdicts=verdicts,
        calls=judged.calls,
        spent_usd=judged.spent_usd,
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - clock, 3),
        drift=None if canary is None else _drift(canary, judged, run_token(out), len(cases)),
        pictures=pictures,
    )
    if canary is not None and not canary.items:
        kept = record(canary, items, pictures, verdicts, run_token(out))
        if kept:
            logger.info(
                "kept %d of the pictures with their verdicts in %s, to see whether judge %s moves "
                "(--no-canary keeps none)",
                kept,
                canary.folder,
                config.name,
            )
    write_atomic(out / ITEMS_FILE, "".join(json.dumps(item_row(item)) + "\n" for item in items))
    save_run(run, out)
    if task.hooks.write is not None:
        task.hooks.write(run.verdicts, out / asked.name)
    elif protocol == RELEASED:
        write_released(task.name, items, run.verdicts, run.scores(), out / RELEASED)
    record_run(run, out)
    return run


def refuse_another_run(out: Path, wanted: Mapping[str, str]) -> None:
    """Refuse to write over the results of a run that asked something else.

    Raises:
        Echo4oError: the folder holds a run with another task, protocol, judge, items or pictures,
            or what was no evaluation.
    """
    refuse_foreign(out, "eval")
    if (out / PANEL_FILE).is_file():
        raise Echo4oError(f"{out} holds the runs of several judges; give one judge another --out")
    try:
        value = json.loads((out / RUN_FILE).read_bytes())
        found = {
            "task": value["task"],
            "protocol": value["protocol"]["name"],
            "judge": value["judge"]["model"],
            "items": value["items"]["sha256"],
            "pictures": value["pictures"],
        }
    except (OSError, ValueError, KeyError, TypeError):
        return  # none, or none that can be read
    if not (out / str(found["pictures"])).is_dir():
        found["pictures"] = wanted.get("pictures")  # moved since
    for name, now in wanted.items():
        if found[name] != now:
            raise Echo4oError(
                f"{out} holds a run with other {name} ({found[name]!s:.60}, not {now:.60}); "
                "use another --out, or delete that folder"
            )


def save_run(run: Run, out: Path) -> Path:
    """Write run.json atomically, scores included."""
    value = asdict(run)
    # Relative where possible: a run folder may be moved together with its pictures.
    value["pictures"] = _relative(run.pictures, out)
    value["format"] = FORMAT
    value["scores"] = run.scores().to_json()
    value["self_agreement"] = self_agreement(run.verdicts)
    path = out / RUN_FILE
    write_atomic(path, json.dumps(value, indent=1) + "\n")
    return path


def panel_folders(out: Path) -> list[Path]:
    """Return the run folders that several judges left in `out`: those of its last panel."""
    found = {file.parent.name: file.parent for file in sorted(out.glob(f"*/{RUN_FILE}"))}
    try:
        judges = list(json.loads((out / PANEL_FILE).read_bytes())["judges"])
    except (OSError, ValueError, KeyError, TypeError):
        return list(found.values())  # the panel was never finished
    return [found[name] for name in judges if name in found]


def each_run(folders: Sequence[Path]) -> list[Path]:
    """Return the folders, in place of one that several judges filled those of its runs."""
    return [
        run
        for folder in folders
        for run in ([] if (folder / RUN_FILE).is_file() else panel_folders(folder)) or [folder]
    ]


def load_run(folder: Path) -> Run:
    """Read a run back from its folder (or its run.json).

    Raises:
        Echo4oError: there is none, or it is not a run of a format this version reads.
    """
    path = folder if folder.suffix == ".json" else folder / RUN_FILE
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise Echo4oError(f"no run at {path}; make one with `echo4o eval run`") from error
    except (ValueError, RecursionError) as error:
        raise Echo4oError(f"{path} is not JSON ({error}); run the evaluation again") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise Echo4oError(f"{path} is not a run of format {FORMAT}; run the evaluation again")
    try:
        fields = {key: part for key, part in value.items() if key not in _DERIVED}
        fields["verdicts"] = tuple(Verdict.from_json(one) for one in value["verdicts"])
        fields["pictures"] = (path.parent / value["pictures"]).resolve()
        run = Run(**fields)
        _check(run)
    except (LookupError, TypeError, ValueError) as error:
        raise Echo4oError(f"{path} is damaged ({error}); run the evaluation again") from error
    return run


def _check(run: Run) -> None:
    """A run may come from a stranger; TypeError or LookupError when a part is not what it says."""
    check_types(run)
    made = run.generation or {"model": {"id": ""}, "settings": {}}
    texts = {
        "protocol": [run.protocol["name"], run.protocol["version"]],
        "items": [run.items["source"], run.items["sha256"]],
        "judge": [run.judge["model"], *run.judge["answered_as"]],
        "generation": [made["model"]["id"], *made["settings"]],
    }
    for name, values in texts.items():
        if not all(isinstance(one, str) for one in values):
            raise TypeError(f"`{name}` holds {values!r:.80}")
    told = ("moved_now", "moved_over_runs", "pictures", "shift")
    if run.drift and not all(isinstance(run.drift[name], int | float) for name in told):
        raise TypeError(f"`drift` holds {run.drift!r:.80}")


def kept_items(folder: Path, run: Run) -> dict[int, Item]:
    """Return a run's items by number, their files not looked for; empty where it kept none.

    Raises:
        ItemsError: the file is damaged.
    """
    path = folder / ITEMS_FILE
    if not path.is_file():
        return {}
    prompts = {one.number: one.prompt for one in reversed(run.verdicts)}
    found = read_items(path, read_row=get_task(run.task).read_row).items
    # The file has them in the run's order, under numbers of its own.
    numbered = zip(dict.fromkeys(one.number for one in run.verdicts), found, strict=False)
    return {number: item for number, item in numbered if item.prompt == prompts[number]}


def _items_facts(source: ItemSet, items: Sequence[Item]) -> dict[str, Any]:
    return {
        "source": source.source,
        "sha256": source.sha256,
        "available": len(source.items),
        "judged": len(items),
    }


def run_token(out: Path) -> str:
    """Return what tells this run folder from all others, made when first asked for."""
    path = out / LEDGER.parent / "run"
    if not path.is_file():
        write_atomic(path, secrets.token_hex(8))
    return path.read_text()


def _drift(canary: Canary, judged: Judged, run: str, own: int) -> dict[str, Any] | None:
    said = judged.verdicts[own:]
    found = compare(canary, said, run) if said else None
    return None if found is None else {**found.to_json(), "recorded": canary.runs[0]["created"]}


def _names(verdicts: Sequence[Verdict]) -> list[str]:
    return sorted({one.judge_model for one in verdicts if one.judge_model is not None})


def _relative(folder: Path, out: Path) -> str:
    try:
        return Path(os.path.relpath(folder.resolve(), out.resolve())).as_posix()
    except ValueError:  # another drive
        return folder.resolve().as_posix()


def record_run(run: Run, out: Path) -> None:
    """Write record.json: what the run came from and what it came to."""
    inputs = [Input(kind="items", id=run.items["source"], sha256=run.items["sha256"])]
    if run.generation is not None:
        inputs.append(Input(kind="model", **run.generation["model"]))
    seed = run.generation["settings"].get("seed") if run.generation is not None else None
    RunRecord(
        name=run.task,
        command="echo4o eval",
        inputs=tuple(inputs),
        parameters={
            "protocol": dict(run.protocol),
            "judge": run.judge["model"],
            "settings": None if run.generation is None else run.generation["settings"],
        },
        seed=seed,
        environment=run.versions,
        metrics={
            "scores": run.scores().to_json(),
            "calls": run.calls,
            "spent_usd": run.spent_usd,
        },
        files={RUN_FILE: sha256_file(out / RUN_FILE)},
        started=run.started,
        seconds=run.seconds,
    ).save(out)
