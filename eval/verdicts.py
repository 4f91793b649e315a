"""A verdict: what a judge said about one item's picture, with everything needed to check it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .protocols import Finding

Outcome = Literal["judged", "unreadable", "refused", "failed", "missing", "damaged"]
OUTCOMES: dict[Outcome, str] = {
    "judged": "the judge answered the question",
    "unreadable": "the judge's reply does not answer the question",
    "refused": "the judge declined",
    "failed": "no reply came; asked again by the next run",
    "missing": "there is no picture for the item",
    "damaged": "the picture does not decode; no call was made",
}


def check_types(value: object) -> None:
    """Refuse a dataclass made from a file whose fields are not what they are declared as.

    Raises:
        TypeError: naming the field and what it holds.
    """
    cls: type = type(value)
    for name, kinds in _kinds(cls).items():
        if not isinstance(getattr(value, name), kinds):
            raise TypeError(f"`{name}` is {getattr(value, name)!r:.60}")


@cache
def _kinds(cls: type) -> dict[str, tuple[type, ...]]:
    """What `isinstance` may find in each field; what a container holds is not looked at."""
    found = {}
    for name, hint in get_type_hints(cls).items():
        parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        kinds = {str if get_origin(one) is Literal else get_origin(one) or one for one in parts}
        found[name] = tuple(kinds | {int} if float in kinds else kinds)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One judged item. Only `judged` ones can be right; what others count is in `points`."""

    number: int
    """The item."""
    tag: str
    prompt: str
    objects: int
    """Object instances asked for; 0 where a task does not count them."""
    sample: int = 1
    """Which picture of the prompt, from 1."""
    repeat: int = 1
    """Which time this picture was judged, from 1."""
    outcome: Outcome
    correct: bool
    """True only when judged and every finding is satisfied."""
    points: float | None = None
    """What the item counts where its task gives points; None where it is right or wrong."""
    is_left_out: bool = False
    """Whether the protocol leaves it out of every mean."""
    findings: tuple[Finding, ...] = ()
    """One per line of the checklist, when judged."""
    reason: str | None = None
    """Why the reply does not count as an answer; None when judged."""
    problems: tuple[str, ...] = ()
    """Why each reply that did not answer was put aside, in the order they came."""
    raw_reply: str | None = None
    """The judge's text as received, also when it is unreadable."""
    picture: str | None = None
    """File name of the picture."""
    picture_sha256: str | None = None
    """Of the bytes that were sent to the judge."""
    judge_model: str | None = None
    """The model that answered, as the service names it."""
    request_id: str | None = None
    key: str | None = None
    """Content key of the call in the ledger."""
    cost_usd: float = 0.0
    """What this item's calls cost, unreadable ones included, whenever they were made."""
    calls: int = 0
    """Replies this verdict took."""
    created: str = ""
    """Time of the reply."""

    def __post_init__(self) -> None:
        right = self.outcome == "judged" and all(finding.satisfied for finding in self.findings)
        if self.correct != (right and bool(self.findings)):
            raise ValueError(f"item {self.number}: `correct` does not follow from its findings")

    @property
    def value(self) -> float:
        """What the item counts: its points, else 1 when right and 0 when wrong."""
        return float(self.correct) if self.points is None else self.points

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object kept in run.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Verdict":
        """Read what `to_json` wrote; TypeError or ValueError when it is something else."""
        findings = tuple(
            Finding(**{**one, "needs": tuple(one.get("needs", ()))}) for one in value["findings"]
        )
        problems = tuple(value.get("problems", ()))
        verdict = cls(**{**value, "findings": findings, "problems": problems})
        for one in (verdict, *findings):
            check_types(one)
        return verdict
