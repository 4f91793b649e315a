"""What a report shows of some tasks only: boxes, a tree of questions, references."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from echo4o.records import sha256_file

from .local_judge import DETECTOR
from .protocols import Finding
from .runs import ITEMS_FILE, Run
from .verdicts import Verdict

logger = logging.getLogger(__name__)


def has_boxes(verdict: Verdict) -> bool:
    """Return whether a detector gave the verdict."""
    return (verdict.judge_model or "").startswith(DETECTOR) and verdict.raw_reply is not None


def with_boxes(picture: Image.Image, verdict: Verdict, original: tuple[int, int]) -> Image.Image:
    """Return a picture, made smaller from `original`, with the boxes of its verdict."""
    from .boxes import drawn

    return drawn(picture, verdict, original)


def as_tree(findings: Sequence[Finding]) -> list[tuple[int, Finding]]:
    """Return findings with their depth, each below the first one that it depends on.

    Findings that depend on nothing keep their order and have depth 0.
    """
    below: dict[int, list[Finding]] = {}
    known = {one.number for one in findings if one.number}
    for one in findings:
        parent = next((number for number in one.needs if number in known), 0)
        below.setdefault(parent if parent != one.number else 0, []).append(one)
    rows: list[tuple[int, Finding]] = []
    waiting = [(0, one) for one in reversed(below.get(0, []))]
    while waiting:
        depth, one = waiting.pop()
        rows.append((depth, one))
        children = below.pop(one.number, []) if one.number else []
        waiting += [(depth + 1, child) for child in reversed(children)]
    return rows


def prompts_of(run: Run) -> str | None:
    """Return what kind of prompts a run of GenEval had; published numbers mix two."""
    return str(run.items["source"]) if run.task == "geneval" else None


def _unchanged(row: Mapping[str, Any]) -> list[str]:
    """Return a row's reference files that are what the run kept the hashes of."""
    kept = []
    for name, digest in zip(row["input_images"], row.get("references_sha256") or (), strict=False):
        try:
            is_same = sha256_file(Path(str(name))) == digest
        except OSError:
            is_same = False
        if is_same:
            kept.append(str(name))
        else:
            logger.warning("left out of the report: the reference %s is another file now", name)
    return kept


def references_of(folders: Sequence[Path], runs: Sequence[Run]) -> dict[int, list[str]]:
    """Return the files of each item's reference pictures, from the last run that has any."""
    for folder, run in reversed(list(zip(folders, runs, strict=True))):
        file = (folder.parent if folder.suffix == ".json" else folder) / ITEMS_FILE
        try:
            rows = [json.loads(line) for line in file.read_text("utf-8").splitlines() if line]
        except (OSError, ValueError):
            continue
        found = {
            number: _unchanged(row)
            for number, row in zip(
                dict.fromkeys(one.number for one in run.verdicts), rows, strict=False
            )
            if isinstance(row, dict) and isinstance(row.get("input_images"), list)
        }
        if found:
            return found
    return {}
