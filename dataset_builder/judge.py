"""Asks a vision model about bought pictures and turns its replies into verdicts."""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Self

from echo4o.client import ApiClient, ChatRequest, Reply
from echo4o.ledger import LostPictureError
from echo4o.moderation import ModerationRequest

from .check_question import Asked, Findings, ReplyError, question, read_reply
from .deciding import Rules, decide, decide_again, decided_alone, moderated, undecided, unseen
from .examining import Examined, Item, examine
from .generate import Purchases
from .verdicts import Verdict

_TRIES = 2
"""Unreadable replies are asked for once more."""
_UNREADABLE = "unreadable reply"
Answer = tuple[Findings | str, Reply]


class Judge:
    """Judges rows through an open client; use it as a context manager."""

    def __init__(self, client: ApiClient, purchases: Purchases, rules: Rules) -> None:
        self._client = client
        self._purchases = purchases
        self._rules = rules
        self._pool = ThreadPoolExecutor(os.cpu_count())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    async def verdicts(self, items: Sequence[Item]) -> dict[str, Verdict]:
        """Verdicts by row: first looks, then second looks at what was rewritten.

        All pictures of `items` are in memory at once.

        Raises:
            BudgetExceeded: the next call could cost more than is left; paid answers are kept.
            Echo4oError: a picture, the key, the model or the address needs the user.
        """
        looked = list(self._pool.map(self._examine, items))
        seen = [one for one in looked if isinstance(one, Examined)]
        verdicts = {one.id: one for one in looked if isinstance(one, Verdict)}
        verdicts |= {one.item.entry.id: decided_alone(one) for one in seen if one.fault}
        whole = [one for one in seen if not one.fault]
        answers = await self._look([(one, one.asked) for one in whole])
        for one, (found, reply) in zip(whole, answers, strict=True):
            verdicts[one.item.entry.id] = (
                undecided(one, found, reply)
                if isinstance(found, str)
                else decide(one, found, reply, self._rules)
            )
        again = [one for one in whole if verdicts[one.item.entry.id].decision == "rewrite"]
        asked = [(one, _rewritten(one, verdicts[one.item.entry.id])) for one in again]
        for one, (found, _) in zip(again, await self._look(asked), strict=True):
            name = one.item.entry.id
            if not isinstance(found, str):
                verdicts[name] = decide_again(verdicts[name], found, self._rules)
        if self._rules.moderation is not None:
            verdicts |= await self._moderated(whole, verdicts, self._rules.moderation)
        return verdicts

    def _examine(self, item: Item) -> Examined | Verdict:
        """The pictures of a row, or that one of them is lost, which may be mended."""
        try:
            return examine(item, self._purchases)
        except LostPictureError as error:
            return unseen(item, str(error))

    async def _moderated(
        self, seen: Sequence[Examined], verdicts: Mapping[str, Verdict], model: str
    ) -> dict[str, Verdict]:
        """The verdicts with what the moderation endpoint flags in text and picture."""
        asked = {
            one.item.entry.id: ModerationRequest(
                model=model, text=one.item.entry.prompt, picture=one.picture
            )
            for one in seen
        }
        by_key = {r.key: reply async for r, reply in self._client.run(asked.values())}
        found = {}
        for name, request in asked.items():
            reply = by_key[request.key]
            if reply.outcome != "done":
                if verdicts[name].decision == "drop":
                    continue
                reason = f"moderation {reply.outcome}: {reply.reason}"
                found[name] = replace(verdicts[name], decision="undecided", reason=reason)
                continue
            categories = tuple(json.loads(reply.text or "[]"))
            found[name] = moderated(verdicts[name], categories, self._rules)
        return found

    async def _look(self, wanted: Sequence[tuple[Examined, Asked]]) -> list[Answer]:
        """Findings, or why there are none, and the reply they came from."""
        answers: dict[int, Answer] = {}
        for repeat in range(_TRIES):
            requests: dict[int, ChatRequest] = {
                index: question(
                    asked, one.picture, one.references, model=self._rules.model, repeat=repeat
                )
                for index, (one, asked) in enumerate(wanted)
                if index not in answers or _is_unreadable(answers[index])
            }
            by_key = {r.key: reply async for r, reply in self._client.run(requests.values())}
            for index, request in requests.items():
                reply = by_key[request.key]
                answers[index] = _read(reply, wanted[index][1]), reply
        return [answers[index] for index in range(len(wanted))]


def _rewritten(seen: Examined, verdict: Verdict) -> Asked:
    assert verdict.instruction is not None
    return Asked(
        instruction=verdict.instruction,
        constraints=verdict.constraints or {},
        is_exact=seen.asked.is_exact,
    )


def _is_unreadable(answer: Answer) -> bool:
    return isinstance(answer[0], str) and answer[0].startswith(_UNREADABLE)


def _read(reply: Reply, asked: Asked) -> Findings | str:
    if reply.outcome != "done":
        return f"the model {'refused' if reply.outcome == 'refused' else 'failed'}: {reply.reason}"
    try:
        return read_reply(reply.text or "", asked)
    except ReplyError as error:
        return f"{_UNREADABLE}: {error}"
