"""Scores of a run: shares of right items per tag and overall, and what the judge could not say.

Every item that was asked for is in the denominator: a missing picture, a refusal or an unreadable
reply counts as wrong, and is counted by name beside the score.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from echo4o.errors import Echo4oError

from .intervals import Difference, Score, one_group, paired, smallest_clear_difference, stratified
from .verdicts import OUTCOMES, Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """All scores of one run."""

    overall: Score
    """Mean of the tags' shares, as GenEval++ defines it; interval by stratified bootstrap."""
    one_or_two_objects: Score | None
    """Share of right items among those that ask for at most two object instances, all tags
    together; None when there is no such item."""
    by_tag: dict[str, Score]
    """Share of right items, Wilson interval; tags in first-seen order."""
    coverage: float
    """Share of items with a readable verdict."""
    outcomes: dict[str, int]
    """Number of items by outcome, zeros included."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object kept in run.json."""
        few = self.one_or_two_objects
        return {
            "overall": self.overall.to_json(),
            "one_or_two_objects": None if few is None else few.to_json(),
            "by_tag": {tag: score.to_json() for tag, score in self.by_tag.items()},
            "coverage": self.coverage,
            "outcomes": self.outcomes,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Second run minus first, over the items that both have."""

    overall: Difference
    one_or_two_objects: Difference | None
    by_tag: dict[str, Difference]
    smallest_clear: float
    """Overall difference that two runs of so many items, different ones, show with 80 % power;
    pairing usually does better."""


def score_shares(verdicts: Sequence[Verdict]) -> Scores:
    """Return all scores; at least one verdict is needed."""
    if not verdicts:
        raise Echo4oError("there are no verdicts to score; give at least one item")
    groups = _by_tag(verdicts)
    few = _by_tag([verdict for verdict in verdicts if _few(verdict)])
    counts = Counter(verdict.outcome for verdict in verdicts)
    return Scores(
        overall=stratified(groups, macro=True),
        one_or_two_objects=stratified(few, macro=False) if few else None,
        by_tag={tag: one_group(group) for tag, group in groups.items()},
        coverage=counts["judged"] / len(verdicts),
        outcomes={name: counts[name] for name in OUTCOMES},
    )


def compare(first: Sequence[Verdict], second: Sequence[Verdict]) -> Comparison:
    """Return how much better `second` is, by items that are the same in both.

    Raises:
        Echo4oError: the runs have no item in common, or one number means different prompts.
    """
    pairs = _pairs(first, second)
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


def _few(verdict: Verdict) -> bool:
    return verdict.objects <= 2
