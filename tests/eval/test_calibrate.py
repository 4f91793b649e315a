"""A new judge in an old one's terms: known confusions are undone, too little is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from eval_tools import KIT, paint_into, verdict, write_run

from echo4o.cli import main
from echo4o.errors import Echo4oError
from echo4o.eval.calibrate import calibrate, isotonic
from echo4o.eval.protocols import Finding
from echo4o.eval.runs import load_run, save_run
from echo4o.eval.tasks import get_task

HIT, FALSE = 0.8, 0.25
IMAGINE = get_task("imagine_bench")
MARKED = IMAGINE.items("kit").items


def seen_by_new(draw, right):
    return [bool(draw.random() < (HIT if one else FALSE)) for one in right]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two judges over one model's pictures, the new one over a better model's."""
    root = tmp_path_factory.mktemp("calibrate")
    pictures, draw = paint_into(root / "pictures", KIT.items[:1]), np.random.default_rng(1)
    old = [bool(draw.random() < 0.4) for _ in KIT.items]
    better = [bool(draw.random() < 0.75) for _ in KIT.items]
    said = {
        "old": (old, "old"), "new": (seen_by_new(draw, old), "new"),
        "better": (seen_by_new(draw, better), "new"),
    }  # fmt: skip
    for name, (rights, judge) in said.items():
        verdicts = [verdict(item, one) for item, one in zip(KIT.items, rights, strict=True)]
        run = load_run(write_run(root / name, verdicts, pictures))
        save_run(replace(run, judge={"model": judge, "answered_as": [judge]}), root / name)
    return root, float(np.mean(better))


def test_the_old_judges_share_is_found_again(runs, tmp_path, capsys):
    root, truth = runs
    out = tmp_path / "calibrated.json"
    words = ["eval", "calibrate", root / "better", "--new", root / "new", "--old", root / "old"]
    main([str(word) for word in (*words, "--out", out)])
    assert "calibrated: better as old would have judged it, from 210 pictures" in (
        capsys.readouterr().out
    )
    kept = json.loads(out.read_text())
    found = kept["runs"]["better"]["overall"]
    assert kept["kind"] == "calibrated"
    assert abs(found["raw"] - truth) > 0.08
    assert found["calibrated"] == pytest.approx(truth, abs=0.08)
    assert found["low"] < truth < found["high"]
    with pytest.raises(Echo4oError, match="not a run of format"):
        load_run(out)


@pytest.mark.slow
def test_the_intervals_hold():
    """The overall interval of a calibrated share covers what the old judge's rate is."""
    from echo4o.eval.calibrate import _estimate

    draw, hits = np.random.default_rng(2), 0
    for _ in range(25):
        old = draw.random(210) < 0.4
        new = np.array(seen_by_new(draw, old), dtype=float)
        target = np.array(seen_by_new(draw, draw.random(210) < 0.6), dtype=float)
        pairs = np.stack([new, old.astype(float)], axis=1)
        overall, _ = _estimate(pairs, {"a": target}, {"a": 1.0}, 1.0, None)
        hits += overall.low <= 0.6 <= overall.high
    assert hits >= 21


@pytest.mark.parametrize("method", ["isotonic", "linear"])
def test_points_are_mapped_on_a_line_that_never_falls(tmp_path, method):
    draw = np.random.default_rng(3)
    pictures = paint_into(tmp_path / "pictures", KIT.items[:1])
    old = draw.integers(2, 11, size=90).astype(float)
    for name, judge, marks in (("old", "old", old), ("new", "new", np.maximum(old - 2, 0))):
        verdicts = [
            replace(
                verdict(item, False),
                findings=(Finding(expectation="x", satisfied=False, reason="", points=mark),),
                points=float(mark),
            )
            for item, mark in zip(MARKED, marks, strict=True)
        ]
        run = load_run(write_run(tmp_path / name, verdicts, pictures))
        changed = {"task": "imagine_bench", "judge": {"model": judge, "answered_as": [judge]}}
        save_run(replace(run, **changed), tmp_path / name)
    new = tmp_path / "new"
    (found,) = calibrate(new, tmp_path / "old", [new], method=method)
    assert found.overall.raw == pytest.approx(found.overall.calibrated - 2, abs=0.02)
    assert set(found.by_tag) == set(IMAGINE.grading.weights)
    places, heights = isotonic(np.array([3.0, 1, 2, 4]), np.array([2.0, 0, 4, 5]))
    assert list(zip(places, heights, strict=True)) == [(1, 0), (2, 3), (3, 3), (4, 5)]


def test_too_little_is_refused_in_a_sentence(runs, tmp_path):
    root, _ = runs
    pictures = root / "pictures"

    def run(name, verdicts, judge="new"):
        made = load_run(write_run(tmp_path / name, verdicts, pictures))
        save_run(replace(made, judge={"model": judge, "answered_as": []}), tmp_path / name)
        return tmp_path / name

    few = run("few", [verdict(item, True) for item in KIT.items[:40]])
    wrong = run("wrong", [verdict(item, False) for item in KIT.items], "old")
    draw = np.random.default_rng(4)
    blind = run("blind", [verdict(item, bool(draw.random() < 0.5)) for item in KIT.items])
    other = run("other", [verdict(item, True, picture_sha256="a") for item in KIT.items])
    seen = run("seen", [verdict(item, True, picture_sha256="b") for item in KIT.items], "old")
    for new, old, said in (
        (few, root / "old", "only 40 of the same pictures; a calibration needs 60"),
        (root / "new", wrong, "called 0 of 210 pictures right"),
        (blind, root / "old", "too little to map"),
        (root / "new", root / "better", "both runs were judged by new"),
        (root / "old", root / "new", "not one new judge but new, old"),
        (other, seen, "saw different pictures"),
    ):
        with pytest.raises(Echo4oError, match=said):
            calibrate(new, old, [root / "better"])
