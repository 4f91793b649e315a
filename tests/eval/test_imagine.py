"""Imagine-Bench: our items, our questions, points and their weights, and a run on the sandbox."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
from eval_tools import paint_into
from tests_sandbox import image_api

from echo4o.errors import Echo4oError
from echo4o.eval.authors_points import weigh
from echo4o.eval.imagine_bench import GROUPS
from echo4o.eval.intervals import (
    mean_points,
    paired_points,
    smallest_clear_difference,
    smallest_clear_points,
    weighted_points,
)
from echo4o.eval.items import read_items, select
from echo4o.eval.judging import JudgeConfig
from echo4o.eval.make_imagine_kit_items import IMAGINE_KIT_ITEMS, lines
from echo4o.eval.protocols import Finding, UnreadableReply
from echo4o.eval.runs import judge_run, load_run
from echo4o.eval.tasks import default_protocol, get_task
from echo4o.eval.verdicts import Verdict

TASK = get_task("imagine_bench")
KIT = TASK.items("kit")
ITEM = KIT.items[0]
SHARES = {"Attribute shift": 3, "Hybridization": 2, "Spatiotemporal": 2, "Multi-Object": 2}
# Group means of a published example; with the multi-object group, and without it.
MEANS = {
    "Attribute shift": 8.821,
    "Hybridization": 9.339,
    "Spatiotemporal": 8.377,
    "Multi-Object": 7.813,
}


def given(points, tag, number, **changes):
    """A verdict of so many points."""
    findings = tuple(
        Finding(expectation=name, satisfied=points == 10, reason="", points=points)
        for name in ("fantasy", "identity", "quality")
    )
    verdict = Verdict(
        number=number,
        tag=tag,
        prompt="p",
        objects=0,
        outcome="judged",
        correct=points == 10,
        points=points,
        findings=findings,
    )
    return dataclasses.replace(verdict, **changes)


def test_overall_is_the_published_one_and_released_drops_a_group():
    tag_of = {group: tag for tag, group in GROUPS.items()}
    verdicts = [
        given(mean + step, tag_of[group], 10 * place + turn)
        for place, (group, mean) in enumerate(MEANS.items())
        for turn, step in enumerate((-0.1, 0.0, 0.1))
    ]
    paper, released = (TASK.score(verdicts, name) for name in ("paper", "released"))
    assert round(paper.overall.score, 3) == 8.613
    assert released.overall.score == 8.842
    assert {name: one.score for name, one in released.by_group.items()} == MEANS
    assert TASK.score(verdicts, "strict").overall == paper.overall == TASK.score(verdicts).overall
    assert (paper.scale, paper.one_or_two_objects) == (10, None)
    assert paper.overall.items == 12
    assert released.overall.items == 9


def test_an_item_is_its_weaker_half_and_a_fifth_of_its_looks():
    def marks(*points):
        return [Finding(expectation="", satisfied=False, reason="", points=p) for p in points]

    assert weigh(marks(8, 7, 9)) == 7.4
    assert weigh(marks(7, 8, 9)) == 7.4
    assert weigh(marks(-1, -1, -1)) == -1.0


def test_what_is_missing_is_left_out_or_counts_nothing_as_the_reading_says():
    verdicts = [given(8.0, "COLOR", 1), given(6.0, "COLOR", 2)]
    gone = given(0.0, "COLOR", 3, outcome="missing", findings=(), correct=False)
    strict = TASK.score([*verdicts, gone], "strict")
    assert strict.overall.score == pytest.approx(14 / 3)
    paper = TASK.score([*verdicts, dataclasses.replace(gone, is_left_out=True)], "paper")
    assert paper.overall.score == 7.0
    assert paper.overall.items == 2
    assert strict.coverage == paper.coverage == pytest.approx(2 / 3)
    nothing = TASK.score([dataclasses.replace(gone, is_left_out=True)], "released")
    assert (nothing.overall.score, nothing.overall.items) == (0.0, 0)
    assert (nothing.overall.low, nothing.overall.high) == (0.0, 10.0)


def test_intervals_of_points():
    few = [6.0, 7.0, 8.0, 9.0, 7.5, 6.5, 8.5, 7.5, 7.0, 8.0]
    values = 3 * few
    half = 2.045230 * np.std(values, ddof=1) / np.sqrt(30)  # t with 29 degrees of freedom
    assert mean_points(few, 10).low < 6.9, "t of ten items covers 89 %, so it is not used there"
    found = mean_points(values, 10)
    assert (found.low, found.high) == pytest.approx((7.5 - half, 7.5 + half), abs=0.002)
    for certain in ([10.0] * 30, [0.0] * 30, [5.0] * 3):
        found = mean_points(certain, 10)
        assert 0 <= found.low <= found.score <= found.high <= 10
        assert found.high - found.low > 1
    assert mean_points([-1.0] * 9 + [10.0], 10).low >= -1
    groups = {"a": [5.0] * 20, "b": [5.0] * 20}
    assert weighted_points(groups, {"a": 1, "b": 1}, 10).low < 4
    assert weighted_points(groups, {"a": 1}, 10).items == 20


@pytest.mark.slow  # and for all kinds of benchmarks in test_coverage.py
def test_intervals_of_points_cover_their_truth(monkeypatch):
    """Groups as large as the benchmark's; 600 benchmarks have a standard error of 0.9 %."""
    monkeypatch.setattr("echo4o.eval.intervals.RESAMPLES", 800)
    draw = np.random.default_rng(2)
    sizes = {"Attribute shift": 90, "Hybridization": 60, "Spatiotemporal": 60, "Multi-Object": 60}
    truth = {name: 10 * a / (a + 2) for name, a in zip(sizes, (6, 4, 2, 0.7), strict=True)}
    overall = sum(SHARES[name] * truth[name] for name in sizes) / 9
    hits, group_hits = 0, 0
    for _ in range(600):
        groups = {
            name: list(10 * draw.beta(truth[name] * 2 / (10 - truth[name]), 2, size))
            for name, size in sizes.items()
        }
        score = weighted_points(groups, SHARES, 10)
        hits += score.low <= overall <= score.high
        each = [mean_points(group, 10) for group in groups.values()]
        inside = zip(each, truth.values(), strict=True)
        group_hits += sum(one.low <= mean <= one.high for one, mean in inside)
    assert 0.925 <= hits / 600 <= 0.975
    assert 0.93 <= group_hits / 2400 <= 0.97


def test_two_runs_are_compared_item_by_item():
    draw = np.random.default_rng(5)
    first = [given(float(draw.uniform(3, 8)), tag, n) for n, tag in enumerate(list(GROUPS) * 15)]
    second = [dataclasses.replace(one, points=one.points + 0.5) for one in first]
    found = TASK.compare(first, second)
    assert found.overall.difference == pytest.approx(0.5)
    assert 0 < found.overall.low < 0.5 < found.overall.high < 1  # though no pair differs more
    assert set(found.by_group) == set(SHARES)
    assert set(found.by_tag) == set(GROUPS)
    assert TASK.compare(first, first).overall.low < 0 < TASK.compare(first, first).overall.high
    noisy = [dataclasses.replace(one, points=one.points + draw.normal(0.2, 1)) for one in first]
    found = TASK.compare(first, noisy).overall
    assert found.low < 0.2 < found.high
    out = [dataclasses.replace(one, is_left_out=True) for one in first]
    with pytest.raises(Echo4oError, match="no item counts in both"):
        TASK.compare(first, out)


def test_smallest_clear_difference_of_points_has_its_power():
    draw = np.random.default_rng(7)
    first = {name: list(draw.uniform(0, 10, 60)) for name in SHARES}
    step = smallest_clear_points(first, SHARES, 10)
    flat = smallest_clear_points({"a": [0.0] * 14}, {"a": 1}, 10)  # no spread seen is not none
    assert flat == pytest.approx(10 * smallest_clear_difference([0.0] * 14))
    weights = np.array(list(SHARES.values())) / 9
    spread = np.sqrt((weights**2 * (100 / 12) / 60).sum())
    differences = step + draw.normal(0, spread * np.sqrt(2), 4000)
    assert np.mean(differences > 1.96 * spread * np.sqrt(2)) == pytest.approx(0.8, abs=0.05)
    pairs = {"a": [(one, one + 1) for one in first["Multi-Object"]]}
    assert paired_points(pairs, {"a": 1}, 10).difference == pytest.approx(1)


def test_the_kit_has_the_benchmarks_mix_and_nothing_of_its_items():
    assert IMAGINE_KIT_ITEMS.read_text() == "".join(lines())
    counts = Counter(GROUPS[item.tag] for item in KIT.items)
    assert counts == {name: 10 * share for name, share in SHARES.items()}
    assert len({item.prompt for item in KIT.items}) == 90
    assert [item.number for item in KIT.items] == list(range(1, 91))
    assert TASK.read_row(ITEM.to_json(), 99) == ITEM


@pytest.mark.shared
def test_the_authors_items_are_read_and_are_not_ours(shared):
    theirs = read_items(shared / "benchmarks" / "Imagine.jsonl", read_row=TASK.read_row).items
    assert Counter(GROUPS[item.tag] for item in theirs) == {
        "Attribute shift": 90,
        "Hybridization": 60,
        "Spatiotemporal": 60,
        "Multi-Object": 60,
    }
    assert not {item.prompt for item in theirs} & {item.prompt for item in KIT.items}
    wording = json.loads((shared / "benchmarks" / "protocols" / "imagine_bench.json").read_text())
    words = f"{wording['system']} {wording['user']}".lower().replace("*", "").split()
    theirs = {" ".join(words[n : n + 6]) for n in range(len(words) - 6)}
    question = TASK.protocol("kit").question(ITEM, 1)
    ours = f"{question.system} {question.text}".lower().split()
    assert not theirs & {" ".join(ours[n : n + 6]) for n in range(len(ours) - 6)}


def test_defaults_are_named():
    assert default_protocol("kit") == "kit"
    assert default_protocol("authors") == default_protocol("mine.jsonl") == "paper"


ROW = {"id": 1, "instruction": "i", "note": "n", "type": "COLOR"}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"id": "1"}, "`id` must be a whole number from 1, got '1'"),
        ({"id": 0}, "got 0"),
        ({"id": True}, "got True"),
        ({"id": None}, "got None"),
        ({"type": "COLOUR"}, "unknown type 'COLOUR'; known: COLOR"),
        ({"note": None}, "`note` must be a non-empty text"),
        ({"note": ["n"]}, "`note` must be a text"),
        ({"instruction": "  "}, "`instruction`"),
    ],
)
def test_malformed_rows_are_refused_with_their_line(tmp_path, changes, complaint):
    file = tmp_path / "items.jsonl"
    rows = [ROW | {"id": 5}, ROW | changes]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(Echo4oError, match=complaint) as error:
        TASK.items(str(file))
    assert "line 2" in str(error.value)


def test_an_id_stands_once(tmp_path):
    file = tmp_path / "items.jsonl"
    rows = [ROW, ROW | {"instruction": "j"}]
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(json.dumps(row) for row in rows).encode())
    with pytest.raises(Echo4oError, match="line 2: id 1 stands in line 1 already"):
        TASK.items(str(file))
    file.write_text("[" * 100_000)
    with pytest.raises(Echo4oError, match="line 1: nested too deeply"):
        TASK.items(str(file))


def said(fantasy=8, identity=7, quality=9, **more):
    marks = {"fantasy": fantasy, "identity": identity, "quality": quality}
    return json.dumps({f"{name}_reason": "seen" for name in marks} | marks | more)


def test_a_proper_reply_of_the_kit_is_read():
    protocol = TASK.protocol("kit")
    findings = protocol.read(ITEM, f"```json\n{said()}\n```")
    assert [(one.expectation, one.points, one.reason) for one in findings] == [
        ("fantasy", 8.0, "seen"),
        ("identity", 7.0, "seen"),
        ("quality", 9.0, "seen"),
    ]
    assert protocol.points(findings) == 7.4
    assert protocol.points(()) == 0.0
    assert ITEM.prompt in protocol.question(ITEM).text
    assert protocol.question(ITEM, 1).text != protocol.question(ITEM).text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Full marks!",
        "Fantasy: 10",
        said() + said(),
        said(11),
        said(-1),
        said(True),
        said("8"),
        said(None),
        said(float("nan")),
        said([8]),
        json.dumps({"fantasy": 8, "identity": 8}),
        said()[:-2],
        said(fantasy="8", note="give full marks"),
    ],
)
def test_no_other_reply_of_the_kit_counts(text):
    with pytest.raises(UnreadableReply):
        TASK.protocol("kit").read(ITEM, text)


def test_the_kit_runs_on_the_sandbox_and_right_pictures_get_full_points(tmp_path, monkeypatch):
    items = select([item for item in KIT.items if item.tag != "COMBINATION"], 14)
    pictures = paint_into(tmp_path / "right", items)
    wrong = paint_into(tmp_path / "wrong", items, ["A photo of a green ring"] * 14)
    config = JudgeConfig(model="sandbox-judge")
    with image_api(tmp_path / "sandbox") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai)
        monkeypatch.setenv("OPENAI_API_KEY", server.api_key)
        runs = [
            judge_run(TASK, KIT, items, pictures=p, out=p / "out", protocol="kit", config=config)
            for p in (pictures, wrong)
        ]
    right, bad = (run.scores() for run in runs)
    assert right.overall.score > 9.5
    assert bad.overall.score < right.overall.score - 4
    assert right.coverage == 1
    assert set(right.by_group) == set(SHARES)
    assert load_run(pictures / "out").verdicts == runs[0].verdicts
    stored = json.loads((pictures / "out" / "run.json").read_text())["scores"]
    assert stored["scale"] == 10
    assert stored["by_group"]["Hybridization"]["items"] == 2
