"""Asks a chat model many questions from ordinary code: in order, within a budget, paid once."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from echo4o.client import ApiClient, ChatRequest, PriceTable, Reply
from echo4o.ledger import Ledger
from echo4o.records import JsonValue

LEDGER_NAME = "plan.ledger.sqlite"


def read_object(text: object) -> dict[str, JsonValue]:
    """The JSON object in a foreign text, such as a reply; anything else is an empty one."""
    try:
        value = json.loads(str(text or "{}"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiSettings:
    """Where the chat model is, and how much it may cost."""

    base_url: str | None = None
    """None takes OPENAI_BASE_URL."""
    budget_usd: float | None = None
    """Of all questions of the plan together."""
    concurrency: int = 8


class Questions:
    """Answers by the ledger of the plan's folder; use it as a context manager."""

    def __init__(
        self, folder: Path, settings: ApiSettings, prices: PriceTable | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._ledger = Ledger(folder / LEDGER_NAME, budget_usd=settings.budget_usd)
        self._runner = asyncio.Runner()
        try:
            self._client = ApiClient(
                ledger=self._ledger,
                base_url=settings.base_url,
                concurrency=settings.concurrency,
                prices=prices,
            )
        except BaseException:
            self._ledger.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._runner.run(self._client.__aexit__())
        self._runner.close()
        self._ledger.close()

    @property
    def spent_usd(self) -> float:
        """What all questions of the folder cost, in every run."""
        return self._ledger.spent_usd

    def ask(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        """The replies, in the order of the questions.

        Raises:
            BudgetExceeded: the next call could cost more than is left; paid replies are kept.
            Echo4oError: the key, the model or the address needs the user.
        """
        by_key = self._runner.run(self._ask(requests))
        return [by_key[request.key] for request in requests]

    async def _ask(self, requests: Sequence[ChatRequest]) -> dict[str, Reply]:
        return {made.key: reply async for made, reply in self._client.run(requests)}
