"""OmniContext: does the result follow the instruction, and are the references' subjects the same?

Eight types of items (tags) with one to three references. An item's points are the geometric mean of
prompt following and subject consistency, 0 to 10; the benchmark's authors average eight types (Wu
et al., 2025, arXiv 2506.18871), Echo-4o's the six with several references. Both always stand in a
result; the protocol says which is called overall.
"""

import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from echo4o.records import write_atomic

from .authors_points import MOST
from .fetch_more import fetch_context
from .intervals import Score, weighted_points
from .items import KIT, Item, ItemsError, text
from .layouts import Part, check_prompts, check_sizes
from .omnicontext_judges import (
    MARKS,
    NAME,
    AuthorsContext,
    ContextItem,
    KitContext,
    StrictContext,
    load_texts,
)
from .omnicontext_rules import (
    FORK_TYPES,
    LANGUAGE,
    TASK_TYPES,
    Averages,
    Sample,
    overall,
    statistics,
)
from .protocols import JudgeProtocol
from .scores import RELEASED, Grading, Scores, by_item, score_points
from .sheets import Sheet, out_of_ten
from .tasks import Hooks, Task
from .verdicts import Verdict

FORK = "fork"
EIGHT, SIX = "average of 8 types", "average of 6 types"
_READINGS = {RELEASED: AuthorsContext, FORK: AuthorsContext, "strict": StrictContext}
SIZE = (1024, 1024)
_MOST_REFERENCES = 4
_ENDINGS = ("png", "jpg", "jpeg", "webp")


class ContextGrading(Grading):
    """The mean of the types' means: six of them under `fork`, else eight."""

    def weights_of(self, protocol: str) -> Mapping[str, float]:
        """Return the weights that a protocol's overall score has."""
        return self.released_weights if protocol == FORK else self.weights


GRADING = ContextGrading(
    scale=MOST,
    group_of={},
    weights=dict.fromkeys(TASK_TYPES, 1.0),
    released_weights=dict.fromkeys(FORK_TYPES, 1.0),
)


def read_row(value: object, index: int) -> Item:
    """Read a row {key, task_type, instruction, instruction_language?, input_images}.

    Pictures are files beside the items; ValueError says what is wrong with the row.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"an item must be a JSON object, got {value!r:.80}")
    key, instruction, tag = (text(value, name) for name in ("key", "instruction", "task_type"))
    if key is None or instruction is None:
        raise ValueError("`key` and `instruction` must be non-empty texts")
    if tag not in TASK_TYPES:
        raise ValueError(f"unknown task_type {tag!r:.80}; known: {', '.join(TASK_TYPES)}")
    files = value.get("input_images")
    if not isinstance(files, list) or not all(isinstance(one, str) and one for one in files):
        raise ValueError("`input_images` must list the files of the reference pictures")
    if not 1 <= len(files) <= _MOST_REFERENCES:
        raise ValueError(f"an item has 1 to {_MOST_REFERENCES} references, got {len(files)}")
    return ContextItem(
        number=index,
        tag=tag,
        prompt=instruction,
        name=key,
        language=text(value, "instruction_language") or LANGUAGE,
        references=tuple(files),
    )


def locate(item: Item, folder: Path) -> Item:
    """Return the item with its references' full paths.

    Raises:
        ItemsError: a reference is missing.
    """
    found = tuple(os.fspath(folder / name) for name in item.references)
    missing = [name for name in found if not Path(name).is_file()]
    if missing:
        raise ItemsError(
            f"item {item.number} ({item.name}) has no reference picture {missing[0]}; references "
            "lie beside the items file, get both with `echo4o eval fetch omnicontext`"
        )
    return replace(item, references=found)


def score(verdicts: Sequence[Verdict], protocol: str) -> Scores:
    """Return all scores: types, both averages, and both marks on their own."""
    scores = score_points(verdicts, protocol, GRADING)
    counted = [kept for one in by_item(verdicts) if (kept := _counted(one))]
    by_group: dict[str, Score] = {}
    for name, types in ((EIGHT, TASK_TYPES), (SIX, FORK_TYPES)):
        weights = dict.fromkeys(types, 1.0)
        by_group[name] = weighted_points(_by_type(counted, None), weights, MOST)
        for place, mark in enumerate(MARKS):
            group = weighted_points(_by_type(counted, place), weights, MOST)
            by_group[f"{mark.replace('_', ' ')}, {name.removeprefix('average of ')}"] = group
    return replace(scores, by_group=by_group)


def write_statistics(verdicts: Sequence[Verdict], folder: Path) -> None:
    """Write the averages as the published script computes them; what it lacks is null."""
    samples: dict[str, list[Sample]] = defaultdict(list)
    for one in verdicts:
        marks = [finding.points for finding in one.findings]
        if one.is_left_out or one.outcome == "missing":
            continue
        following, consistency = marks if len(marks) == len(MARKS) else (0.0, 0.0)
        samples[one.tag].append(Sample(following or 0.0, consistency or 0.0))
    found = statistics(samples)
    value: dict[str, Any] = {
        "by_type": {name: _plain(averages) for name, averages in found.by_type.items()},
        "eight_types": _plain(found.eight),
        "six_types": _plain(found.six),
    }
    write_atomic(folder / "statistics.json", json.dumps(value, indent=2) + "\n")


def find_layout(items: Sequence[Item], folder: Path) -> dict[str, Path | Part]:
    """Return the pictures of `<task_type>/<key>.png`, by the names that we give them."""
    found: dict[str, Path | Part] = {}
    for item in items:
        files = [folder / item.tag / f"{item.name}.{ending}" for ending in _ENDINGS]
        path = next((file for file in files if file.is_file()), None)
        if path is not None and path.resolve().is_relative_to(folder.resolve()):
            found[f"{item.number}{path.suffix}"] = path
    return found


def check(items: Sequence[Item], samples: Sequence[Mapping[int, Path]], protocol: str) -> None:
    """Refuse pictures of other prompts, and other sizes than the benchmark's under its protocols.

    Raises:
        Echo4oError: the first picture that does not fit.
    """
    check_prompts(items, samples)
    check_sizes(items, samples, None if protocol == KIT else SIZE)


def sheet(item: Item) -> Sheet:
    """Return both marks, which people give as the judge does."""
    return out_of_ten([name.replace("_", " ") for name in MARKS], lambda marks: overall(*marks))


def _by_type(counted: Sequence[Sequence[Verdict]], place: int | None) -> dict[str, list[float]]:
    groups: dict[str, list[float]] = defaultdict(list)
    for item in counted:
        values = [one.value if place is None else _mark(one, place) for one in item]
        groups[item[0].tag].append(sum(values) / len(values))
    return groups


def _mark(verdict: Verdict, place: int) -> float:
    return (verdict.findings[place].points or 0.0) if verdict.findings else 0.0


def _counted(item: Sequence[Verdict]) -> list[Verdict]:
    return [one for one in item if not one.is_left_out]


def _plain(averages: Averages) -> dict[str, float | None]:
    return {
        name: None if math.isnan(value) else value for name, value in averages._asdict().items()
    }


def _ask(reading: str) -> JudgeProtocol:
    return _READINGS[reading](reading, load_texts())


TASK = Task(
    name=NAME,
    title="OmniContext",
    kit_items=Path(__file__).parent / "items" / "omnicontext_kit" / "items.jsonl",
    protocols={KIT: KitContext, **{name: partial(_ask, name) for name in _READINGS}},
    readings={name: reading(name, None) for name, reading in _READINGS.items()},
    read_row=read_row,
    grading=GRADING,
    about="An item has up to 10 points: the geometric mean of prompt following and subject "
    "consistency.",
    size=SIZE,
    usual=FORK,
    hooks=Hooks(
        locate=locate,
        score=score,
        layout=find_layout,
        check=check,
        fetch=fetch_context,
        write=write_statistics,
        sheet=sheet,
    ),
)
