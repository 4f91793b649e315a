"""A judge that moves is noticed, one that stays is left in peace; the canary's life over runs."""

import json

import numpy as np
import pytest
from eval_tools import KIT, TASK, paint_into, verdict
from tests_sandbox import image_api

from echo4o.cli import main
from echo4o.errors import Echo4oError
from echo4o.eval.canary import compare, open_canary, record
from echo4o.eval.drift import drift, drift_lines

PROTOCOL = TASK.protocol("kit")


def runs_of(draw, pictures, runs, *, disagree, shift=0.0, since=1):
    """Verdicts of a judge of whom two looks at one picture differ with chance `disagree`."""
    chance = (draw.random(pictures) < 0.45).astype(float)
    doubtful = draw.random(pictures) < 3 * disagree
    chance[doubtful] = draw.random(doubtful.sum())
    fallen = chance * (1 - shift / chance.mean())
    return [
        (draw.random(pictures) < (fallen if run >= since else chance)).astype(float)
        for run in range(runs + 1)
    ]


def alarms(draw, benchmarks, runs, which, **how):
    """Share of simulated judges that raise the alarm `which` after one of their runs."""
    found = 0
    for _ in range(benchmarks):
        first, *later = runs_of(draw, 280, runs, **how)
        looks = range(how.get("since", 1), runs + 1)
        found += any(getattr(drift(first, later[:n]), which) for n in looks)
    return found / benchmarks


def test_a_shift_of_ten_points_is_found_and_none_is_invented():
    draw = np.random.default_rng(5)
    assert alarms(draw, 300, 1, "moved_now", disagree=0.05, shift=0.1) >= 0.95
    assert alarms(draw, 300, 1, "moved_now", disagree=0.05) <= 0.02


@pytest.mark.slow
def test_power_and_false_alarms():
    """280 pictures, judges that differ from themselves on 2 to 8 % of them."""
    draw = np.random.default_rng(6)
    for disagree in (0.02, 0.05, 0.08):
        power = alarms(draw, 2000, 1, "moved_now", disagree=disagree, shift=0.1)
        false = alarms(draw, 2000, 1, "moved_now", disagree=disagree)
        over = alarms(draw, 600, 20, "moved_over_runs", disagree=disagree)
        late = alarms(draw, 300, 12, "moved_over_runs", disagree=disagree, shift=0.05, since=4)
        print(f"{disagree:.0%}: power {power:.3f}, false {false:.4f}, over 20 runs {over:.4f}, "
              f"5 points since run 4 found by run 12: {late:.2f}")  # fmt: skip
        assert power >= 0.95
        assert false <= 0.01
        assert over <= 0.01
        assert late >= 0.85


def test_the_moment_of_a_change_and_what_can_be_seen_by_now():
    draw = np.random.default_rng(7)
    first, *later = runs_of(draw, 280, 6, disagree=0.03, shift=0.15, since=4)
    before, after = drift(first, later[:3]), drift(first, later)
    assert not before.moved_now
    assert not before.moved_over_runs
    assert after.moved_over_runs
    assert after.since == 4
    assert after.shift_since == pytest.approx(-0.15, abs=0.03)
    assert 0.05 < before.smallest_shift < 0.13
    said = "\n".join(drift_lines(after.to_json(), "m"))
    assert "judge m is not the one that it was since run 4" in said
    gaps = drift([1.0, None, 0.0], [[0.0, 1.0, 0.0]])
    assert (gaps.pictures, gaps.lower, gaps.p_value) == (2, 1, 1.0)
    assert drift([None], [[1.0]]).smallest_shift == 1


def test_a_canary_is_recorded_once_and_noted_once_for_each_run(tmp_path):
    pictures = paint_into(tmp_path / "pictures", KIT.items[:80])
    said = [verdict(item, item.number % 2 == 0) for item in KIT.items[:80]]
    canary = open_canary(tmp_path, TASK, PROTOCOL, "org/judge")
    assert record(canary, KIT.items[:60], pictures, said[:60], "a") == 0  # too few
    assert record(canary, KIT.items[:80], pictures, said, "a") == 80
    canary = open_canary(tmp_path, TASK, PROTOCOL, "org/judge")
    assert [item.prompt for item in canary.items] == [item.prompt for item in KIT.items[:80]]
    assert [case.path.is_file() for case in canary.cases()] == [True] * 80
    assert compare(canary, said, "a") is None
    assert compare(canary, said, "b").runs == 1
    assert compare(canary, said, "b").runs == 1
    wrong = [verdict(item, False) for item in KIT.items[:80]]
    found = compare(canary, wrong, "c")
    assert (found.runs, found.lower, found.moved_now) == (2, 40, True)
    assert compare(canary, said, "b").runs == 1  # as it was after that run
    assert not open_canary(tmp_path, TASK, PROTOCOL, "other").items
    assert not open_canary(tmp_path, TASK, PROTOCOL, "org/judge", "http://me:x@gpu:8000/v1").items
    own = "https://api.openai.com/v1"
    assert open_canary(tmp_path, TASK, PROTOCOL, "org/judge", own).items
    (canary.folder / "3.png").write_bytes(b"another")
    with pytest.raises(Echo4oError, match=r"3.png is another picture now.*--no-canary"):
        open_canary(tmp_path, TASK, PROTOCOL, "org/judge")


def test_the_second_run_asks_about_the_first_ones_pictures(tmp_path, monkeypatch, capsys):
    pictures = paint_into(tmp_path / "a", KIT.items[:70])
    others = paint_into(tmp_path / "b", KIT.items[:1], ["a red cube"])
    for item in KIT.items[1:70]:
        (others / f"{item.number}.png").write_bytes((others / "1.png").read_bytes())
    words = ["eval", "judge", TASK.name, "--judge", "sandbox-judge", "--canary", tmp_path / "c"]
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps(item.to_json()) + "\n" for item in KIT.items[:70]))
    words += ["--items", items, "--protocol", "kit"]

    def judged(images, out, *more):
        asked = [*words, "--images", images, "--out", tmp_path / out, *more]
        main([str(word) for word in asked])
        return capsys.readouterr().out

    with image_api(tmp_path / "sandbox") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai)
        monkeypatch.setenv("OPENAI_API_KEY", server.api_key)
        assert "70 judged; 70 calls" in judged(pictures, "first")
        assert "0 calls now" in judged(pictures, "first")
        assert "140 calls, 0 known" in judged(others, "second", "--dry-run")
        said = judged(others, "second")
        assert "70 judged; 140 calls" in said
        assert "canary: 0 of 70 pictures count more" in said
        assert "0 calls now" in judged(others, "second")
    kept = json.loads((tmp_path / "second" / "run.json").read_text())["drift"]
    assert (kept["runs"], kept["moved_now"], kept["moved_over_runs"]) == (1, False, False)
    assert json.loads((tmp_path / "first" / "run.json").read_text())["drift"] is None
