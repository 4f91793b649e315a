"""OmniContext's rules against what the released code made of scripted replies.

Reads every file of a known kind in a folder: $ECHO4O_BENCH_GOLDENS, else the recorded ones.
"""

import json
import math
import os
from pathlib import Path

import pytest

from echo4o.eval.omnicontext_rules import (
    Sample,
    guess_reason,
    parse_reply,
    read_rounds,
    statistics,
)

pytestmark = pytest.mark.shared
GUESS = "<RANDOM 0..10>"


@pytest.fixture(scope="module")
def cases(shared):
    folder = Path(os.environ.get("ECHO4O_BENCH_GOLDENS") or shared / "goldens/benchmarks/dev")

    def read(kind):
        files = sorted(folder.rglob(f"omnicontext_{kind}*.json"))
        assert files or os.environ.get("ECHO4O_BENCH_GOLDENS"), f"{folder} has no {kind}"
        return [case for file in files for case in json.loads(file.read_text())["cases"]]

    return read


def same(found, wanted):
    """Equality in which 1, 1.0 and true are told apart."""
    assert json.dumps(found) == json.dumps(wanted)


def test_replies(cases):
    for case in cases("parse"):
        if case["ok"]:
            same(parse_reply(case["reply"]), case["parsed"])
            continue
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - both kinds are told apart below
            parse_reply(case["reply"])
        is_json = isinstance(caught.value, json.JSONDecodeError)
        assert is_json == (case["error_type"] == "JSONDecodeError"), case["reply"]


def test_rounds(cases):
    for case in cases("flow"):
        replies = case["script"]
        read = read_rounds(replies)
        assert [2**turn for turn in read.failed_rounds] == case["sleeps"]
        found = (("PF_scores", read.following, 4), ("SC_scores", read.consistency, 5))
        for key, parsed, last in found:
            if parsed is None:
                parsed = {"score": GUESS, "reasoning": guess_reason(replies[last])}
            same(parsed, case["result"][key])


def test_averages(cases):
    for case in cases("aggregate"):
        samples = {
            name: [
                Sample(one["PF_score"], one["SC_score"], one["instruction_language"])
                for one in group
            ]
            for name, group in case["scores"].items()
        }
        found = statistics(samples)
        for place, key in enumerate(("pf", "sc", "overall")):
            for name, wanted in case[key].items():
                close(found.by_type[name][place], wanted)
        for averages, key in (
            (found.eight, "average_upstream"),
            (found.six, "average_echo4o_fork"),
        ):
            for value, wanted in zip(averages, case[key], strict=True):
                close(value, wanted)


def close(found, wanted):
    assert math.isnan(found) if math.isnan(wanted) else found == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(
    ("reply", "parsed"),
    [
        ("{score: -3, a: b}", {"score": [-3], "a": "b"}),
        ('{"score": 7.5, reasoning: fine}', {"score": [7.5], "reasoning": "fine"}),
        ("text {score:8} text", {"score": [8]}),
        ("{score: 7, sure: True, n: null}", {"score": [7], "sure": "True", "n": None}),
    ],
)
def test_mending_makes_lists_of_numbers(reply, parsed):
    assert parse_reply(reply) == parsed


@pytest.mark.parametrize(
    "reply",
    ["{score: 7, reasoning: good, but dull}", "{'score': 7}", "{}}", "{" * 60_000 + "}" * 60_000],
)
def test_what_cannot_be_mended_is_no_answer(reply):
    with pytest.raises(ValueError):  # noqa: PT011 - JSON's own error among them
        parse_reply(reply)


def test_a_rate_limit_fails_its_round_on_either_side_and_braces_alone_are_read():
    good = '{"score": 8}'
    read = read_rounds([good, good, "rate_limit_exceeded", good, "{}", "rate_limit_exceeded"])
    assert read == ({}, "rate_limit_exceeded", (1, 2))
    assert read_rounds([good, good, "rate_limit_exceeded", good]).following == "rate_limit_exceeded"
