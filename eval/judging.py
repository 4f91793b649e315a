"""Asks a judge about every picture, on the core's client and ledger.

Verdicts are cached by content in the ledger, so a second run asks nothing and a killed run goes on
where it was. A reply that cannot be read is asked for again as often as the protocol says.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from echo4o.client import ApiClient, ChatRequest
from echo4o.errors import Echo4oError
from echo4o.ledger import Ledger
from echo4o.pictures import PictureError
from echo4o.prices import PriceTable

from .cases import Case, chat_request, unasked
from .items import Item
from .pictures import Picture
from .protocols import JudgeProtocol
from .verdicts import Verdict

logger = logging.getLogger(__name__)

T = TypeVar("T")

_READERS = 2
_AHEAD = 16
"""Pictures that are held ready; 1024 x 1024 ones are a few hundred kB each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeConfig:
    """Which judge, and how hard it may be asked."""

    model: str
    """Name of the judge model at the API."""
    base_url: str | None = None
    """Address of an OpenAI-compatible API; None means OPENAI_BASE_URL, else OpenAI's own."""
    concurrency: int = 8
    """Most calls in flight."""
    budget_usd: float | None = None
    """Most that the ledger of this run may ever hold; None means no limit."""
    timeout_s: float = 120.0
    """Longest wait for one reply."""

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise ValueError("`model` of the judge is empty; name one")
        if self.concurrency < 1:
            raise ValueError(f"`concurrency` must be at least 1, got {self.concurrency}")
        if self.budget_usd is not None and not self.budget_usd >= 0:
            raise ValueError(f"`budget_usd` must be 0 or more, got {self.budget_usd}")
        if not self.timeout_s > 0:
            raise ValueError(f"`timeout_s` must be above 0, got {self.timeout_s}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """Verdicts in item order, and what they took."""

    verdicts: tuple[Verdict, ...]
    calls: int
    """HTTP requests made now; 0 when everything was known."""
    spent_usd: float
    """Everything this ledger ever paid."""


def check_judge(config: JudgeConfig, ledger: Path) -> None:
    """Refuse now what judging would refuse before its first call; makes no call.

    Raises:
        Echo4oError: there is no price for the judge, no API key, or the ledger cannot be used.
    """
    PriceTable.load().price(config.model)

    async def open_and_close() -> None:
        with Ledger(ledger, budget_usd=config.budget_usd) as book:
            async with _client(config, book):
                pass

    _wait_for(open_and_close())


def judge(
    items: Sequence[Item],
    pictures: Mapping[int, Path],
    *,
    protocol: JudgeProtocol,
    config: JudgeConfig,
    ledger: Path,
    progress: bool = False,
) -> Judged:
    """Judge the pictures of `items`; blocks until all verdicts are there.

    Args:
        items: What to judge, in the order of the result.
        pictures: Picture file by item number; an item without one gets the verdict `missing`.
        protocol: How to ask and how to read.
        config: Which judge.
        ledger: SQLite file that keeps every reply; the same file is never asked twice.
        progress: Show a bar on stderr.

    Raises:
        BudgetExceeded: the next call does not fit into the budget; what was judged is kept.
        Echo4oError: the judge gave no reply to any item, or cannot be used at all.
    """
    work = judge_async(
        items, pictures, protocol=protocol, config=config, ledger=ledger, progress=progress
    )
    return _wait_for(work)


def _wait_for(work: Coroutine[Any, Any, T]) -> T:
    if not _is_in_loop():
        return asyncio.run(work)
    # Inside a notebook a loop is running already; ours gets its own thread.
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, work).result()


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def judge_async(
    items: Sequence[Item],
    pictures: Mapping[int, Path],
    *,
    protocol: JudgeProtocol,
    config: JudgeConfig,
    ledger: Path,
    progress: bool = False,
) -> Judged:
    """Judge as `judge` does, inside a running event loop."""
    settled: dict[int, Verdict] = {}
    cases: list[Case] = []
    for item in items:
        if item.number in pictures:
            cases.append(Case(item=item, path=pictures[item.number], protocol=protocol))
        else:
            reason = "there is no picture for this item"
            settled[item.number] = unasked(item, protocol, "missing", reason)
    with Ledger(ledger, budget_usd=config.budget_usd) as book:
        async with _client(config, book) as client:
            judging = _Judging(client, protocol, config.model, progress)
            settled |= await judging.settle(cases)
        result = Judged(
            verdicts=tuple(settled[item.number] for item in items),
            calls=client.calls_made,
            spent_usd=round(book.spent_usd, 8),
        )
    _refuse_silence(result.verdicts, config.model)
    return result


def _client(config: JudgeConfig, book: Ledger) -> ApiClient:
    return ApiClient(
        ledger=book,
        base_url=config.base_url,
        concurrency=config.concurrency,
        timeout_s=config.timeout_s,
    )


class _Judging:
    """One pass over all cases: ask, read, ask again what could not be read."""

    def __init__(
        self, client: ApiClient, protocol: JudgeProtocol, model: str, progress: bool
    ) -> None:
        self._client = client
        self._protocol = protocol
        self._model = model
        self._progress = progress

    async def settle(self, cases: Sequence[Case]) -> dict[int, Verdict]:
        """Return a verdict for every case.

        What must be asked again goes in between the others; only what the last replies leave over
        needs another pass.
        """
        settled: dict[int, Verdict] = {}
        asked, waiting = _Requests(self._protocol, self._model), list(cases)
        for turn in range(self._protocol.attempts):
            if not waiting:
                break
            if turn:
                await asyncio.sleep(self._protocol.pause_s)
            asked.begin(waiting)
            name = f"judge, {len(waiting)} once more" if turn else "judge"
            async for request, reply in self._client.run(
                asked, progress=name if self._progress else None
            ):
                case, is_first = asked.take(request.key)
                verdict = case.take(reply, request.key, is_paid=is_first)
                if verdict is None:
                    asked.put_back(case)
                else:
                    settled[case.item.number] = verdict
            settled |= asked.damaged
            waiting = [case for case in waiting if case.item.number not in settled]
        for number, verdict in settled.items():
            if verdict.outcome == "unreadable":
                logger.warning("item %d: no readable reply (%s)", number, verdict.reason)
        return settled


class _Requests:
    """The requests of each pass; pictures are read and encoded a few ahead of the client.

    Equal questions about equal pictures are equal requests: the client buys one reply and gives it
    to each, and its price belongs to the first.
    """

    def __init__(self, protocol: JudgeProtocol, model: str) -> None:
        self._by_key: dict[str, list[Case]] = {}
        self._answered: Counter[str] = Counter()
        self.damaged: dict[int, Verdict] = {}
        self._cases: Sequence[Case] = ()
        self._protocol = protocol
        self._model = model
        self._again: deque[tuple[float, Case]] = deque()

    def begin(self, cases: Sequence[Case]) -> None:
        """Start a pass over these."""
        self._cases = cases
        self._again.clear()

    def __len__(self) -> int:
        return len(self._cases)

    def __iter__(self) -> Iterator[ChatRequest]:
        for case, loaded in self._ahead():
            while self._again and self._again[0][0] <= time.monotonic():
                _, again = self._again.popleft()
                yield self._request(again, self._protocol.load(again.path))
            try:
                picture = loaded.result()
            except PictureError as error:
                blank = unasked(case.item, self._protocol, "damaged", str(error))
                self.damaged[case.item.number] = replace(blank, picture=case.path.name)
                continue
            yield self._request(case, picture)

    def put_back(self, case: Case) -> None:
        """Ask about `case` again as soon as its protocol allows, or leave it to the next pass."""
        self._again.append((time.monotonic() + self._protocol.pause_s, case))

    def _ahead(self) -> Iterator[tuple[Case, Future[Picture]]]:
        """Yield each case with its picture; replies are not kept waiting for encoders."""
        waiting: deque[tuple[Case, Future[Picture]]] = deque()
        with ThreadPoolExecutor(max_workers=_READERS) as pool:
            for case in self._cases:
                waiting.append((case, pool.submit(self._protocol.load, case.path)))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft()
            yield from waiting

    def take(self, key: str) -> tuple[Case, bool]:
        """Return the next case that waits for a reply to `key`, and whether it is the first."""
        number = self._answered[key]
        self._answered[key] += 1
        return self._by_key[key][number], number == 0

    def _request(self, case: Case, picture: Picture) -> ChatRequest:
        case.sha256 = picture.sha256
        request = chat_request(
            self._protocol, case.item, picture.data, self._model, attempt=case.replies
        )
        self._by_key.setdefault(request.key, []).append(case)
        return request


def _refuse_silence(verdicts: Sequence[Verdict], model: str) -> None:
    """A judge that answers nothing gives no score at all."""
    asked = [verdict for verdict in verdicts if verdict.outcome not in ("missing", "damaged")]
    if not asked:
        missing = sum(verdict.outcome == "missing" for verdict in verdicts)
        raise Echo4oError(
            f"none of {len(verdicts)} items has a usable picture ({missing} missing); "
            "pictures are named after the item's number: 1.png, 2.jpg"
        )
    if all(verdict.outcome == "failed" for verdict in asked):
        raise Echo4oError(
            f"judge {model} answered none of {len(asked)} questions, so there is no score: "
            f"{asked[0].reason}"
        )
