"""The asynchronous client of OpenAI-compatible APIs, on a ledger: nothing is bought twice.

Every call is reserved before and settled after; the SDK's own retries are off, because it gives up
on long Retry-After headers and knows no budget.
"""

import asyncio
import logging
import os
import random
import weakref
from collections.abc import AsyncIterator, Iterable, Sized
from typing import TYPE_CHECKING, Self

from .calls import ChatRequest as ChatRequest
from .calls import Estimate as Estimate
from .calls import ImageRequest as ImageRequest
from .calls import Reply as Reply
from .calls import Request as Request
from .errors import Echo4oError, MissingExtraError, shown_address
from .ledger import BudgetExceeded, Entry, Ledger, LedgerError
from .limits import AdaptiveLimit, exhausted_for, requests_per_minute
from .pictures import PictureError, picture_facts
from .prices import PriceError
from .prices import PriceTable as PriceTable
from .transport import Answer, Rejected, Transient, Unreachable, ask

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter
    from openai import AsyncOpenAI

logger = logging.getLogger(__name__)

_LONGEST_BACKOFF_S = 30.0
_WORTH_TELLING_S = 20.0


class ApiClient:
    """Buys pictures and answers; use it as an asynchronous context manager.

    `base_url` and `api_key` default to OPENAI_BASE_URL and OPENAI_API_KEY. `concurrency` is the
    most calls in flight; `timeout_s` holds for one attempt; `backoff_s` is the first wait after a
    failure that names no time, doubled each time.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        base_url: str | None = None,
        api_key: str | None = None,
        concurrency: int = 8,
        max_attempts: int = 6,
        timeout_s: float = 120,
        requests_per_minute: float | None = None,
        prices: PriceTable | None = None,
        backoff_s: float = 0.5,
    ) -> None:
        if max_attempts < 1:
            raise ValueError(f"`max_attempts` must be 1 or more, got {max_attempts}")
        if requests_per_minute is not None and not requests_per_minute > 0:
            raise ValueError(f"`requests_per_minute` must be above 0, got {requests_per_minute}")
        self.ledger = ledger
        self.prices = PriceTable.load() if prices is None else prices
        self.calls_made = 0
        """HTTP requests sent by this client, retries included."""
        self._concurrency = concurrency
        self._max_attempts = max_attempts
        self._backoff_s = backoff_s
        self._limit = AdaptiveLimit(concurrency)
        self._pacer = None if requests_per_minute is None else _pacer(requests_per_minute)
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._openai = _openai(base_url, api_key, timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._openai.close()

    async def image(self, request: ImageRequest) -> Reply:
        """One picture, from the ledger when it was bought before.

        Raises:
            BudgetExceeded: the call could exceed the ledger's budget; it was not made.
            Echo4oError: the key, the model, the address or the price table needs the user.
        """
        return await self._call(request)

    async def chat(self, request: ChatRequest) -> Reply:
        """One answer, from the ledger when it was bought before; raises as `image` does."""
        return await self._call(request)

    async def run(
        self, requests: Iterable[Request], *, progress: str | None = None
    ) -> AsyncIterator[tuple[Request, Reply]]:
        """Replies in the order they arrive, at most `concurrency` calls at a time.

        `requests` is read as calls begin. An error that needs the user lets calls in flight
        finish, yields their replies, and is raised then. `progress` names a bar on stderr.
        """
        results: asyncio.Queue[tuple[Request, Reply] | None] = asyncio.Queue(2 * self._concurrency)
        errors: list[BaseException] = []
        source = iter(requests)

        async def work() -> None:
            try:
                for request in source:
                    if errors:
                        break
                    await results.put((request, await self._call(request)))
            except Exception as error:
                errors.append(error)
            await results.put(None)  # a cancelled worker has nobody to tell

        # Twice as many as may be in flight: some wait for their next attempt.
        workers = [asyncio.create_task(work()) for _ in range(2 * self._concurrency)]
        total = len(requests) if isinstance(requests, Sized) else None
        bar = _Bar(progress, total, self.ledger)
        try:
            running = len(workers)
            while running:
                result = await results.get()
                if result is None:
                    running -= 1
                    continue
                bar.show(result[1])
                yield result
        finally:
            bar.close()
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        if errors:
            raise errors[0]

    async def _call(self, request: Request) -> Reply:
        # Two equal requests at once are one purchase.
        lock = self._locks.setdefault(request.key, asyncio.Lock())
        async with lock:
            entry = self.ledger.find(request.key)
            if entry is not None and entry.state in ("done", "refused"):
                return self._cached(entry)
            return await self._buy(request)

    async def _buy(self, request: Request) -> Reply:
        for attempt in range(1, self._max_attempts + 1):
            try:
                answer = await self._attempt(request, is_first=attempt == 1)
            except Transient as failure:
                if attempt == self._max_attempts:
                    reply = self._fail(request, failure, attempt)
                    if isinstance(failure, Unreachable):
                        place = shown_address(self._openai.base_url)
                        raise Echo4oError(
                            f"{place} cannot be reached ({failure}); "
                            "check the address and that the server runs"
                        ) from failure
                    return reply
                if failure.may_be_billed:
                    self.ledger.reserve_again(request.key)
                await self._wait(failure, attempt)
            except Rejected as failure:
                return self._fail(request, failure, attempt)
            except (BudgetExceeded, LedgerError, PriceError, PictureError):
                raise  # nothing was reserved, nothing sent
            except Echo4oError as error:
                self._settle_failed(request, str(error), attempt, unknown_bill=False)
                raise
            else:
                return await self._settle(request, answer, attempt)
        raise AssertionError("the loop always returns")

    async def _attempt(self, request: Request, *, is_first: bool) -> Answer:
        async with self._limit:
            if self._pacer is not None:
                await self._pacer.acquire()
            if is_first:  # not before it is this call's turn: what waits needs no money
                self._reserve(request)
            self.calls_made += 1
            try:
                answer = await ask(self._openai, request)
            except Transient as failure:
                if failure.exhausted_s is not None:
                    self._limit.pause(max(failure.exhausted_s, failure.after_s or 0.0))
                self._limit.observe(limited=failure.is_rate_limit)
                raise
        self._limit.observe(limited=False)
        self._learn(answer)
        return answer

    def _reserve(self, request: Request) -> None:
        self.ledger.reserve(
            request.key,
            kind=request.kind,
            model=request.model,
            request=request.record,
            price_usd=request.bound_usd(self.prices),
        )

    def _learn(self, answer: Answer) -> None:
        if self._pacer is None and (pace := requests_per_minute(answer.headers)) is not None:
            self._pacer = _pacer(pace)
        if (seconds := exhausted_for(answer.headers)) is not None:
            self._limit.pause(seconds)

    async def _wait(self, failure: Transient, attempt: int) -> None:
        longest = min(_LONGEST_BACKOFF_S, self._backoff_s * 2 ** (attempt - 1))
        # The server's word is a lower bound; jitter keeps the waiting calls from coming at once.
        seconds = (failure.after_s or 0.0) + longest * random.uniform(0.5, 1.0)
        if failure.after_s is not None:
            seconds = failure.after_s * random.uniform(1.0, 1.1)
        if seconds > _WORTH_TELLING_S:
            logger.info("waiting %.0f s before the next attempt: %s", seconds, failure)
        await asyncio.sleep(seconds)

    async def _settle(self, request: Request, answer: Answer, attempts: int) -> Reply:
        digest = extension = None
        if answer.image is not None:
            extension = picture_facts(answer.image).extension
            digest = await asyncio.to_thread(self.ledger.store_picture, answer.image, extension)
        cost = self._cost(request, answer)
        self.ledger.settle(
            request.key,
            answer.outcome,
            cost_usd=cost,
            attempts=attempts,
            created=answer.created,
            answered_by=answer.model,
            reason=answer.reason,
            text=answer.text,
            picture=digest,
            extension=extension,
            request_id=answer.request_id,
            usage=answer.usage,
        )
        return Reply(
            outcome=answer.outcome,
            reason=answer.reason,
            text=answer.text,
            image=answer.image,
            image_sha256=digest,
            request_id=answer.request_id,
            model=answer.model,
            usage=answer.usage,
            cost_usd=cost,
            created=answer.created,
            attempts=attempts,
        )

    def _cost(self, request: Request, answer: Answer) -> float:
        price = self.prices.price(request.model)
        if answer.is_free:
            return 0.0
        if not answer.usage:
            # A server that does not say what it used is assumed to have used the most.
            return request.bound_usd(self.prices)
        usage = answer.usage
        return price.cost(text=usage["text"], images=usage["images"], output=usage["output"])

    def _fail(self, request: Request, failure: Transient | Rejected, attempts: int) -> Reply:
        unknown_bill = isinstance(failure, Transient) and failure.may_be_billed
        return self._settle_failed(request, str(failure), attempts, unknown_bill=unknown_bill)

    def _settle_failed(
        self, request: Request, reason: str, attempts: int, *, unknown_bill: bool
    ) -> Reply:
        self.ledger.settle(
            request.key,
            "failed",
            cost_usd=0.0,
            attempts=attempts,
            created="",
            reason=reason,
            unknown_bill=unknown_bill,
        )
        return Reply(outcome="failed", reason=reason, model=request.model, attempts=attempts)

    def _cached(self, entry: Entry) -> Reply:
        image = None
        if entry.picture is not None and entry.extension is not None:
            image = self.ledger.read_picture(entry.picture, entry.extension)
        return Reply(
            outcome="done" if entry.state == "done" else "refused",
            reason=entry.reason,
            text=entry.text,
            image=image,
            image_sha256=entry.picture,
            request_id=entry.request_id,
            model=entry.answered_by or entry.model,
            usage=entry.usage,
            cost_usd=entry.cost_usd,
            cached=True,
            created=entry.created,
            attempts=entry.attempts,
        )


class _Bar:
    """Progress on stderr: how many, what became of them, what was spent."""

    def __init__(self, name: str | None, total: int | None, ledger: Ledger) -> None:
        from tqdm import tqdm

        self._counts = {"done": 0, "refused": 0, "failed": 0}
        self._ledger = ledger
        self._bar = tqdm(desc=name, total=total, disable=name is None, mininterval=0.5)

    def show(self, reply: Reply) -> None:
        if self._bar.disable:
            return
        self._counts[reply.outcome] += 1
        parts = [f"{count} {name}" for name, count in self._counts.items() if count]
        spent = f"{self._ledger.spent_usd:.2f} USD"
        self._bar.set_postfix_str(", ".join([*parts, spent]), refresh=False)
        self._bar.update()

    def close(self) -> None:
        self._bar.close()


def _openai(base_url: str | None, api_key: str | None, timeout_s: float) -> "AsyncOpenAI":
    try:
        import openai
    except ModuleNotFoundError as error:
        raise MissingExtraError("calling an API", "build") from error
    if not (api_key or os.environ.get("OPENAI_API_KEY")):
        raise Echo4oError(
            "there is no API key; set OPENAI_API_KEY (any word will do for a server without keys)"
        )
    return openai.AsyncOpenAI(base_url=base_url, api_key=api_key, timeout=timeout_s, max_retries=0)


def _pacer(per_minute: float) -> "AsyncLimiter":
    """Calls evenly spaced, so that no burst meets the server's own limit."""
    from aiolimiter import AsyncLimiter

    return AsyncLimiter(1, 60 / per_minute)
