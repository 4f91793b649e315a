"""Two runs in words, and the agreement of judges against published examples."""

import dataclasses

import numpy as np
import pytest
from eval_tools import KIT, verdict, write_run

from echo4o.cli import main
from echo4o.errors import Echo4oError
from echo4o.eval.agreement import agreement, alpha
from echo4o.eval.compared import compare_runs

_ = None
# Krippendorff, "Computing Krippendorff's alpha-reliability": four observers, twelve units.
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
]


def test_alpha_is_the_published_one():
    units = [[x for x in unit if x is not None] for unit in zip(*OBSERVERS, strict=True)]
    found = alpha([unit for unit in units if len(unit) > 1])
    assert round(found.alpha, 3) == 0.849
    assert found.items == 11
    pairs = zip([0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0], strict=True)
    assert round(alpha(list(pairs)).alpha, 3) == 0.095


def test_alpha_at_its_ends():
    draw = np.random.default_rng(3)
    coins = draw.integers(0, 2, (1500, 2)).tolist()
    assert alpha(coins).alpha == pytest.approx(0, abs=0.05)
    assert alpha([[1, 1], [0, 0], [1, 1]]).alpha == 1
    assert alpha([[1, 0], [0, 1]] * 10).alpha < -0.9
    assert alpha([[1, 1]] * 5).alpha is None


def test_alphas_interval_holds_the_truth(monkeypatch):
    """Judges that share a fraction of their verdicts agree by that fraction."""
    monkeypatch.setattr("echo4o.eval.agreement._RESAMPLES", 300)
    draw = np.random.default_rng(4)
    hits = 0
    for _turn in range(150):
        truth = draw.integers(0, 2, 280)
        other = np.where(draw.random(280) < 0.6, truth, draw.integers(0, 2, 280))
        found = alpha(np.stack([truth, other], 1).tolist())
        hits += found.low <= 0.6 <= found.high
    assert 0.9 <= hits / 150 <= 0.99


def judged(rights, sha="a", **changes):
    return [
        verdict(item, right, picture_sha256=f"{sha}{item.number}", **changes)
        for item, right in zip(KIT.items, rights, strict=False)
    ]


@pytest.fixture
def runs(tmp_path):
    before = [number % 3 == 0 for number in range(210)]
    after = [number % 3 != 1 for number in range(210)]
    return [
        write_run(tmp_path / "before", judged(before, "a"), tmp_path),
        write_run(tmp_path / "after", judged(after, "b"), tmp_path),
        write_run(tmp_path / "other judge", judged(after, "a"), tmp_path),
    ]


def test_the_better_run_is_named_with_its_interval(runs, capsys):
    main(["eval", "compare", *map(str, runs[:2])])
    said = capsys.readouterr().out
    assert "after is better than before by 33.3 points, 95 % +" in said
    assert "210 items" in said
    assert said.count("counting") == 1
    assert "points would be needed (80 % power)" in said
    assert "before is worse than after by 33.3" in "\n".join(compare_runs([runs[1], runs[0]]))
    same = "\n".join(compare_runs([runs[1], runs[2]]))
    assert "cannot be told apart: +0.0 points" in same


def test_over_the_same_pictures_judges_are_compared(runs):
    said = "\n".join(compare_runs([runs[0], runs[2]]))
    assert "judged by sandbox-judge (before), sandbox-judge (other judge)" in said
    value, by_tag = agreement([judged([n % 3 == 0 for n in range(210)]), judged([True] * 210)])
    assert f"{by_tag['counting'].items:4d} pictures" in said
    assert value.items == 210
    assert value.alpha < 0


def test_what_cannot_be_compared_is_refused(runs, tmp_path):
    with pytest.raises(Echo4oError, match="at least two run folders"):
        compare_runs(runs[:1])
    with pytest.raises(Echo4oError, match="two judges"):
        agreement([judged([True] * 3)])
    silent = [dataclasses.replace(one, outcome="failed", correct=False) for one in judged([True])]
    with pytest.raises(Echo4oError, match="no item was judged by two"):
        agreement([judged([True]), silent])
    with pytest.raises(Echo4oError, match="item 1 is another one"):
        agreement([judged([True]), judged([True], prompt="x")])
