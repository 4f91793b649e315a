"""What follows from findings: keep a row, rewrite its text, drop it, or leave it undecided."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from echo4o.client import Reply
from echo4o.records import JsonValue
from echo4o.schema import SUBSETS

from .check_question import Findings
from .examining import Examined, Item
from .rewriting import rewrite
from .verdicts import Verdict

POLICIES = ("keep", "rewrite", "drop")
_MOST_REASONS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What is asked, and what follows from the answers."""

    model: str
    """Vision model that judges."""
    moderation: str | None = None
    """Model of the moderations endpoint; None asks the vision model alone."""
    policy: Mapping[str, str] = field(default_factory=dict)
    """For misaligned rows, by subset: keep, rewrite or drop."""
    drop_flagged: bool = True
    """Whether rows with unsafe content, a possible minor or a trademark are dropped."""

    def __post_init__(self) -> None:
        for subset, policy in self.policy.items():
            if subset not in SUBSETS:
                raise ValueError(
                    f"--policy: {subset!r} is no subset; they are {', '.join(SUBSETS)}"
                )
            if policy not in POLICIES:
                raise ValueError(f"--policy: {policy!r} is not one of {', '.join(POLICIES)}")
        if self.policy.get("instruction_following") == "drop":
            raise ValueError(
                "--policy: instruction_following rows are never dropped for their text; it is "
                "rewritten to match the picture (rewrite), or stays (keep)"
            )

    def of(self, subset: str) -> str:
        """The policy of a subset."""
        default = "rewrite" if subset == "instruction_following" else "keep"
        return self.policy.get(subset, default)

    def to_dict(self) -> dict[str, JsonValue]:
        """For the header of check.jsonl; a verdict holds for these rules alone."""
        policy: dict[str, JsonValue] = {subset: self.of(subset) for subset in SUBSETS}
        return {
            "model": self.model,
            "moderation": self.moderation,
            "policy": policy,
            "drop_flagged": self.drop_flagged,
        }


def parse_policy(text: str) -> dict[str, str]:
    """Read `subset=policy,...`."""
    pairs = (part.strip().partition("=") for part in text.split(",") if part.strip())
    return {name: policy for name, _, policy in pairs}


def undecided(seen: Examined, reason: str, reply: Reply | None = None) -> Verdict:
    """Nobody could say anything, or nothing that can be used."""
    return replace(_blank(seen, reply), decision="undecided", reason=reason)


def unseen(item: Item, reason: str) -> Verdict:
    """A picture that cannot be read now; a build leaves such a row out."""
    return Verdict(
        id=item.entry.id, sha256=str(item.bought.picture), decision="undecided", reason=reason
    )


def decided_alone(seen: Examined) -> Verdict:
    """A picture that needs no model: it does not decode, or is blank."""
    return replace(_blank(seen, None), decision="drop", reason=seen.fault or "")


def decide(seen: Examined, findings: Findings, reply: Reply, rules: Rules) -> Verdict:
    """The verdict on a row; a rewritten one still needs its second look."""
    safety = findings.safety
    unmet = [r for r, holds in zip(findings.reasons, findings.satisfied, strict=True) if not holds]
    is_aligned = findings.is_aligned and not unmet
    verdict = replace(
        _blank(seen, reply),
        aligned=is_aligned,
        findings=tuple(unmet[:_MOST_REASONS]),
        unsafe=safety.unsafe,
        possible_minor=safety.possible_minor,
        trademark=safety.trademark,
    )
    if safety.reason is not None and rules.drop_flagged:
        return replace(verdict, decision="drop", reason=safety.reason)
    if findings.is_blank and not findings.objects:
        return replace(verdict, decision="drop", reason="blank picture")
    if is_aligned:
        return verdict
    policy = rules.of(seen.item.entry.subset)
    if policy == "drop":
        return replace(verdict, decision="drop", reason="misaligned")
    if policy == "keep":
        return verdict
    made = rewrite(seen.asked, findings, seen.item.entry.id)
    if made is None:
        reason = "the findings give no other text"
        return replace(verdict, decision="undecided", reason=reason)
    return replace(
        verdict,
        decision="rewrite",
        instruction=made.instruction,
        constraints=made.constraints,
    )


def decide_again(verdict: Verdict, findings: Findings, rules: Rules) -> Verdict:
    """The verdict after the second look, at the rewritten text."""
    safety = findings.safety.reason
    if safety is not None and rules.drop_flagged:
        found = findings.safety
        return replace(
            verdict,
            decision="drop",
            reason=safety,
            unsafe=found.unsafe,
            possible_minor=found.possible_minor,
            trademark=found.trademark,
            instruction=None,
            constraints=None,
        )
    return replace(verdict, aligned_after=findings.is_aligned and all(findings.satisfied))


def moderated(verdict: Verdict, categories: tuple[str, ...], rules: Rules) -> Verdict:
    """The verdict with what the moderation service said."""
    verdict = replace(verdict, moderation=categories)
    if not categories or not rules.drop_flagged or verdict.decision == "drop":
        return verdict
    reason = "flagged by moderation"
    return replace(verdict, decision="drop", reason=reason, instruction=None, constraints=None)


def _blank(seen: Examined, reply: Reply | None) -> Verdict:
    credentials = seen.credentials
    return Verdict(
        id=seen.item.entry.id,
        sha256=str(seen.item.bought.picture),
        decision="keep",
        credentials=credentials.to_dict() if credentials.present else None,
        views=seen.views,
        model=reply.model if reply is not None and reply.outcome != "failed" else None,
        request_id=None if reply is None else reply.request_id,
    )
