"""DPG-Bench's rule against the recorded scores of the released code."""

import json
import os
from pathlib import Path

import pytest

from echo4o.errors import Echo4oError
from echo4o.eval.dpg_rules import Question, check_questions, is_yes, score


@pytest.mark.shared
def test_recorded_scores(shared):
    folder = Path(os.environ.get("ECHO4O_BENCH_GOLDENS") or shared / "goldens/benchmarks/dev")
    files = sorted(folder.glob("dpg_rule*.json"))
    assert files
    for case in [case for file in files for case in json.loads(file.read_text())["cases"]]:
        questions = [
            Question(n, "?", tuple(case["dependency"][str(n)]), case["tuple"][str(n)])
            for n in case["order"]
        ]
        crops = case["answers_by_crop"]
        found = score(
            questions, [{n: is_yes(crop[str(n)]) for n in case["order"]} for crop in crops]
        )
        assert list(found.crops) == case["crop_scores"]
        assert found.average == pytest.approx(case["average"])
        recorded = {int(n): value for n, value in case["category_scores_recorded"].items()}
        assert found.released == recorded


def test_a_failed_parent_takes_its_children_along():
    questions = [Question(n, "?", (n - 1,), "entity") for n in (1, 2, 3)]
    found = score(questions, [{1: False, 2: True, 3: True}, {1: True, 2: True, 3: True}])
    assert found.crops == (0.0, 1.0)
    assert found.questions == {1: 0.5, 2: 0.5, 3: 0.5}
    assert found.released == {1: 1.0, 2: 1.0, 3: 1.0}


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ({1: (0,), 2: (7,)}, "question 2 of item 'x' depends on question 7"),
        ({1: (2,), 2: (3,), 3: (1,)}, "in a circle"),
        ({0: ()}, "the number 0"),
    ],
)
def test_questions_that_cannot_be_scored(parents, message):
    questions = [Question(number, "?", own, "entity") for number, own in parents.items()]
    with pytest.raises(Echo4oError, match=message):
        check_questions(questions, "x")
    with pytest.raises(Echo4oError, match="twice"):
        check_questions([*questions, questions[0]], "x")
