"""Scores of a run: shares of right items or mean points, per tag and overall, with intervals.

What an item counts is settled in its verdicts, by the protocol; an item with several pictures or
repeats counts their mean, and is one item in every interval. Under most of them every item asked
for is in the denominator, and what the judge could not say is counted by name beside the score.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from echo4o.errors import Echo4oError

from .intervals import (
    Difference,
    Score,
    mean_points,
    one_group,
    paired,
    paired_points,
    smallest_clear_difference,
    smallest_clear_points,
    stratified,
    weighted_points,
)
from .verdicts import OUTCOMES, Verdict

_Pair: TypeAlias = tuple[list[Verdict], list[Verdict]]
"""The verdicts of one item in two runs."""
RELEASED = "released"
"""The reading whose numbers are rounded on the way, as the published scripts round them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grading:
    """How a task that gives points puts them together."""

    scale: float
    """Most points of an item."""
    group_of: Mapping[str, str]
    """Group of each tag."""
    weights: Mapping[str, float]
    """Weight of each group's mean in the overall score."""
    released_weights: Mapping[str, float]
    """The same under `released`."""

    def weights_of(self, protocol: str) -> Mapping[str, float]:
        """Return the weights that a protocol's overall score has."""
        return self.released_weights if protocol == RELEASED else self.weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """All scores of one run."""

    overall: Score
    """Mean of the tags' shares, or weighted mean of the groups' points; bootstrap interval."""
    one_or_two_objects: Score | None
    """Share of right items among those that ask for at most two object instances, all tags
    together; None when there is no such item."""
    by_tag: dict[str, Score]
    """Share of right items (Wilson interval) or mean points (t interval); first-seen order."""
    by_group: dict[str, Score] = field(default_factory=dict)
    """Mean points of each group of tags, where the task has groups."""
    coverage: float
    """Share of items with a readable verdict."""
    outcomes: dict[str, int]
    """Number of items by outcome, zeros included."""
    smallest_clear: float
    """Overall difference that two runs of so many items show with 80 % power, unpaired."""
    scale: float = 1.0
    """Best possible score."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object kept in run.json."""
        few = self.one_or_two_objects
        return {
            "overall": self.overall.to_json(),
            "one_or_two_objects": None if few is None else few.to_json(),
            "by_tag": {tag: score.to_json() for tag, score in self.by_tag.items()},
            "by_group": {group: score.to_json() for group, score in self.by_group.items()},
            "coverage": self.coverage,
            "outcomes": self.outcomes,
            "smallest_clear": self.smallest_clear,
            "scale": self.scale,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Second run minus first, over the items that both have."""

    overall: Difference
    one_or_two_objects: Difference | None
    by_tag: dict[str, Difference]
    by_group: dict[str, Difference] = field(default_factory=dict)
    smallest_clear: float
    """Overall difference that two runs of so many items, different ones, show with 80 % power;
    pairing usually does better."""


def score_shares(verdicts: Sequence[Verdict], protocol: str) -> Scores:
    """Return all scores of a task whose items are right or wrong."""
    groups, few = _shares(verdicts), _shares([one for one in verdicts if _few(one)])
    each = verdicts_per_item(verdicts)
    by_tag = {tag: one_group(group, each) for tag, group in groups.items()}
    overall = stratified(groups, macro=True)
    if protocol == RELEASED:
        by_tag = {tag: _rounded(score, 4) for tag, score in by_tag.items()}
        mean = sum(score.score for score in by_tag.values()) / len(by_tag)
        overall = _rounded(replace(overall, score=mean), 4)
    values = [value for group in groups.values() for value in group]
    return Scores(
        overall=overall,
        one_or_two_objects=stratified(few, macro=False) if few else None,
        by_tag=by_tag,
        smallest_clear=smallest_clear_difference(values, each),
        **_facts(verdicts),
    )


def score_points(verdicts: Sequence[Verdict], protocol: str, grading: Grading) -> Scores:
    """Return all scores of a task whose items get points."""
    items = [counted for one in by_item(verdicts) if (counted := _counted(one))]
    tags, groups = (
        _grouped_means(items, _tag, _points),
        _grouped_means(items, _grouped(grading), _points),
    )
    weights, scale = grading.weights_of(protocol), grading.scale
    by_group = {name: mean_points(group, scale) for name, group in groups.items()}
    overall = weighted_points(groups, weights, scale)
    if protocol == RELEASED:
        by_group = {name: _rounded(score, 3) for name, score in by_group.items()}
        overall = _rounded(overall, 3)
    return Scores(
        overall=overall,
        one_or_two_objects=None,
        by_tag={tag: mean_points(group, scale) for tag, group in tags.items()},
        by_group=by_group,
        smallest_clear=smallest_clear_points(groups, weights, scale),
        scale=scale,
        **_facts(verdicts),
    )


def compare(
    first: Sequence[Verdict],
    second: Sequence[Verdict],
    grading: Grading | None = None,
    protocol: str = "",
) -> Comparison:
    """Return how much better `second` is, by items that are the same in both.

    Raises:
        Echo4oError: the runs have no item in common, or one number means different prompts.
    """
    pairs = _pairs(first, second)
    if grading is not None:
        return _compare_points(pairs, grading, protocol)
    groups = _paired(pairs, _tag, _right)
    few = _paired([pair for pair in pairs if _few(pair[1][0])], _tag, _right)
    later = [second for group in groups.values() for _, second in group]
    return Comparison(
        overall=paired(groups, macro=True),
        one_or_two_objects=paired(few, macro=False) if few else None,
        by_tag={tag: paired({tag: group}, macro=True) for tag, group in groups.items()},
        smallest_clear=smallest_clear_difference(later, verdicts_per_item(second)),
    )


def _compare_points(pairs: Sequence[_Pair], grading: Grading, protocol: str) -> Comparison:
    scale, weights = grading.scale, grading.weights_of(protocol)
    both = [(_counted(one), _counted(other)) for one, other in pairs]
    both = [(one, other) for one, other in both if one and other]
    if not both:
        raise Echo4oError("no item counts in both runs, so there is nothing to compare")

    def each(groups: dict[str, list[tuple[float, float]]]) -> dict[str, Difference]:
        return {name: paired_points({name: one}, {name: 1}, scale) for name, one in groups.items()}

    groups = _paired(both, _grouped(grading), _points)
    later = {name: [second for _, second in group] for name, group in groups.items()}
    return Comparison(
        overall=paired_points(groups, weights, scale),
        one_or_two_objects=None,
        by_tag=each(_paired(both, _tag, _points)),
        by_group=each(groups),
        smallest_clear=smallest_clear_points(later, weights, scale),
    )


def by_item(verdicts: Iterable[Verdict]) -> list[list[Verdict]]:
    """Return the verdicts of each item: several pictures, several repeats; first-seen order."""
    items: dict[int, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        items[verdict.number].append(verdict)
    return list(items.values())


def verdicts_per_item(verdicts: Sequence[Verdict]) -> int:
    """Return how many verdicts an item has at most."""
    return max(map(len, by_item(verdicts)))


def _pairs(first: Sequence[Verdict], second: Sequence[Verdict]) -> list[_Pair]:
    earlier = {item[0].number: item for item in by_item(first)}
    pairs = [(earlier[one[0].number], one) for one in by_item(second) if one[0].number in earlier]
    if not pairs:
        raise Echo4oError("the two runs have no item in common; compare runs of the same items")
    for (one, *_), (other, *_) in pairs:
        if (one.prompt, one.tag) != (other.prompt, other.tag):
            raise Echo4oError(
                f"item {one.number} is {one.prompt!r} in one run and {other.prompt!r} in the other;"
                " compare runs of the same items"
            )
    return pairs


def _shares(verdicts: Sequence[Verdict]) -> dict[str, list[float]]:
    return _grouped_means(by_item(verdicts), _tag, _right)


def _grouped_means(
    items: Iterable[Sequence[Verdict]],
    name_of: Callable[[Verdict], str],
    counts: Callable[[Verdict], float],
) -> dict[str, list[float]]:
    """Return the mean of what each item's verdicts count, by group."""
    groups: dict[str, list[float]] = defaultdict(list)
    for item in items:
        groups[name_of(item[0])].append(_mean(item, counts))
    return dict(groups)


def _paired(
    pairs: Sequence[_Pair], name_of: Callable[[Verdict], str], counts: Callable[[Verdict], float]
) -> dict[str, list[tuple[float, float]]]:
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for one, other in pairs:
        groups[name_of(other[0])].append((_mean(one, counts), _mean(other, counts)))
    return dict(groups)


def _mean(item: Sequence[Verdict], counts: Callable[[Verdict], float]) -> float:
    return sum(map(counts, item)) / len(item)


def _tag(verdict: Verdict) -> str:
    return verdict.tag


def _right(verdict: Verdict) -> float:
    return float(verdict.correct)


def _points(verdict: Verdict) -> float:
    return verdict.value


def _counted(item: Sequence[Verdict]) -> list[Verdict]:
    return [one for one in item if not one.is_left_out]


def _grouped(grading: Grading) -> Callable[[Verdict], str]:
    return lambda one: grading.group_of.get(one.tag, one.tag)


def _facts(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    counts = Counter(verdict.outcome for verdict in verdicts)
    return {
        "coverage": counts["judged"] / len(verdicts),
        "outcomes": {name: counts[name] for name in OUTCOMES},
    }


def _rounded(score: Score, digits: int) -> Score:
    return replace(score, score=round(score.score, digits))


def _few(verdict: Verdict) -> bool:
    return verdict.objects <= 2
