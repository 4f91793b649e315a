"""GenEval's rules against the recorded verdicts of the released code."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from echo4o.eval.geneval_rules import DetectionRule, keep, overlap, relations, verdict

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def cases(shared):
    folder = Path(os.environ.get("ECHO4O_BENCH_GOLDENS") or shared / "goldens/benchmarks/dev")

    def read(pattern):
        files = sorted(folder.glob(pattern))
        assert files, f"{folder} has no {pattern}"
        return [case for file in files for case in json.loads(file.read_text())["cases"]]

    return read


def as_boxes(rows):
    return np.array(rows, dtype=np.float32).reshape(-1, 5)


def test_relations_and_overlaps(cases):
    for case in cases("geneval_relative_position*.json"):
        a, b = (np.array(case[side], dtype=np.float32) for side in "ab")
        assert relations(a, b, 0.1) == set(case["a_relative_to_b"])
        assert overlap(a, b) == pytest.approx(case["iou"], abs=1e-6)


def test_verdicts(cases):
    for case in cases("geneval_verdicts*.json"):
        found, rule = case["detections"], DetectionRule(max_overlap=case["max_overlap"])
        detections = {name: as_boxes(rows) for name, rows in found.items()}

        def colour_of(name, numbers, found=found, colours=case["colour_oracle"]):
            corners = (found[name][number][:2] for number in numbers)
            return [colours[f"{name}|{x:.2f}|{y:.2f}"] for x, y in corners]

        judged = verdict(case["metadata"], detections, colour_of, rule)
        assert judged.correct == case["correct"]
        assert words(judged.reason) == words(case["reason"])
        for name, boxes in detections.items():
            kept = boxes[keep(boxes, case["metadata"]["tag"], rule)]
            assert kept.tolist() == case["kept"].get(name, [])


def words(reason):
    """Lines of a reason; the released code writes two relations in the order of a set."""
    return [sorted(line.split()) for line in reason.split("\n")]


def test_what_may_not_be_there_is_counted():
    item = {
        "tag": "counting",
        "include": [{"class": "cat", "count": 2}],
        "exclude": [{"class": "cat", "count": 3}],
    }
    rows = [[0, 0, 9, 9, 0.95], [20, 0, 29, 9, 0.94], [40, 0, 49, 9, 0.92], [60, 0, 69, 9, 0.6]]
    two, three = ({"cat": as_boxes(rows[:n])} for n in (2, 4))
    assert verdict(item, two, lambda *_: []) == (True, "")
    assert verdict(item, three, lambda *_: []) == (False, "expected cat<3, found 3")


@pytest.mark.parametrize("values", [{"threshold": 1.5}, {"max_overlap": -1}, {"max_objects": 0}])
def test_rules_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match=f"`{next(iter(values))}` must be"):
        DetectionRule(**values)
