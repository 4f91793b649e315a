"""Buys the pictures of a plan: references first, then the rows that need them; resumable.

What was bought lies in the ledger beside the plan. Refusals are outcomes, which may be reworded
and tried again; failures are tried again by the next run, and nothing is paid twice.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from echo4o.client import ApiClient, BatchOptions, ImageRequest, PriceTable, Reply, Request
from echo4o.errors import Echo4oError
from echo4o.ledger import Ledger, LostPictureError

from .band import Watch
from .plan import Entry, read_plan
from .purchases import LEDGER_NAME as LEDGER_NAME
from .purchases import Given as Given
from .purchases import Purchases as Purchases
from .purchases import Settings as Settings
from .purchases import SettingsError as SettingsError

# More than can ever be in flight.
_REMEMBERED = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Api:
    """Where pictures are bought, and how fast and dear that may be."""

    base_url: str | None = None
    """None takes OPENAI_BASE_URL."""
    budget_usd: float | None = None
    """Of everything that the folder's ledger ever pays."""
    concurrency: int = 8
    requests_per_minute: float | None = None
    prices: PriceTable | None = None
    batch: BatchOptions | None = None
    """Buy by the Batch API."""
    rebuy_lost: bool = False
    """Buy pictures again whose files are missing or damaged."""

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"--concurrency must be at least 1, got {self.concurrency}")


class Summary(NamedTuple):
    """What became of a plan's entries."""

    outcomes: dict[str, int]
    """done, refused, failed, and `no reference` for rows whose reference was not made."""
    references: dict[str, int]
    """The same of the reference pictures that are made."""
    reasons: dict[str, int]
    """Refusals by the code that the service gave, of references and rows."""
    failures: dict[str, int]
    """Failed calls by what went wrong."""
    reworded: int
    """Rows and references that were made after a refusal, with other words."""
    calls: int
    """HTTP requests of this run."""
    spent_usd: float
    """All settled calls of the ledger."""
    pause: str | None
    """Why the run stopped before its end."""


class Buyer:
    """Buys entries through one client; use `opened`."""

    def __init__(self, client: ApiClient, purchases: Purchases, api: Api, progress: bool) -> None:
        self.client = client
        self.purchases = purchases
        self.outcomes: Counter[str] = Counter()
        self.references: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.reworded = 0
        self._batch = api.batch
        self._progress = progress

    async def buy(
        self, references: Collection[Entry], rows: Collection[Entry], watch: Watch
    ) -> None:
        """Buy references, then rows; `watch` may end it early."""
        made = [entry for entry in references if entry.source is None]
        if made:
            self.references, self.reasons = await self._settle(made, "references", Watch())
        for name, part in self._portions(rows, watch):
            outcomes, reasons = await self._settle(part, name, watch)
            self.outcomes += outcomes
            self.reasons += reasons
            if watch.alarm:
                break

    def _portions(
        self, rows: Collection[Entry], watch: Watch
    ) -> Iterator[tuple[str, Collection[Entry]]]:
        """All rows; or as many at a time as go into a batch, when somebody watches.

        What is in a batch is bought, so the next one waits for what is said of it.
        """
        if self._batch is None or not watch.is_watching:
            yield "rows", rows
            return
        size = self._batch.max_lines
        for start in range(0, len(rows), size):
            yield f"rows from {start + 1}", _Portion(rows, start, min(len(rows), start + size))

    @property
    def batch_factor(self) -> float:
        """Share of the price that a batch pays."""
        return self.client.prices.price(self.purchases.settings.model).batch_factor

    def summary(self, watch: Watch) -> Summary:
        """What became of the rows."""
        return Summary(
            dict(sorted(self.outcomes.items())),
            dict(sorted(self.references.items())),
            dict(sorted(self.reasons.items())),
            dict(self.failures.most_common()),
            self.reworded,
            self.client.calls_made,
            self.purchases.ledger.spent_usd,
            watch.alarm,
        )

    async def _settle(
        self, entries: Collection[Entry], name: str, watch: Watch
    ) -> tuple[Counter[str], Counter[str]]:
        """Buy entries, rewording and trying again what is refused; outcomes and reasons."""
        outcomes: Counter[str] = Counter()
        refused = await self._pass(entries, name, outcomes, watch)
        turns = self.purchases.settings.rewrites if self.purchases.settings.rewriter else 0
        for turn in range(1, turns + 1):
            stories = [self.purchases.story(entry) for entry, _ in refused]
            questions = [story.question for story in stories if story and story.question]
            if not questions or watch.alarm:
                break
            await self._exhaust(questions, f"{name}: new words")
            again: Counter[str] = Counter()
            tried = [entry for entry, _ in refused]
            still = await self._pass(tried, f"{name}: try {turn + 1}", again, Watch())
            self.reworded += again["done"]
            outcomes.update(again)
            refused = still
        reasons = Counter(reason.partition(":")[0] for _, reason in refused)
        if refused:
            outcomes["refused"] = len(refused)
        return outcomes, reasons

    async def _pass(
        self, entries: Collection[Entry], name: str, outcomes: Counter[str], watch: Watch
    ) -> list[tuple[Entry, str]]:
        """Ask once for each entry; counts all outcomes but refusals, which are returned."""
        rows = _Rows(entries, self.purchases, watch if self._batch is None else Watch())
        # The band is in ordinary prices.
        share = 1.0 if self._batch is None else self.batch_factor
        refused: list[tuple[Entry, str]] = []
        async for request, reply in self._run(rows, name):
            entry = rows.take(request.key)
            watch.observe(entry, reply.outcome, None if reply.cached else reply.cost_usd / share)
            if reply.outcome == "refused":
                refused.append((entry, reply.reason or "no reason given"))
                continue
            outcomes[reply.outcome] += 1
            if reply.outcome == "failed":
                self.failures[reply.reason or "no reason given"] += 1
        if rows.without_reference:
            outcomes["no reference"] = rows.without_reference
        return refused

    async def _exhaust(self, requests: Collection[Request], name: str) -> None:
        async for _ in self._run(requests, name):
            pass

    def _run(
        self, requests: Collection[Request], name: str
    ) -> AsyncIterator[tuple[Request, Reply]]:
        title = name if self._progress else None
        if self._batch is not None:
            return self.client.run_batches(
                requests, options=self._batch, progress=title, known_images=False
            )
        return self.client.run(requests, progress=title, known_images=False)


class _Portion(Collection[Entry]):
    """Some rows of a plan that follow each other."""

    def __init__(self, rows: Collection[Entry], start: int, end: int) -> None:
        self._rows = rows
        self._start, self._end = start, end

    def __len__(self) -> int:
        return self._end - self._start

    def __contains__(self, entry: object) -> bool:
        return any(entry == row for row in self)

    def __iter__(self) -> Iterator[Entry]:
        return islice(self._rows, self._start, self._end)


class _Rows(Collection[ImageRequest]):
    """Requests of the entries whose references exist, made one at a time; ends with the watch."""

    def __init__(self, entries: Collection[Entry], purchases: Purchases, watch: Watch) -> None:
        self._entries = entries
        self._purchases = purchases
        self._watch = watch
        self._asked: dict[str, list[Entry]] = {}
        """By key; other words after a refusal can make two entries one purchase."""
        self.without_reference = 0

    def take(self, key: str) -> Entry:
        """The entry of a reply, once."""
        waiting = self._asked[key]
        entry = waiting.pop()
        if not waiting:
            del self._asked[key]
        return entry

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, request: object) -> bool:
        return any(request == one for one in self)

    def __iter__(self) -> Iterator[ImageRequest]:
        self.without_reference = 0
        for entry in self._entries:
            if self._watch.alarm:
                return
            request = self._purchases.request(entry)
            if request is None:
                self.without_reference += 1
                continue
            self._asked.setdefault(request.key, []).append(entry)
            if len(self._asked) > _REMEMBERED:  # batches go through all rows before they answer
                del self._asked[next(iter(self._asked))]
            yield request


@contextmanager
def opened(
    folder: Path, settings: Settings, api: Api, *, progress: bool = False
) -> Iterator[Buyer]:
    """A buyer for the plan in `folder`.

    Raises:
        Echo4oError: the plan, the settings, the key or the ledger needs the user.
    """
    plan, digest = read_plan(folder)
    settings = replace(settings, plan_sha256=digest)
    with Ledger(folder / LEDGER_NAME, budget_usd=api.budget_usd) as ledger:
        counts = ledger.counts()
        settings = settings.save(folder, is_begun=counts["done"] + counts["refused"] > 0)
        if api.rebuy_lost:
            _forget_lost(ledger, progress)
        client = ApiClient(
            ledger=ledger,
            base_url=api.base_url,
            concurrency=api.concurrency,
            requests_per_minute=api.requests_per_minute,
            prices=api.prices,
        )
        if api.batch is None and (open_ := client.batches_under_way()):
            raise Echo4oError(
                f"{open_} batches are under way; add --batch-api to collect them, or end them "
                "with --cancel-batches"
            )
        buyer = Buyer(client, Purchases(plan, settings, ledger), api, progress)
        yield buyer
        buyer.purchases.tell_lost()


def _forget_lost(ledger: Ledger, progress: bool) -> None:
    """Free the calls whose picture is lost, and put damaged files out of the way."""
    from tqdm import tqdm

    known = tqdm(ledger.entries("done"), desc="look at bought pictures", disable=not progress)
    for entry in known:
        if entry.picture is None or entry.extension is None:
            continue
        try:
            ledger.read_picture(entry.picture, entry.extension)
        except LostPictureError as error:
            ledger.forget_picture(entry.key, str(error))
            ledger.picture_path(entry.picture, entry.extension).unlink(missing_ok=True)


def generate(
    folder: Path,
    settings: Settings,
    api: Api | None = None,
    *,
    watch: Watch | None = None,
    progress: bool = False,
) -> Summary:
    """Buy what the plan in `folder` still lacks.

    Raises:
        BudgetExceeded: the next call could cost more than is left; finished calls are kept.
        Echo4oError: the plan, the settings, the key or the address needs the user.
    """
    watch = watch or Watch()
    with opened(folder, settings, api or Api(), progress=progress) as buyer:
        plan = buyer.purchases.plan

        async def work() -> None:
            async with buyer.client:
                await buyer.buy(plan.references, plan.rows, watch)

        asyncio.run(work())
        return buyer.summary(watch)


def cancel_batches(folder: Path, settings: Settings, api: Api) -> int:
    """End the batches under way and keep what they finished; returns their number."""
    with opened(folder, settings, api) as buyer:

        async def work() -> int:
            async with buyer.client:
                return await buyer.client.cancel_batches(api.batch)

        return asyncio.run(work())
