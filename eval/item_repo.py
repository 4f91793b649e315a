"""A set of items as a dataset repo on the Hub: how it is laid out, written and read back.

`items.jsonl` holds the items' own lines with a canary string appended to each row; taking it off
gives the original file to the byte, so that a run on the Hub's items and one on the file agree.
`eval.yaml` names the benchmark's scores to the Hub, `record.json` has hashes and known faults.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from echo4o.hub_reading import download_file, resolve
from echo4o.records import Input, JsonValue, RunRecord, sha256_file, write_atomic

from .faulty import Faulty
from .items import Item, ItemsError, ItemSet, parse_items, tags
from .tasks import AUTHORS, Task
from .wording import ITEM_FILES, SOURCES, WordingError

PREFIX = "hub:"
ITEMS = "items.jsonl"
EVAL = "eval.yaml"
_CANARY = "Benchmark data must never be in training data. echo4o canary GUID {guid}"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"))
_README = """---
{matter}---

# {title}: {count} items

Each row asks a text-to-image model for one picture and says what the picture is held against.
{source} ({sha256}).

```bash
echo4o eval run {task} --items hub:{repo} --model MODEL --judge JUDGE --out RUN
```

Runs name the commit of this repo. Scores come back with `echo4o eval submit RUN MODEL_REPO`.

**Not for training.** Every row carries the same string, so that a leak can be found:
`{canary}`

## Known faults

{faults}

## Rights

{rights}
"""


def is_authors(task: Task, sha256: str, prompts: Sequence[str]) -> bool:
    """Whether these are the authors' items, also with other line ends or fewer of them.

    Args:
        task: The benchmark.
        sha256: Hash of the items' file.
        prompts: The items' prompts.
    """
    hashes = [file.sha256 for name, file in ITEM_FILES.items() if name.startswith(task.name)]
    if task.name in SOURCES:
        hashes = [SOURCES[task.name].items_sha256]
    if sha256 in hashes:
        return True
    try:
        theirs = task.items(AUTHORS)
    except WordingError:  # never fetched, so there is nothing to hold them against
        return False
    known = {item.prompt for item in theirs.items}
    return sum(prompt in known for prompt in prompts) > len(prompts) / 2


def stage_items(
    task: Task,
    data: bytes,
    source: ItemSet,
    folder: Path,
    *,
    repo: str,
    license: str | None,
    faults: Sequence[Faulty],
) -> Path:
    """Write the repo's files into `folder`.

    Args:
        task: What the items belong to.
        data: The items file as it is.
        source: The same, read.
        folder: New folder.
        repo: `ORG/NAME` it will have.
        license: Hub identifier of the items' licence; None says that nobody declared one.
        faults: Known faulty items.
    """
    import yaml

    refuse_references(task)
    canary = _CANARY.format(guid=uuid.uuid5(uuid.NAMESPACE_URL, f"{task.name}/{source.sha256}"))
    write_atomic(folder / ITEMS, _with_canary(data, canary))
    write_atomic(folder / EVAL, yaml.safe_dump(_eval_yaml(task, source), sort_keys=False))
    matter: dict[str, object] = {} if license is None else {"license": license}
    matter |= {
        "pretty_name": f"{task.title} items",
        "language": ["en"],
        "task_categories": ["text-to-image"],
        "size_categories": [
            next((name for top, name in _SIZES if len(source.items) < top), "n>10K")
        ],
        "tags": ["benchmark", "text-to-image", "echo4o", task.name.replace("_", "-")],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "test", "path": ITEMS}]},
        ],
    }
    listed = "\n".join(f"- item {one.number}: {_code(one.reason)}" for one in faults)
    rights = "Nobody has declared a licence." if license is None else f"Licence: `{license}`."
    readme = _README.format(
        matter=yaml.safe_dump(matter, sort_keys=False, width=1000),
        title=task.title,
        count=len(source.items),
        source=f"From {_code(source.source)}",
        sha256=f"SHA-256 `{source.sha256}`",
        task=task.name,
        repo=repo,
        canary=canary,
        faults=listed or "None.",
        rights=rights,
    )
    write_atomic(folder / "README.md", readme)
    named: list[JsonValue] = [[one.number, one.reason] for one in faults]
    RunRecord(
        name=task.name,
        command="echo4o eval push items",
        inputs=(Input(kind="items", id=source.source, sha256=source.sha256),),
        parameters={"canary": canary, "license": license, "known_faults": named},
        environment={},
        metrics={"items": len(source.items)},
        files={ITEMS: sha256_file(folder / ITEMS)},
    ).save(folder)
    return folder


def read_hub_items(task: Task, name: str) -> ItemSet:
    """Read the items of `ORG/NAME[@REVISION]`, hashes checked, pinned to the commit.

    Raises:
        NotOnHubError: there is no such dataset or revision.
        ItemsError: it holds no items of this task, or they are not what its record says.
    """
    refuse_references(task)
    repo, _, asked = name.partition("@")
    commit = resolve(repo, "dataset", asked or None)
    record_file = download_file(repo, "dataset", "record.json", commit)
    items_file = download_file(repo, "dataset", ITEMS, commit)
    if record_file is None or items_file is None:
        raise ItemsError(
            f"the dataset {repo} has no {ITEMS} with a record.json; items are pushed with "
            "`echo4o eval push items`"
        )
    record = RunRecord.load(record_file)
    canary, source = record.parameters.get("canary"), record.inputs[:1]
    if record.name != task.name or not isinstance(canary, str) or not source:
        raise ItemsError(f"the dataset {repo} is for the task {record.name!r}, not {task.name}")
    if record.files.get(ITEMS) != sha256_file(items_file):
        raise ItemsError(f"{ITEMS} of {repo} is not the file that its record.json names")
    data = _without_canary(items_file.read_bytes(), canary)
    if hashlib.sha256(data).hexdigest() != source[0].sha256:
        raise ItemsError(f"{ITEMS} of {repo} without its canary is not what its record.json names")
    named = f"{PREFIX}{repo}@{commit}"
    return parse_items(data, f"{ITEMS} of {repo}", source=named, read_row=task.read_row)


def refuse_references(task: Task) -> None:
    """Refuse a task whose items come with pictures."""
    if task.hooks.locate is not None:
        raise ItemsError(
            f"items of {task.name} come with reference pictures, which such a repo does not hold; "
            f"use --items authors after `echo4o eval fetch {task.name}`, or a file"
        )


def split_source(source: str) -> tuple[str, str] | None:
    """Return repo and commit of a run's items that came from the Hub, else None."""
    if not source.startswith(PREFIX):
        return None
    repo, _, commit = source.removeprefix(PREFIX).partition("@")
    return repo, commit


def score_names(task: Task, items: Sequence[Item]) -> list[str]:
    """Return the names of all scores of a task: overall, groups, tags."""
    if task.hooks.names is not None:
        return ["overall", *task.hooks.names(items)]
    found = tags(items)
    groups = [] if task.grading is None else [task.grading.group_of.get(tag, tag) for tag in found]
    return list(dict.fromkeys(["overall", *groups, *found]))


def score_id(name: str) -> str:
    """Return a score's name as the Hub wants its ids: lower case, no blanks."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _code(text: str) -> str:
    """Foreign text as inline code of one line: neither markup nor HTML."""
    return "`" + " ".join(text.split()).replace("`", "'") + "`"


def _eval_yaml(task: Task, source: ItemSet) -> dict[str, Any]:
    ids = dict.fromkeys(score_id(name) for name in score_names(task, source.items))
    return {
        "name": task.title,
        "description": f"{task.title}, {len(source.items)} items, judged by a vision model.",
        # The Hub shows a leaderboard only for frameworks on its own list; ask for this one there.
        "evaluation_framework": "echo4o",
        "tasks": [{"id": name, "config": "default", "split": "test"} for name in ids],
    }


def _with_canary(data: bytes, canary: str) -> bytes:
    """Put the canary in front of the brace that closes each row; nothing else changes."""
    end = _ending(canary)
    lines = data.split(b"\n")
    for place, line in enumerate(lines):
        if not line.strip(b"\xef\xbb\xbf \t\r"):
            continue
        body, brace, rest = line.rpartition(b"}")
        if not brace or rest.strip() or end in line:
            raise ItemsError(
                f"line {place + 1} of the items is no JSON object on a line of its own"
            )
        lines[place] = body + end + rest
    return b"\n".join(lines)


def _without_canary(data: bytes, canary: str) -> bytes:
    return data.replace(_ending(canary), b"}")


def _ending(canary: str) -> bytes:
    return b', "canary": ' + json.dumps(canary).encode() + b"}"
