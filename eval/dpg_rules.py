"""DPG-Bench's score of one picture from the answers to its questions.

The rules of the benchmark (Hu et al., 2024, arXiv 2403.05135). A picture is cut into crops, each
crop answers every question, and a question whose parent failed counts as failed. The judge that
answers is elsewhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

from echo4o.errors import Echo4oError

ROOT = 0
"""The parent of a question that depends on none."""


@dataclass(frozen=True, slots=True)
class Question:
    """One proposition of an item."""

    number: int
    """Its number within the item, from 1."""
    text: str
    parents: tuple[int, ...]
    """Numbers of the questions it depends on; 0 or none for a root."""
    category: str
    """For example "entity - whole"."""


class DpgScore(NamedTuple):
    """The score of one picture."""

    crops: tuple[float, ...]
    """Share of questions that hold in each crop, 0 to 1."""
    average: float
    """Over the crops."""
    questions: dict[int, float]
    """Share of crops in which each question holds, after parents have their say."""
    released: dict[int, float]
    """What the released tables of categories use: the last crop's answers alone, before that."""


def check_questions(questions: Sequence[Question], item: str) -> None:
    """Refuse questions that cannot be scored.

    Raises:
        Echo4oError: a number stands twice, or a question depends on one that is missing, or in a
            circle on itself.
    """
    parents = {one.number: [p for p in one.parents if p != ROOT] for one in questions}
    if len(parents) < len(questions) or ROOT in parents:
        raise Echo4oError(
            f"item {item!r} has a question number twice, or the number 0; number its questions "
            "from 1"
        )
    for number, own in parents.items():
        missing = [parent for parent in own if parent not in parents]
        if missing:
            raise Echo4oError(
                f"question {number} of item {item!r} depends on question {missing[0]}, which the "
                "item does not have; correct the file of questions"
            )
    try:
        TopologicalSorter(parents).prepare()
    except CycleError as error:
        circle = " -> ".join(map(str, error.args[1]))
        raise Echo4oError(
            f"questions of item {item!r} depend on each other in a circle: {circle}; correct the "
            "file of questions"
        ) from error


def is_yes(answer: str) -> bool:
    """The released reading: exactly "yes", lower case and without a full stop."""
    return answer == "yes"


def score(questions: Sequence[Question], answers: Sequence[Mapping[int, bool]]) -> DpgScore:
    """Score one picture.

    Args:
        questions: in the order of the file, as `check_questions` allows.
        answers: for each crop, whether each question was answered with yes.
    """
    if not questions or not answers:
        raise ValueError("a score needs at least one question and one crop")
    held = [_with_parents(questions, crop) for crop in answers]
    crops = tuple(sum(crop.values()) / len(questions) for crop in held)
    shares = {
        question.number: sum(crop[question.number] for crop in held) / len(held)
        for question in questions
    }
    last = {question.number: float(answers[-1][question.number]) for question in questions}
    return DpgScore(crops, sum(crops) / len(crops), shares, last)


def _with_parents(questions: Sequence[Question], crop: Mapping[int, bool]) -> dict[int, bool]:
    """Answers of a crop, where what depends on a failed question fails.

    In the order of the file and in one pass, as released: a question that stands before its parent
    sees the parent's own answer only.
    """
    held = dict(crop)
    for question in questions:
        if not all(held[parent] for parent in question.parents if parent != ROOT):
            held[question.number] = False
    return held
