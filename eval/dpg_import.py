"""Answers of DPG-Bench that were given elsewhere - the original mPLUG, say - become a run of ours.

One JSON object a line: {"item_id": ..., "picture": 1 to 4, "answers": {"1": "yes", ...}}, numbers
as in the questions file. Nothing is asked and nothing is guessed: a line that does not fit is an
error, a picture without a line is a verdict `missing`.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from echo4o.client import Reply
from echo4o.errors import Echo4oError
from echo4o.records import write_atomic

from .dpg_judges import CROPS, SingleAnswers
from .items import Item, ItemSet
from .runs import ITEMS_FILE, Run, record_run, refuse_another_run, save_run
from .series import SeriesCase
from .tasks import Task
from .verdicts import Verdict

PREFIX = "imported:"
_LONGEST_NAME = 80

Answers = Mapping[tuple[int, int], Mapping[int, str]]
"""By item number and picture: answers by the question's number."""


def import_answers(
    task: Task, source: ItemSet, file: Path, *, judge: str, protocol: str, out: Path
) -> Run:
    """Score the answers of a file and write run.json, items.jsonl and record.json into `out`.

    Args:
        task: DPG-Bench.
        source: Its items; all of them are scored.
        file: The answers.
        judge: What answered; part of the result.
        protocol: `paper` or `released`, which say what counts as yes.
        out: Folder of the run.

    Raises:
        Echo4oError: a line does not fit the items, or the protocol asks in words of its own.
    """
    if not judge.strip() or len(judge) > _LONGEST_NAME:
        raise Echo4oError(f"--judge must name what answered, got {judge!r:.90}")
    asked = task.protocol(protocol)
    if not isinstance(asked, SingleAnswers):
        raise Echo4oError(
            f"answers from elsewhere were given to the benchmark's own questions, not to those of "
            f"the protocol {protocol}; use --protocol paper or released"
        )
    name = f"{PREFIX}{judge.strip()}"
    wanted = {"task": task.name, "protocol": protocol, "judge": name, "items": source.sha256}
    refuse_another_run(out, wanted)
    answers = read_answers(file, source.items, asked)
    pictures = max(picture for _, picture in answers)
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    verdicts = tuple(
        _verdict(item, picture, answers.get((item.number, picture)), asked)
        for item in source.items
        for picture in range(1, pictures + 1)
    )
    run = Run(
        task=task.name,
        protocol={"name": asked.name, "version": asked.version},
        items={
            "source": source.source,
            "sha256": source.sha256,
            "available": len(source.items),
            "judged": len(source.items),
        },
        judge={
            "model": name,
            "answered_as": [judge.strip()],
            "repeats": 1,
            "samples": pictures,
        },
        generation=None,
        verdicts=verdicts,
        calls=0,
        spent_usd=0.0,
        started=started,
        seconds=0.0,
        pictures=out,
    )
    lines = "".join(json.dumps(item.to_json()) + "\n" for item in source.items)
    write_atomic(out / ITEMS_FILE, lines)
    save_run(run, out)
    record_run(run, out)
    return run


def read_answers(file: Path, items: Sequence[Item], protocol: SingleAnswers) -> Answers:
    """Read a file of answers.

    Raises:
        Echo4oError: it is missing, empty, or has a line that does not fit the items.
    """
    try:
        lines = file.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Echo4oError(f"{file} cannot be read as a file of answers ({error})") from error
    by_name = {item.name: item for item in items}
    found: dict[tuple[int, int], Mapping[int, str]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            item = _item(value, by_name)
            picture = value.get("picture", 1)
            if type(picture) is not int or not 1 <= picture <= CROPS:
                raise ValueError(f"`picture` is {picture!r:.40}, not a number from 1 to {CROPS}")
            if (item.number, picture) in found:
                raise ValueError(f"picture {picture} of item {item.name!r:.80} stands there twice")
            given = _answers(value.get("answers"), [q.number for q in protocol.asked(item)], item)
        except (ValueError, RecursionError) as error:
            raise Echo4oError(f"{file}, line {number}: {error}") from error
        found[item.number, picture] = given
    if not found:
        raise Echo4oError(f"{file} holds no answers")
    return found


def _item(value: object, by_name: Mapping[str, Item]) -> Item:
    if not isinstance(value, Mapping) or not isinstance(value.get("item_id"), str):
        raise ValueError("a line must be a JSON object with `item_id`, `picture` and `answers`")
    if value["item_id"] not in by_name:
        raise ValueError(f"there is no item {value['item_id']!r:.80} among the items")
    return by_name[value["item_id"]]


def _answers(value: object, numbers: Sequence[int], item: Item) -> dict[int, str]:
    if not isinstance(value, Mapping):
        raise ValueError("`answers` must be an object of answers by question number")
    missing = [number for number in numbers if not isinstance(value.get(str(number)), str)]
    if missing:
        raise ValueError(f"question {missing[0]} of item {item.name!r:.80} has no answer")
    return {number: str(value[str(number)]) for number in numbers}


def _verdict(
    item: Item, picture: int, given: Mapping[int, str] | None, protocol: SingleAnswers
) -> Verdict:
    case = SeriesCase(item=item, path=None, protocol=protocol, sample=picture)
    if given is None:
        return case.unasked("missing", "the file has no answers about this picture")
    texts = list(given.values()) or ["no"]
    replies: list[Any] = [Reply(outcome="done", text=text, model="") for text in texts]
    verdict = None
    for reply in replies:
        verdict = case.take(reply) or verdict
        if verdict is not None:
            break
    assert verdict is not None, "all questions were answered"
    return verdict
