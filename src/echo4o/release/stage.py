"""Puts together what a push verb publishes, beside the originals, which stay as they are."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..cli import run_verb
from ..errors import Echo4oError
from ..models.endpoint import write_handler
from ..records import RECORD_NAME, Input, RunRecord, sha256_file, write_atomic
from .plan import Plan

SCORES = "scores"
"""Folder of a model repo: the runs behind its card, without their verdicts."""
_RUN = "run.json"
TOLD = "card.json"
"""What the card says and no record knows; `model_cards` reads it."""
_WEIGHTS = "model"
_BESIDE = ("config.json", "loss.jsonl", "samples")
"""What a training leaves beside the weights and belongs into their repo."""
_LONG = ("verdicts",)


def link_folder(source: Path, target: Path) -> Path:
    """A copy of a folder that costs no space where the file system allows that.

    Nothing writes into the copy's files: what is changed is replaced as a whole.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=_link)
    return target


def stage_model(plan: Plan, target: Path, items: str, requirement: str) -> Path:
    """The model repo: weights, record, card with the scores, handler, and scores for the Hub.

    Args:
        plan: The release; it has a model.
        target: New folder.
        items: Dataset repo of the runs' items, with its commit; empty writes no `.eval_results`.
        requirement: What installs echo4o on Inference Endpoints.

    Raises:
        Echo4oError: the weights are not what the record says, or a run is not of this model.
    """
    assert plan.model is not None
    source = plan.path(plan.model.folder)
    if plan.weights != source:
        link_folder(plan.weights, target)
        for name in _BESIDE:
            if (source / name).is_dir():
                shutil.copytree(source / name, target / name, copy_function=_link)
            elif (source / name).is_file() and not (target / name).exists():
                _link(source / name, target / name)
    else:
        link_folder(source, target)
    if (source / RECORD_NAME).is_file():
        _fitting(RunRecord.load(source), target).save(target)
    write_handler(target, requirement)
    folders = []
    for run in sorted(plan.model.runs, key=lambda one: Path(one).name):
        folder = target / SCORES / Path(run).name
        write_atomic(folder / _RUN, _short_run(plan.path(run) / _RUN))
        folders += ["--eval", str(folder)]
    if plan.model.card:
        write_atomic(target / TOLD, json.dumps(plan.model.card, indent=1, sort_keys=True) + "\n")
    card = ["model", str(target), "--repo", plan.model.repo, *folders]
    run_verb("card", "render", card)
    run_verb("card", "check", [str(target), "--kind", "model"])
    for run in plan.model.runs if items else ():
        words = [str(plan.path(run)), plan.model.repo, "--dataset", items, "--into", str(target)]
        if plan.results is not None:
            words += ["--source-url", _page(plan.results.repo)]
        run_verb("eval", "submit", words)
    return target


def stage_twin(plan: Plan, target: Path, original: str) -> Path:
    """The same weights in the authors' layout, bit for bit, with a record and a card.

    Args:
        plan: The release; its model names a repo for it.
        target: New folder.
        original: The model's repo, with its commit when it is known.
    """
    assert plan.model is not None
    shutil.rmtree(target, ignore_errors=True)
    run_verb("model", "convert", [str(plan.weights), str(target), "--layout", "bagel"])
    repo, _, commit = original.partition("@")
    names = sorted(path.relative_to(target).as_posix() for path in target.rglob("*.safetensors"))
    RunRecord(
        name=plan.model.authors_layout.rpartition("/")[2],
        command="echo4o model convert --layout bagel",
        inputs=(Input(kind="model", id=repo, revision=commit or None),),
        files={name: sha256_file(target / name) for name in names},
    ).save(target)
    limits = [f"These are the weights of {repo} in other files; scores stand on its card."]
    told = {**plan.model.card, "limits": [*limits, *_texts(plan.model.card.get("limits"))]}
    write_atomic(target / TOLD, json.dumps(told, indent=1, sort_keys=True) + "\n")
    run_verb("card", "render", ["model", str(target), "--repo", plan.model.authors_layout])
    return target


def _texts(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


def _fitting(record: RunRecord, folder: Path) -> RunRecord:
    """The record with the names that its files have in the repo; each must have its content."""
    files = {}
    for name, sha256 in record.files.items():
        there = name.removeprefix(f"{_WEIGHTS}/")
        if not (folder / there).is_file():
            continue
        if sha256_file(folder / there) != sha256:
            raise Echo4oError(
                f"{folder / there} is not the file that the record of {record.name} names; train "
                "or convert it again"
            )
        files[there] = sha256
    return replace(record, files=files)


def _short_run(path: Path) -> str:
    """A run without its verdicts, which are in the results dataset."""
    try:
        run: Mapping[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Echo4oError(f"{path} is no run ({error}); run the evaluation again") from None
    kept = {name: value for name, value in run.items() if name not in _LONG}
    # Where the pictures lay on this machine is nobody's business.
    kept["pictures"] = Path(str(kept.get("pictures", ""))).name
    return json.dumps(kept, indent=1, sort_keys=True) + "\n"


def _page(repo: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/datasets/{repo}"


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
