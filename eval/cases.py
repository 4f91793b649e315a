"""An item on the way to its verdict: what a reply means under a protocol, and whether to ask again.

No call is made here; judging.py brings the replies, and so does a test with recorded ones.
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from echo4o.client import ChatRequest, Reply

from .items import Item
from .protocols import Finding, JudgeProtocol, Question, UnreadableReply
from .verdicts import Outcome, Verdict

_LONGEST_RAW_REPLY = 200_000
# JSON can name half of a character, which no file can keep.
_HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")


@dataclass(slots=True)
class Case:
    """An item while its verdict is found."""

    item: Item
    path: Path | None
    """Its picture; None when there is none."""
    protocol: JudgeProtocol
    sample: int = 1
    """Which picture of the prompt."""
    repeat: int = 1
    """Which time it is judged."""
    sha256: str | None = None
    """Of the bytes that are sent."""
    paid: dict[str, float] = field(default_factory=dict)
    """What each call cost, USD by content key."""
    problems: list[str] = field(default_factory=list)
    """Why each reply so far was not the last one."""
    replies: int = 0

    def request(self, picture: bytes, model: str) -> ChatRequest:
        """Return the next question to `model`; a pure function of the case and its replies."""
        return chat_request(
            self.protocol, self.item, picture, model, attempt=self.replies, repeat=self.repeat
        )

    def take(self, reply: Reply, key: str = "") -> Verdict | None:
        """Return the verdict that follows from `reply`; None when it has to be asked again."""
        self.paid[key] = reply.cost_usd
        self.replies += 1
        outcome, findings, problem = self._understand(reply)
        if problem is not None and not findings:
            self.problems.append(problem)
            asks_again = outcome == "unreadable" or outcome in self.protocol.asks_again
            if asks_again and self.replies < self.protocol.attempts:
                return None
        return self._verdict(reply, key, outcome, findings, problem)

    def unasked(self, outcome: Outcome, reason: str) -> Verdict:
        """Return the verdict when no judge can be asked."""
        return replace(
            unasked(self.item, self.protocol, outcome, reason),
            sample=self.sample,
            repeat=self.repeat,
            picture=None if self.path is None else self.path.name,
        )

    def _understand(self, reply: Reply) -> tuple[Outcome, tuple[Finding, ...], str | None]:
        if reply.outcome != "done":
            return reply.outcome, (), reply.reason or "no reason given"
        try:
            if reply.text is None:
                raise UnreadableReply(self.protocol.no_text)
            findings = self.protocol.read(self.item, reply.text)
        except UnreadableReply as error:
            return "unreadable", (), str(error)
        unread = [one.expectation for one in findings if one.points is not None and one.points < 0]
        if unread:
            return "unreadable", findings, f"no mark was read for {', '.join(unread)}"
        return "judged", findings, None

    def _verdict(
        self,
        reply: Reply,
        key: str,
        outcome: Outcome,
        findings: tuple[Finding, ...],
        problem: str | None,
    ) -> Verdict:
        right = outcome == "judged" and all(one.satisfied for one in findings)
        return Verdict(
            number=self.item.number,
            tag=self.item.tag,
            prompt=self.item.prompt,
            objects=self.item.objects,
            sample=self.sample,
            repeat=self.repeat,
            outcome=outcome,
            correct=right,
            points=self.protocol.points(findings),
            is_left_out=self.protocol.leaves_out(self.item),
            findings=tuple(
                replace(one, reason=_HALF_A_CHARACTER.sub("\ufffd", one.reason)) for one in findings
            ),
            reason=problem,
            problems=tuple(self.problems),
            raw_reply=None if reply.text is None else reply.text[:_LONGEST_RAW_REPLY],
            picture=None if self.path is None else self.path.name,
            picture_sha256=self.sha256,
            judge_model=reply.model,
            request_id=reply.request_id,
            key=key or None,
            cost_usd=sum(self.paid.values()),
            calls=self.replies,
            created=reply.created,
        )


def unasked(item: Item, protocol: JudgeProtocol, outcome: Outcome, reason: str) -> Verdict:
    """Return the verdict on an item about which no judge was asked."""
    return Verdict(
        number=item.number,
        tag=item.tag,
        prompt=item.prompt,
        objects=item.objects,
        outcome=outcome,
        correct=False,
        points=protocol.points(()),
        is_left_out=protocol.leaves_out(item)
        or (outcome == "missing" and protocol.leaves_out_missing),
        reason=reason,
    )


def chat_request(
    protocol: JudgeProtocol,
    item: Item,
    picture: bytes,
    model: str,
    attempt: int = 0,
    repeat: int = 1,
) -> ChatRequest:
    """Return the request that asks `model` about `picture`, in the `repeat`-th judging of it."""
    question = protocol.question(item, attempt)
    # The first judging has the numbers of its attempts; each later one has numbers of its own.
    number = question.repeat + (repeat - 1) * protocol.attempts
    return request_for(question, picture, model, number)


def request_for(question: Question, picture: bytes, model: str, repeat: int) -> ChatRequest:
    """Return the request that asks `model` a question about `picture`."""
    return ChatRequest(
        model=model,
        system=question.system,
        user=(question.text, *question.pictures, picture),
        temperature=question.temperature,
        max_tokens=question.max_tokens,
        json_schema=question.schema,
        image_mime=question.image_mime,
        system_as_parts=question.system_as_parts,
        repeat=repeat,
    )
