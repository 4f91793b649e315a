"""Scores of a run: shares of right items or mean points, per tag and overall, with intervals.

What an item counts is settled in its verdict, by the protocol. Under most of them every item asked
for is in the denominator, and what the judge could not say is counted by name beside the score.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

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
    groups = _by_tag(verdicts)
    few = _by_tag([verdict for verdict in verdicts if _few(verdict)])
    by_tag = {tag: one_group(group) for tag, group in groups.items()}
    overall = stratified(groups, macro=True)
    if protocol == RELEASED:
        by_tag = {tag: _rounded(score, 4) for tag, score in by_tag.items()}
        mean = sum(score.score for score in by_tag.values()) / len(by_tag)
        overall = _rounded(replace(overall, score=mean), 4)
    share = sum(verdict.correct for verdict in verdicts) / len(verdicts)
    return Scores(
        overall=overall,
        one_or_two_objects=stratified(few, macro=False) if few else None,
        by_tag=by_tag,
        smallest_clear=smallest_clear_difference(len(verdicts), share),
        **_counted(verdicts),
    )


def score_points(verdicts: Sequence[Verdict], protocol: str, grading: Grading) -> Scores:
    """Return all scores of a task whose items get points."""
    counted = [verdict for verdict in verdicts if not verdict.is_left_out]
    tags, groups = _points(counted, lambda tag: tag), _points(counted, _grouped(grading))
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
        smallest_clear=smallest_clear_points(groups, weights),
        scale=scale,
        **_counted(verdicts),
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
    groups = _pairs_by_tag(pairs, lambda verdict: True)
    few = _pairs_by_tag(pairs, _few)
    overall = paired(groups, macro=True)
    share = sum(verdict.correct for _, verdict in pairs) / len(pairs)
    return Comparison(
        overall=overall,
        one_or_two_objects=paired(few, macro=False) if few else None,
        by_tag={tag: paired({tag: group}, macro=True) for tag, group in groups.items()},
        smallest_clear=smallest_clear_difference(overall.items, share),
    )


def _compare_points(
    pairs: Sequence[tuple[Verdict, Verdict]], grading: Grading, protocol: str
) -> Comparison:
    scale, weights = grading.scale, grading.weights_of(protocol)
    both = [pair for pair in pairs if not (pair[0].is_left_out or pair[1].is_left_out)]
    if not both:
        raise Echo4oError("no item counts in both runs, so there is nothing to compare")

    def split(name_of: Callable[[str], str]) -> dict[str, list[tuple[float, float]]]:
        groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for one, other in both:
            groups[name_of(one.tag)].append((one.value, other.value))
        return dict(groups)

    def each(groups: dict[str, list[tuple[float, float]]]) -> dict[str, Difference]:
        return {name: paired_points({name: one}, {name: 1}, scale) for name, one in groups.items()}

    groups = split(_grouped(grading))
    later = {name: [second for _, second in group] for name, group in groups.items()}
    return Comparison(
        overall=paired_points(groups, weights, scale),
        one_or_two_objects=None,
        by_tag=each(split(lambda tag: tag)),
        by_group=each(groups),
        smallest_clear=smallest_clear_points(later, weights),
    )


def _pairs(first: Sequence[Verdict], second: Sequence[Verdict]) -> list[tuple[Verdict, Verdict]]:
    earlier = {verdict.number: verdict for verdict in first}
    pairs = [(earlier[one.number], one) for one in second if one.number in earlier]
    if not pairs:
        raise Echo4oError("the two runs have no item in common; compare runs of the same items")
    for one, other in pairs:
        if (one.prompt, one.tag) != (other.prompt, other.tag):
            raise Echo4oError(
                f"item {one.number} is {one.prompt!r} in one run and {other.prompt!r} in the other;"
                " compare runs of the same items"
            )
    return pairs


def _by_tag(verdicts: Sequence[Verdict]) -> dict[str, list[bool]]:
    groups: dict[str, list[bool]] = defaultdict(list)
    for verdict in verdicts:
        groups[verdict.tag].append(verdict.correct)
    return dict(groups)


def _pairs_by_tag(
    pairs: Sequence[tuple[Verdict, Verdict]], wanted: Callable[[Verdict], bool]
) -> dict[str, list[tuple[bool, bool]]]:
    groups: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for one, other in pairs:
        if wanted(one):
            groups[one.tag].append((one.correct, other.correct))
    return dict(groups)


def _points(verdicts: Sequence[Verdict], name_of: Callable[[str], str]) -> dict[str, list[float]]:
    groups: dict[str, list[float]] = defaultdict(list)
    for verdict in verdicts:
        groups[name_of(verdict.tag)].append(verdict.value)
    return dict(groups)


def _grouped(grading: Grading) -> Callable[[str], str]:
    return lambda tag: grading.group_of.get(tag, tag)


def _counted(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    counts = Counter(verdict.outcome for verdict in verdicts)
    return {
        "coverage": counts["judged"] / len(verdicts),
        "outcomes": {name: counts[name] for name in OUTCOMES},
    }


def _rounded(score: Score, digits: int) -> Score:
    return replace(score, score=round(score.score, digits))


def _few(verdict: Verdict) -> bool:
    return verdict.objects <= 2
