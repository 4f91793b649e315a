"""DPG-Bench's items: long prompts, each with questions that depend on one another.

Read from the benchmark's own file (CSV, one question a row) or from JSONL, one item a line. The
form of a proposition is "category - detail (what it is about)".
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .dpg_rules import ROOT, Question, check_questions
from .items import Item, ItemsError, ItemSet, text

TAG = "dense prompt"
_COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")
_LONGEST_FIELD = 1_000_000
_CATEGORY = re.compile(r"\s*\(.*\Z", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseItem(Item):
    """A prompt with its questions."""

    questions: tuple[Question, ...] = ()
    """In the order of the file, which the rule goes through."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSONL object of this item."""
        questions = [
            {"id": one.number, "question": one.text, "needs": list(one.parents), "of": one.category}
            for one in self.questions
        ]
        return {"item_id": self.name, "text": self.prompt, "questions": questions}


def questions_of(item: Item) -> tuple[Question, ...]:
    """Return an item's questions."""
    assert isinstance(item, DenseItem), "items of DPG-Bench are read by this module"
    return item.questions


def read_row(value: object, index: int) -> Item:
    """Read a row {item_id, text, questions: [{id, question, needs, of}]}; ValueError says why not.

    `needs` lists the questions that must hold first, `of` is the category.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"an item must be a JSON object, got {value!r:.80}")
    name, prompt = text(value, "item_id"), text(value, "text")
    if name is None or prompt is None:
        raise ValueError("`item_id` and `text` must be non-empty texts")
    rows = value.get("questions")
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"item {name!r:.80} has no list of questions")
    return _item(index, name, prompt, [_question(row, name) for row in rows])


def read_csv(path: Path) -> ItemSet:
    """Read the benchmark's own file.

    Raises:
        ItemsError: it is missing, no such CSV, or has questions that cannot be scored.
    """
    try:
        data = path.read_bytes()
        content = data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ItemsError(
            f"no items file {path}; give kit, authors, hub:ORG/NAME, a JSONL file or "
            "the benchmark's CSV file"
        ) from error
    except IsADirectoryError as error:
        raise ItemsError(f"{path} is a folder; give the file in it") from error
    except UnicodeDecodeError as error:
        raise ItemsError(f"{path.name} is not UTF-8 text (byte {error.start})") from error
    csv.field_size_limit(_LONGEST_FIELD)
    try:
        items = tuple(_csv_items(csv.DictReader(io.StringIO(content)), path.name))
    except (csv.Error, ValueError) as error:
        raise ItemsError(f"{path.name}: {error}") from error
    if not items:
        raise ItemsError(f"{path.name} holds no item")
    return ItemSet(source=path.name, sha256=hashlib.sha256(data).hexdigest(), items=items)


def _csv_items(reader: "csv.DictReader[str]", name: str) -> Iterator[Item]:
    missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise ItemsError(
            f"{name} has no column {missing[0]}; the benchmark's questions file has "
            f"{', '.join(_COLUMNS)}"
        )
    rows: dict[str, list[dict[str, str]]] = {}
    for line, row in enumerate(reader, start=2):
        if any(row[column] is None for column in _COLUMNS) or not row["item_id"].strip():
            raise ItemsError(f"{name}, row {line}: a column is empty or missing")
        rows.setdefault(row["item_id"].strip(), []).append(row)
    for number, (item_id, own) in enumerate(rows.items(), start=1):
        prompts = {row["text"].strip() for row in own}
        if len(prompts) > 1:
            raise ItemsError(f"{name}: item {item_id!r:.80} has {len(prompts)} different texts")
        yield _item(number, item_id, prompts.pop(), [_csv_question(row, item_id) for row in own])


def _csv_question(row: Mapping[str, str], item: str) -> Question:
    parents = [part for part in row["dependency"].replace(" ", "").split(",") if part]
    return _checked(
        row["proposition_id"], row["question_natural_language"], parents, row["tuple"], item
    )


def _question(row: object, item: str) -> Question:
    if not isinstance(row, Mapping) or not isinstance(row.get("needs", []), list):
        raise ValueError(f"a question of item {item!r:.80} is {row!r:.80}")
    return _checked(
        row.get("id"), row.get("question"), row.get("needs", []), row.get("of", "other"), item
    )


def _checked(
    number: object, question: object, parents: Sequence[object], category: object, item: str
) -> Question:
    """Return a question whose parts have the right types."""
    where = f"question {number!r:.20} of item {item!r:.80}"
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"{where} has no text")
    if not isinstance(category, str) or not category.strip():
        raise ValueError(f"{where} has no category")
    own, *needed = (_number(one, where) for one in (number, *parents))
    return Question(own, question.strip(), tuple(needed), _category(category))


def _category(text: str) -> str:
    """Return "entity - whole" of "entity - whole (pot)", "global" of "global - (quiet)"."""
    return _CATEGORY.sub("", text).strip().removesuffix("-").strip()


def _number(value: object, where: str) -> int:
    if (
        isinstance(value, int | str)
        and not isinstance(value, bool)
        and str(value).strip().isdigit()
    ):
        return int(value)
    raise ValueError(f"{where} has {value!r:.40} where a question's number must stand")


def _item(number: int, name: str, prompt: str, questions: list[Question]) -> Item:
    # The order of the file decides what a failed parent takes along, so it is kept.
    check_questions(questions, name)
    parents = tuple(
        Question(
            one.number, one.text, tuple(part for part in one.parents if part != ROOT), one.category
        )
        for one in questions
    )
    return DenseItem(number=number, tag=TAG, prompt=prompt, name=name, questions=parents)
