"""Scores against values worked out by hand, and intervals against simulated benchmarks."""

import math
from dataclasses import replace

import numpy as np
import pytest
from eval_tools import KIT, TASK, verdict

from echo4o.errors import Echo4oError
from echo4o.eval.intervals import one_group, paired, smallest_clear_difference, stratified, wilson
from echo4o.eval.scores import compare
from echo4o.eval.verdicts import Verdict


@pytest.mark.parametrize(
    ("right", "items", "low", "high"),
    [
        # Solved by hand from |p - k/n| = z sqrt(p (1 - p) / n).
        (0, 30, 0.0, 0.1135134),
        (30, 30, 0.8864866, 1.0),
        (15, 30, 0.3315413, 0.6684587),
        (1, 1, 0.2065493, 1.0),
    ],
)
def test_wilson(right, items, low, high):
    assert wilson(right, items) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize("right", [3, 17, 29])
def test_wilson_solves_its_equation(right):
    for end in wilson(right, 30):
        distance = abs(end - right / 30)
        assert distance == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / 30), rel=1e-6)


def test_stratified_is_mean_of_tags_or_share_of_items():
    groups = {"a": [True] * 3 + [False], "b": [False] * 8 + [True] * 2}
    assert stratified(groups, macro=True).score == pytest.approx((0.75 + 0.2) / 2)
    assert stratified(groups, macro=False).score == pytest.approx(5 / 14)


def test_stratified_interval_is_the_binomial_one_where_that_is_known():
    """One group of 400 at 0.5: the percentiles are those of a binomial, 0.45 and 0.55."""
    score = stratified({"a": [True] * 200 + [False] * 200}, macro=False)
    assert (score.low, score.high) == pytest.approx((0.4510, 0.5490), abs=0.003)
    spread = 1.96 * math.sqrt((0.25 / 50 + 0.25 / 200) / 4)
    score = stratified(
        {"a": [True] * 25 + [False] * 25, "b": [True] * 100 + [False] * 100}, macro=True
    )
    assert score.high - score.low == pytest.approx(2 * spread, rel=0.06)


def test_all_wrong_is_not_certainly_zero():
    score = stratified({"a": [False] * 30, "b": [False] * 30}, macro=True)
    assert (score.low, score.high) == pytest.approx(wilson(0, 60))
    certain = stratified({"a": [True] * 3, "b": [False] * 30}, macro=False)
    assert certain.low < 3 / 33 < certain.high


def simulate(rates, items, benchmarks, seed):
    """Share of simulated benchmarks whose interval holds the true rate."""
    draw = np.random.default_rng(seed)
    truth = float(np.mean(rates))
    hits = 0
    for _ in range(benchmarks):
        score = stratified(
            {str(tag): list(draw.random(items) < rate) for tag, rate in enumerate(rates)},
            macro=True,
        )
        hits += score.low <= truth <= score.high
    return hits / benchmarks


@pytest.mark.slow  # and for all kinds of benchmarks in test_coverage.py
def test_stratified_interval_covers_its_truth(monkeypatch):
    """Seven tags of 30, from hard to easy; 500 benchmarks have a standard error of 1 %."""
    monkeypatch.setattr("echo4o.eval.intervals.RESAMPLES", 1000)
    coverage = [
        simulate([middle * step for step in np.linspace(0.3, 1.7, 7)], 30, 250, seed)
        for seed, middle in enumerate((0.1, 0.3, 0.5))
    ]
    assert 0.93 <= np.mean(coverage) <= 0.97
    assert min(coverage) > 0.91


def test_wilson_covers_its_truth():
    draw = np.random.default_rng(1)
    hits = [
        np.mean([low <= rate <= high for low, high in (wilson(k, 30) for k in counts)])
        for rate in np.linspace(0.05, 0.95, 19)
        for counts in [draw.binomial(30, rate, 300)]
    ]
    assert 0.93 <= np.mean(hits) <= 0.97


def test_paired_difference_uses_the_pairing():
    """18 items gained, 2 lost, of 100: the spread is that of the discordant items only."""
    pairs = [(False, True)] * 18 + [(True, False)] * 2 + [(True, True)] * 40 + [(False, False)] * 40
    found = paired({"a": pairs}, macro=True)
    spread = 1.96 * math.sqrt((0.20 - 0.16**2) / 100)
    assert found.difference == pytest.approx(0.16)
    assert found.low == pytest.approx(0.16 - spread, abs=0.012)
    assert found.high == pytest.approx(0.16 + spread, abs=0.012)
    assert found.is_clear
    swapped = paired({"a": [(b, a) for a, b in pairs]}, macro=True)
    assert swapped.difference == pytest.approx(-0.16)


def test_equal_runs_are_not_certainly_equal():
    found = paired({"a": [(True, True)] * 30}, macro=True)
    assert found.difference == 0
    assert found.high == -found.low == pytest.approx(wilson(0, 30)[1])
    assert not found.is_clear
    better = paired({"a": [(False, True)] * 7, "b": [(False, True)] * 7}, macro=True)
    assert (better.difference, better.high) == (1, 1)
    assert better.low == pytest.approx(1 - wilson(0, 14)[1])


def test_smallest_clear_difference_has_the_power_it_says():
    draw = np.random.default_rng(3)
    items, share = 280, 0.4
    step = smallest_clear_difference([share + 0.058] * items)
    first, second = (draw.binomial(items, rate, 4000) / items for rate in (share, share + step))
    spread = np.sqrt((first * (1 - first) + second * (1 - second)) / items)
    assert np.mean((second - first) / spread > 1.96) == pytest.approx(0.8, abs=0.04)
    # 5 of 14 right is told from none of 14 (Fisher's p is 0.04), 4 is not.
    assert 4 / 14 < smallest_clear_difference([0.0] * 14) < 5.5 / 14
    assert smallest_clear_difference([1.0] * 14) == smallest_clear_difference([0.0] * 14)


def test_scores_count_every_item():
    verdicts = [verdict(item, item.number % 3 == 0) for item in KIT.items]
    verdicts[2] = verdict(KIT.items[2], None)
    verdicts[5] = verdict(KIT.items[5], None, outcome="missing")
    scores = TASK.score(verdicts)
    assert scores.by_tag["color_attr"].score == pytest.approx(8 / 30)
    assert scores.by_tag["counting"].score == pytest.approx(10 / 30)
    assert scores.overall.score == pytest.approx((8 + 6 * 10) / 210)
    assert scores.overall.items == 210
    few = [one for one in verdicts if one.objects <= 2]
    assert scores.one_or_two_objects.items == len(few) >= 100
    assert scores.one_or_two_objects.score == pytest.approx(sum(v.correct for v in few) / len(few))
    assert scores.coverage == pytest.approx(208 / 210)
    assert scores.outcomes["refused"] == scores.outcomes["missing"] == 1
    assert scores.to_json() == TASK.score(verdicts).to_json()


def test_no_verdicts_give_no_score():
    with pytest.raises(Echo4oError, match="no verdicts"):
        TASK.score([])


def test_compare_takes_common_items_and_refuses_other_prompts():
    first = [verdict(item, False) for item in KIT.items[:60]]
    second = [verdict(item, item.number % 2 == 0) for item in KIT.items[20:90]]
    found = compare(first, second)
    assert found.overall.items == 40
    assert found.overall.difference == pytest.approx(0.5)
    assert list(found.by_tag) == ["color_attr", "counting"]
    with pytest.raises(Echo4oError, match="item 21 is"):
        compare(first, [verdict(KIT.items[20], True, prompt="something else")])
    with pytest.raises(Echo4oError, match="no item in common"):
        compare(first, second[-3:])


def test_a_verdict_cannot_claim_what_its_findings_deny():
    right = verdict(KIT.items[0], True)
    assert Verdict.from_json(right.to_json()) == right
    with pytest.raises(ValueError, match="does not follow"):
        verdict(KIT.items[0], False, correct=True)
    with pytest.raises(ValueError, match="does not follow"):
        verdict(KIT.items[0], None, correct=True)


def test_one_group():
    score = one_group([True, False, True, True])
    assert (score.score, score.items) == (0.75, 4)
    assert one_group([1.0, 0.0] * 20, each=4) == one_group([1.0, 0.0] * 20)  # repeats all agree
    apart = one_group([0.5] * 40, each=4)  # verdicts of one item say nothing about each other
    assert (apart.low, apart.high) == wilson(80, 160)


def test_repeats_and_pictures_of_an_item_are_one_item_in_every_interval():
    draw = np.random.default_rng(8)
    right = {item.number: draw.random() < 0.5 for item in KIT.items}
    once = [verdict(item, right[item.number]) for item in KIT.items]
    copies = [replace(one, repeat=n) for one in once for n in (1, 2, 3, 4)]
    alone, copied = TASK.score(once), TASK.score(copies)
    assert copied.overall == alone.overall
    assert copied.by_tag == alone.by_tag
    assert copied.smallest_clear == pytest.approx(alone.smallest_clear, rel=0.01)
    assert TASK.compare(once, copies).overall.items == 210
    noisy = [
        replace(verdict(item, draw.random() < 0.5), sample=n) for item in KIT.items for n in (1, 2)
    ]
    found = TASK.score(noisy)
    assert found.overall.items == 210
    assert found.outcomes["judged"] == 420
    width = (found.overall.high - found.overall.low) / (alone.overall.high - alone.overall.low)
    assert width == pytest.approx(2**-0.5, abs=0.08)  # two independent verdicts halve the variance
    few = [one.score for one in found.by_tag.values()]
    assert found.overall.score == pytest.approx(sum(few) / len(few))
