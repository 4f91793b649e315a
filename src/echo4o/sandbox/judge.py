"""The sandbox's judge: looks at the pixels and answers the questions that the benchmarks ask.

It never takes a prompt for truth and knows nothing of what was painted. What it cannot find is not
satisfied. Questions are read by judge_reading.py, pictures by judge_look.py, JSON schemas are
filled by judge_forms.py.
"""

import json
import re

from . import world
from .judge_forms import fill
from .judge_look import SIDES, Form, Look, Question, common_size, compare, place, rephrase, scores
from .judge_reading import (
    read_expectations,
    read_how_many,
    read_questions,
    read_score_names,
    read_yes_no,
)

__all__ = ["Form", "Question", "answer"]


def answer(question: Question) -> str:
    """The reply as text; JSON when a schema or a JSON reply is asked for."""
    look = Look(question)
    if question.schema is not None:
        asked = read_questions(question.text)
        if asked and "answers" in question.schema.get("properties", {}):
            return json.dumps({"answers": [_yes_or_no(look.seen, one).lower() for one in asked]})
        return json.dumps(fill(question.schema, look))
    names = read_score_names(question.text)
    if names:
        return _score_lines(names, look)
    if _asks_score_and_reasoning(question):
        score, reasoning = compare(look)
        return json.dumps({"score": score, "reasoning": reasoning})
    if read_expectations(question.text) or question.form == "json":
        return json.dumps({"correct": int(look.is_correct), "reason": look.reason})
    return _plain_answer(look)


def _plain_answer(look: Look) -> str:
    text = look.question.text
    counted = read_how_many(text)
    if counted is not None and look.question.pictures:
        groups = world.parse(counted)
        return str(len(_find(look.seen, groups[0]))) if groups else "0"
    asked = read_yes_no(text)
    if asked is not None and look.question.pictures:
        return _yes_or_no(look.seen, asked)
    if look.question.pictures:
        return f"The picture shows {world.describe(look.seen)}."
    return rephrase(look.instruction or text)


def _yes_or_no(seen: list[world.Seen], asked: str) -> str:
    return "Yes" if _is_so(seen, asked) else "No"


def _is_so(seen: list[world.Seen], asked: str) -> bool:
    groups = world.parse(asked)
    if not groups:
        return False
    found = [_find(seen, group) for group in groups]
    exact = re.search(r"\b(exactly|only|just)\b", asked, re.I) is not None
    numbered = re.search(r"\b(\d|one|two|three|four|five|six|seven|eight|nine)\b", asked, re.I)
    if exact or numbered:
        return all(len(hits) == group.count for hits, group in zip(found, groups, strict=True))
    return all(found)


def _find(seen: list[world.Seen], group: world.Group) -> list[world.Seen]:
    return [
        one
        for one in seen
        if one.shape == group.shape
        and group.colour in (None, one.colour)
        and (group.region is None or place(one, group.region) == SIDES[group.region])
        and (group.size is None or common_size([one]) == group.size)
    ]


def _asks_score_and_reasoning(question: Question) -> bool:
    return '"score"' in question.text and '"reasoning"' in question.text


def _score_lines(names: list[str], look: Look) -> str:
    known = scores(look)
    keys = {"fantasy": "fantasy", "identity": "identity", "aesthetic": "quality"}
    blocks = []
    for name in names:
        word = name.split()[0].lower()
        value, reason = known.get(keys.get(word, ""), (round(10 * look.share), look.reason))
        blocks.append(f"{name}: {value}\nReason: {reason}")
    return "\n\n".join(blocks)
