"""Do the intervals hold what they promise? 2,000 simulated benchmarks of each kind."""

import numpy as np
import pytest

from echo4o.eval.intervals import (
    mean_points,
    one_group,
    paired,
    stratified,
    weighted_points,
    wilson,
)
from echo4o.eval.tasks import get_task

pytestmark = pytest.mark.slow
BENCHMARKS = 2000
TASK = get_task("imagine_bench")


def share_of_hits(rates, draw, benchmarks):
    """Coverage of the overall interval of seven tags of forty, and of each tag's own."""
    truth = float(np.mean(rates))
    hits, tag_hits = 0, 0
    for _ in range(benchmarks):
        right = draw.random((7, 40)) < np.asarray(rates)[:, None]
        score = stratified({str(n): list(one) for n, one in enumerate(right)}, macro=True)
        hits += score.low <= truth <= score.high
        ends = [wilson(int(one.sum()), 40) for one in right]
        tag_hits += sum(low <= rate <= high for (low, high), rate in zip(ends, rates, strict=True))
    return hits / benchmarks, tag_hits / (7 * benchmarks)


def test_a_benchmark_like_the_published_ones_is_covered():
    found = share_of_hits(
        [0.33, 0.6, 0.25, 0.33, 0.25, 0.48, 0.38], np.random.default_rng(1), BENCHMARKS
    )
    print(found)
    assert all(0.93 <= one <= 0.97 for one in found)


def test_coverage_averaged_over_all_true_rates():
    draw = np.random.default_rng(2)
    each = [share_of_hits([rate] * 7, draw, 105) for rate in np.linspace(0.05, 0.95, 19)]
    overall, by_tag = np.mean(each, axis=0)
    print(overall, by_tag)
    assert 0.93 <= overall <= 0.97
    assert 0.93 <= by_tag <= 0.97


def test_points_are_covered():
    """Points as judges give them: many full marks, a few failures."""
    draw = np.random.default_rng(3)
    sizes = {"Attribute shift": 90, "Hybridization": 60, "Spatiotemporal": 60, "Multi-Object": 60}
    marks = np.array([0.0, 2, 4, 6, 7, 8, 9, 10])
    chance = np.array([0.06, 0.04, 0.06, 0.12, 0.16, 0.22, 0.2, 0.14])
    truth, weights = float(marks @ chance), TASK.grading.weights
    hits, group_hits = 0, 0
    for _ in range(BENCHMARKS):
        groups = {name: list(draw.choice(marks, n, p=chance)) for name, n in sizes.items()}
        score = weighted_points(groups, weights, 10)
        hits += score.low <= truth <= score.high
        each = [mean_points(group, 10) for group in groups.values()]
        group_hits += sum(one.low <= truth <= one.high for one in each)
    print(hits / BENCHMARKS, group_hits / (4 * BENCHMARKS))
    assert 0.93 <= hits / BENCHMARKS <= 0.97
    assert 0.93 <= group_hits / (4 * BENCHMARKS) <= 0.97


@pytest.mark.parametrize("count", [1, 2, 3, 5, 10, 20])
def test_few_items_of_each_tag_are_covered(count):
    """Where a bootstrap covers 81 % (two items a tag), averaged over true rates from .05 to .95."""
    draw, shares, points, steps = np.random.default_rng(5), [], [], []
    groups = {"Attribute shift": 0.6, "Hybridization": 0.5, "Spatiotemporal": 0.4, "x": 0.5}
    weights = dict(zip(groups, (3, 2, 2, 2), strict=True))
    for rate in np.linspace(0.05, 0.95, 19):
        for _ in range(60):
            right = draw.random((7, count)) < rate
            score = stratified({str(n): list(one) for n, one in enumerate(right)}, macro=True)
            shares.append(score.low <= rate <= score.high)
            marks = draw.binomial(10, draw.beta(4 * rate, 4 * (1 - rate), size=(4, count)))
            each = {name: list(one * 1.0) for name, one in zip(groups, marks, strict=True)}
            score = weighted_points(each, weights, 10)
            points.append(score.low <= 10 * rate <= score.high)
            later = draw.random((7, count)) < np.where(draw.random((7, count)) < 0.7, right, rate)
            both = zip(right * 1.0, later * 1.0, strict=True)
            pairs = {str(n): list(zip(*one, strict=True)) for n, one in enumerate(both)}
            found = paired(pairs, macro=True)
            steps.append(found.low <= 0 <= found.high)
    print(count, *(round(float(np.mean(one)), 3) for one in (shares, points, steps)))
    # Marks spread less than right and wrong do; of a handful nobody can know, so it is wide.
    assert 0.93 <= np.mean(shares) <= 0.97
    assert 0.93 <= np.mean(points) <= 0.99
    assert np.mean(steps) >= 0.93


@pytest.mark.parametrize("each", [2, 4])
def test_several_verdicts_of_an_item_are_covered(each):
    """Pictures of one prompt resemble each other: an item's own rate is Beta(1, 1.5)."""
    draw, hits, tag_hits, benchmarks = np.random.default_rng(4), 0, 0, 500
    truth = 1 / 2.5
    for _ in range(benchmarks):
        rates = draw.beta(1, 1.5, size=(7, 40))
        values = draw.binomial(each, rates) / each
        score = stratified({str(n): list(one) for n, one in enumerate(values)}, macro=True)
        hits += score.low <= truth <= score.high
        tags = [one_group(list(one), each) for one in values]
        tag_hits += sum(one.low <= truth <= one.high for one in tags)
    print(hits / benchmarks, tag_hits / (7 * benchmarks))
    assert 0.93 <= hits / benchmarks <= 0.97
    assert 0.93 <= tag_hits / (7 * benchmarks) <= 0.97
