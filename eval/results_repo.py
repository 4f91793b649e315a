"""A dataset repo of results: one row a run and one row a verdict; every push adds to it.

Texts of the authors' items (prompts, checklists, replies that quote them) are left out unless their
licence is said.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echo4o.errors import Echo4oError
from echo4o.hub import KEPT, Published, publish_folder
from echo4o.hub_reading import download_file, list_files
from echo4o.manifest import Release, seal
from echo4o.records import write_atomic

from .item_repo import is_authors
from .runs import Run, load_run, save_run
from .tasks import get_task
from .verdicts import Verdict

if TYPE_CHECKING:
    from datasets import Features

_CONFIGS = ("runs", "verdicts")
_TEXTS = ("prompt", "findings", "reason", "raw_reply")
_README = """---
{matter}---

# Evaluation results

`runs` has one row for each run: scores with their 95 % intervals, settings, versions, cost.
`verdicts` has one row for each judged picture, with the judge's findings and its raw reply.
`runs/*/run.json` has each run whole: `echo4o eval rescore` works its scores out again.

```python
from datasets import load_dataset

runs = load_dataset("{repo}", "runs", split="train")
verdicts = load_dataset("{repo}", "verdicts", split="train")
```

Scores of different judges or protocols are not comparable; rows of one `run` belong together.
"""


def push_results(
    folders: Sequence[Path],
    repo: str,
    *,
    pictures: bool = False,
    license: str | None = None,
    tag: str | None = None,
    release: Release | None = None,
    dry_run: bool = False,
) -> Published:
    """Add runs to the dataset repo `ORG/NAME`; a run that is there already changes nothing.

    Args:
        folders: Run folders.
        repo: `ORG/NAME`.
        pictures: Store the pictures as well, byte for byte.
        license: Licence of the authors' items; without it their texts are left out.
        tag: Immutable name of this version.
        release: What it is published with.
        dry_run: Only compare and report.

    Raises:
        Echo4oError: a folder is no run.
    """
    if not folders:
        raise Echo4oError("there is no run to push; name at least one run folder")
    with tempfile.TemporaryDirectory(prefix="echo4o-results-") as name:
        for folder in folders:
            run = load_run(folder)
            has_texts = license is not None or not _is_authors(run)
            _stage(run, Path(name), pictures=pictures, has_texts=has_texts)
        write_atomic(Path(name) / "README.md", _readme(repo))
        if release is not None:
            _fetch_earlier(repo, Path(name))
            seal(Path(name), repo, "dataset", release)
        return publish_folder(
            Path(name),
            repo,
            repo_type="dataset",
            message=f"Results of {len(folders)} run{'s' * (len(folders) > 1)}",
            tag=tag,
            keep=(*KEPT, "data/*", "runs/*"),
            dry_run=dry_run,
        )


def _fetch_earlier(repo: str, folder: Path) -> None:
    """Add what earlier pushes left in the repo, which a manifest has to name as well."""
    for name in sorted(list_files(repo, "dataset") or ()):
        if name.startswith(("data/", "runs/")) and not (folder / name).exists():
            found = download_file(repo, "dataset", name, "main")
            if found is not None:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(found, folder / name)


def run_name(run: Run) -> str:
    """Return a name that tells runs apart: what it is of, and a hash of its verdicts."""
    content = json.dumps(
        [run.protocol, run.generation, [one.to_json() for one in run.verdicts]], sort_keys=True
    )
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    parts = (run.task, run.protocol["name"], run.model, run.judge["model"], digest)
    return "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", part).strip("_")[:60] for part in parts)


def _is_authors(run: Run) -> bool:
    prompts = list({one.number: one.prompt for one in run.verdicts}.values())
    return is_authors(get_task(run.task), str(run.items["sha256"]), prompts)


def _stage(run: Run, root: Path, *, pictures: bool, has_texts: bool) -> None:
    name = run_name(run)
    _write(root / "data" / "runs" / f"{name}.parquet", [run_row(run, name)], _run_features())
    rows = []
    for verdict in run.verdicts:
        row = {"run": name, "task": run.task, **verdict_row(verdict)}
        row |= {} if has_texts else dict.fromkeys(_TEXTS)
        file = run.pictures / Path(verdict.picture or "-").name
        is_there = pictures and verdict.picture is not None and file.is_file()
        row["image"] = {"bytes": file.read_bytes(), "path": file.name} if is_there else None
        rows.append(row)
    _write(root / "data" / "verdicts" / f"{name}.parquet", rows, _verdict_features())
    home = root / "runs" / name
    # Where the pictures lay on this machine is nobody's business.
    kept = replace(run, pictures=home / run.pictures.name)
    save_run(kept if has_texts else _without_texts(kept), home)


def _without_texts(run: Run) -> Run:
    """The run without the authors' words, and with all that its scores follow from."""
    verdicts = [
        replace(
            one,
            prompt="",
            findings=tuple(replace(f, expectation="", reason="") for f in one.findings),
            reason=None,
            problems=(),
            raw_reply=None,
        )
        for one in run.verdicts
    ]
    return replace(run, verdicts=tuple(verdicts))


def run_row(run: Run, name: str) -> dict[str, Any]:
    """Return the row of a run in the table `runs`."""
    scores, made = run.scores(), run.generation or {}
    model: Mapping[str, Any] = made.get("model", {})
    return {
        "run": name,
        "task": run.task,
        "protocol": run.protocol["name"],
        "protocol_version": run.protocol["version"],
        "judge": run.judge["model"],
        "answered_as": list(run.judge["answered_as"]),
        "model": run.model,
        "model_revision": model.get("revision"),
        "model_sha256": model.get("sha256"),
        "settings": json.dumps(made.get("settings")),
        "items": str(run.items["source"]),
        "items_sha256": run.items["sha256"],
        "items_judged": run.items["judged"],
        "items_available": run.items["available"],
        "overall": scores.overall.score,
        "low": scores.overall.low,
        "high": scores.overall.high,
        "scale": scores.scale,
        "coverage": scores.coverage,
        "scores": json.dumps(scores.to_json()),
        "cost_usd": run.spent_usd,
        "started": run.started,
        "versions": json.dumps(run.versions),
    }


def verdict_row(verdict: Verdict) -> dict[str, Any]:
    """Return what the table `verdicts` says of a verdict, its picture left out."""
    return {
        "number": verdict.number,
        "sample": verdict.sample,
        "repeat": verdict.repeat,
        "tag": verdict.tag,
        "outcome": verdict.outcome,
        "correct": verdict.correct,
        "points": verdict.points,
        "judge_model": verdict.judge_model,
        "picture_sha256": verdict.picture_sha256,
        "cost_usd": verdict.cost_usd,
        "created": verdict.created,
        "prompt": verdict.prompt,
        "findings": json.dumps(verdict.to_json()["findings"]),
        "reason": verdict.reason,
        "raw_reply": verdict.raw_reply,
    }


def _run_features() -> "Features":
    from datasets import Features, List, Value

    texts = "run task protocol protocol_version judge model model_revision model_sha256 settings"
    texts += " items items_sha256 scores started versions"
    numbers = "overall low high scale coverage cost_usd"
    return Features(
        {name: Value("string") for name in texts.split()}
        | {"answered_as": List(Value("string"))}
        | {name: Value("int32") for name in ("items_judged", "items_available")}
        | {name: Value("float64") for name in numbers.split()}
    )


def _verdict_features() -> "Features":
    from datasets import Features, Image, Value

    texts = "run task tag outcome judge_model picture_sha256 created prompt findings reason"
    texts += " raw_reply"
    return Features(
        {name: Value("string") for name in texts.split()}
        | {name: Value("int32") for name in ("number", "sample", "repeat")}
        | {"correct": Value("bool"), "points": Value("float64"), "cost_usd": Value("float64")}
        | {"image": Image()}
    )


def _write(path: Path, rows: Sequence[Mapping[str, Any]], features: "Features") -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(list(rows), schema=features.arrow_schema)
    with pq.ParquetWriter(
        path, features.arrow_schema, use_content_defined_chunking=True, write_page_index=True
    ) as writer:
        writer.write_table(table, row_group_size=64)


def _readme(repo: str) -> str:
    import yaml

    matter = {
        "pretty_name": "Evaluation results",
        "tags": ["evaluation", "echo4o", "text-to-image"],
        "configs": [
            {
                "config_name": name,
                "default": name == "runs",
                "data_files": [{"split": "train", "path": f"data/{name}/*.parquet"}],
            }
            for name in _CONFIGS
        ],
    }
    header = yaml.safe_dump(matter, sort_keys=False, width=1000)
    return _README.format(matter=header, repo=repo)
