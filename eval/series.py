"""Protocols that ask several questions about one picture before they know its verdict.

Which question comes next follows from the replies so far, and nothing else: so a run that was
stopped finds its replies in the ledger and goes on at the question where it was.
"""

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from echo4o.client import ChatRequest, Reply

from .cases import Case, request_for
from .items import Item
from .protocols import Finding, JudgeProtocol, Question
from .verdicts import Outcome, Verdict


class Conclusion(NamedTuple):
    """What the replies about one picture come to."""

    outcome: Outcome
    findings: tuple[Finding, ...]
    reason: str | None
    """Why they do not count as an answer; None when judged."""


def silent(reply: Reply) -> Conclusion:
    """Return what a reply without an answer comes to."""
    outcome: Outcome = "refused" if reply.outcome == "refused" else "failed"
    return Conclusion(outcome, (), reply.reason or "no reason given")


class SeriesProtocol(JudgeProtocol):
    """Asks until it knows enough."""

    @abstractmethod
    def next_question(self, item: Item, said: Sequence[Reply]) -> Question | None:
        """Return what to ask after these replies; None when there is nothing left to ask."""

    @abstractmethod
    def conclude(self, item: Item, said: Sequence[Reply]) -> Conclusion:
        """Return what all replies come to."""

    @abstractmethod
    def usual_questions(self, item: Item) -> list[Question]:
        """Return the questions that are asked when every reply can be read."""

    def again(self, item: Item, texts: Sequence[str | None], asker: "SeriesProtocol") -> Conclusion:
        """Return what this reading makes of all replies to another one's questions.

        Args:
            item: What was asked about.
            texts: The replies in the order of the questions; None for one without a text.
            asker: The reading that asked.
        """
        return self.conclude(item, [Reply(outcome="done", text=one, model="") for one in texts])

    def question(self, item: Item, attempt: int = 0) -> Question:
        """Return the usual question of that number."""
        return self.usual_questions(item)[attempt]

    def read(self, item: Item, reply: str) -> tuple[Finding, ...]:
        """Return the findings of a verdict's `raw_reply`: a JSON list of all replies' texts."""
        texts = json.loads(reply)
        return self.conclude(
            item, [Reply(outcome="done", text=text, model="") for text in texts]
        ).findings


@dataclass(slots=True)
class SeriesCase(Case):
    """An item while the series of its questions is asked."""

    said: list[Reply] = field(default_factory=list)
    """All replies so far."""

    @property
    def series(self) -> SeriesProtocol:
        """The protocol."""
        assert isinstance(self.protocol, SeriesProtocol)
        return self.protocol

    def request(self, picture: bytes, model: str) -> ChatRequest:
        """Return the next question to `model`."""
        question = self.series.next_question(self.item, self.said)
        assert question is not None, "nothing is asked after the verdict"
        return self._request(question, picture, model)

    def usual_requests(self, picture: bytes, model: str) -> list[ChatRequest]:
        """Return all requests that are sent when every reply can be read."""
        asked = self.series.usual_questions(self.item)
        return [self._request(question, picture, model) for question in asked]

    def take(self, reply: Reply, key: str = "") -> Verdict | None:
        """Return the verdict after the last reply of the series."""
        self.paid[key] = reply.cost_usd
        self.replies += 1
        self.said.append(reply)
        if self.series.next_question(self.item, self.said) is not None:
            return None
        done = self.series.conclude(self.item, self.said)
        verdict = self._verdict(reply, key, done.outcome, done.findings, done.reason)
        raw = json.dumps([one.text for one in self.said], ensure_ascii=False)
        return replace(verdict, raw_reply=raw)

    def _request(self, question: Question, picture: bytes, model: str) -> ChatRequest:
        number = question.repeat + (self.repeat - 1) * self.protocol.attempts
        return request_for(question, picture, model, number)
