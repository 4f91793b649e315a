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

from .batch_api import BatchOptions as BatchOptions
from .batch_api import BatchRunner
from .calls import ChatRequest as ChatRequest
from .calls import Estimate as Estimate
from .calls import ImageRequest as ImageRequest
from .calls import Reply as Reply
from .calls import Request as Request
from .errors import Echo4oError, MissingExtraError, shown_address
from .ledger import BudgetExceeded, Ledger, LedgerError
from .limits import AdaptiveLimit
from .pictures import PictureError
from .prices import PriceError
from .prices import PriceTable as PriceTable
from .progress import Progress
from .settling import Order, Settler
from .transport import Answer, Rejected, Transient, Unreachable, ask

if TYPE_CHECKING:
    from openai import AsyncOpenAI

logger = logging.getLogger(__name__)

_LONGEST_BACKOFF_S = 30.0
_WORTH_TELLING_S = 20.0
_CONNECT_S = 10.0
"""Longest time to reach a server; its answer may take `timeout_s`."""
_FIRST_TRIES = 2
_LATEST = 0.05
"""Weight of the latest attempt in the share that fails."""
_FEW = 0.15
"""Share of failing attempts below which the service is not in trouble."""


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
        self.ledger = ledger
        self.prices = PriceTable.load() if prices is None else prices
        self.calls_made = 0
        """Calls sent by this client, retries and lines of batches included."""
        self._was_reached = False
        self._failing = _FEW
        """Recent share of attempts that failed; nothing is known at first."""
        self._concurrency = concurrency
        self._max_attempts = max_attempts
        self._backoff_s = backoff_s
        self._limit = AdaptiveLimit(concurrency, per_minute=requests_per_minute)
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._reserved: set[str] = set()
        """Calls that are under way; what each has set aside is mostly more than it will cost."""
        self._settled = asyncio.Condition()
        self._openai = _openai(base_url, api_key, timeout_s)
        self._settler = Settler(ledger, self.prices)

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

    async def chat(self, request: ChatRequest, *, ahead: bool = False) -> Reply:
        """One answer, from the ledger when it was bought before; raises as `image` does.

        `ahead` lets it go before calls that wait for their first attempt.
        """
        return await self._call(request, ahead=ahead)

    async def run(
        self,
        requests: Iterable[Request],
        *,
        progress: str | None = None,
        known_images: bool = True,
    ) -> AsyncIterator[tuple[Request, Reply]]:
        """Replies in the order they arrive, at most `concurrency` calls at a time.

        `requests` is read as calls begin. An error that needs the user lets calls in flight
        finish, yields their replies, and is raised then. `progress` names a bar on stderr.
        Without `known_images`, replies from the ledger come without their picture, unread.
        """
        results: asyncio.Queue[tuple[Request, Reply] | None] = asyncio.Queue(2 * self._concurrency)
        errors: list[BaseException] = []
        source = iter(requests)

        async def work() -> None:
            try:
                for request in source:
                    if errors:
                        break
                    reply = await self._call(request, known_images=known_images)
                    await results.put((request, reply))
            except Exception as error:
                errors.append(error)
            await results.put(None)  # a cancelled worker has nobody to tell

        # Twice as many as may be in flight: some wait for their next attempt.
        workers = [asyncio.create_task(work()) for _ in range(2 * self._concurrency)]
        total = len(requests) if isinstance(requests, Sized) else None
        bar = Progress(progress, total, self.ledger)
        try:
            running = len(workers)
            while running:
                result = await results.get()
                if result is None:
                    running -= 1
                    continue
                bar.take(result[1].outcome, is_cached=result[1].cached)
                yield result
        finally:
            bar.close()
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        if errors:
            raise errors[0]

    async def run_batches(
        self,
        requests: Iterable[Request],
        *,
        options: BatchOptions | None = None,
        progress: str | None = None,
        known_images: bool = True,
    ) -> AsyncIterator[tuple[Request, Reply]]:
        """The Batch API's answer to `run`: cheaper, within a day, and it outlives this process.

        `requests` must be readable several times (a list, or an object with `__iter__`). First
        everything is sent and waited for, then each request is yielded with its reply, in order.
        A process that is stopped meanwhile finds its batches again by the ledger; `run` refuses
        to buy what is under way in a batch. Lines that fail or expire are sent again.
        Without `known_images` the replies come without their pictures, which lie on the disk.

        Raises:
            BudgetExceeded: the budget is too small for all; what fitted was yielded before.
            Echo4oError: the key, the model, the address or the price table needs the user.
        """
        runner = self._batches(options)
        try:
            async for result in runner.run(requests, progress, known_images):
                yield result
        finally:
            self.calls_made += runner.lines

    async def cancel_batches(self, options: BatchOptions | None = None) -> int:
        """Cancel the batches under way, settle what they finished; returns their number."""
        return await self._batches(options).cancel()

    def batches_under_way(self) -> int:
        """Batches of this ledger that were sent and not collected."""
        query = "SELECT count(*) FROM batches WHERE state IN ('sending', 'open')"
        return int(self.ledger.execute(query)[0][0])

    def _batches(self, options: BatchOptions | None) -> BatchRunner:
        options = options or BatchOptions()
        return BatchRunner(self._openai, self._settler, options, backoff_s=self._backoff_s)

    async def _call(
        self, request: Request, *, known_images: bool = True, ahead: bool = False
    ) -> Reply:
        # Two equal requests at once are one purchase.
        lock = self._locks.setdefault(request.key, asyncio.Lock())
        async with lock:
            known = self._settler.known(request.key, with_image=known_images)
            return known or await self._buy(request, ahead)

    async def _buy(self, request: Request, ahead: bool) -> Reply:
        try:
            return await self._try(request, ahead)
        finally:
            self._reserved.discard(request.key)
            async with self._settled:
                self._settled.notify_all()

    async def _try(self, request: Request, ahead: bool) -> Reply:
        order = Order.of(request, self.prices)
        for attempt in range(1, self._max_attempts + 1):
            try:
                answer = await self._attempt_in_budget(request, attempt, ahead)
            except Transient as failure:
                if attempt == self._max_attempts or self._is_alone(failure, attempt):
                    reply = self._settler.fail(
                        request.key,
                        request.model,
                        str(failure),
                        attempt,
                        unknown_bill=failure.may_be_billed,
                    )
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
                return self._settler.fail(request.key, request.model, str(failure), attempt)
            except (BudgetExceeded, LedgerError, PriceError, PictureError):
                raise  # nothing was reserved, nothing sent
            except Echo4oError as error:
                self._settler.fail(request.key, request.model, str(error), attempt)
                raise
            else:
                return await self._settler.settle(order, answer, attempt)
        raise AssertionError("the loop always returns")

    def _is_alone(self, failure: Transient, attempt: int) -> bool:
        """Whether nobody ever answered: a wrong address is told at once, not after minutes."""
        return (
            isinstance(failure, Unreachable) and not self._was_reached and attempt >= _FIRST_TRIES
        )

    async def _attempt_in_budget(self, request: Request, attempt: int, ahead: bool) -> Answer:
        """Attempt a call; where only others under way leave no money for it, wait for one."""
        while True:
            try:
                return await self._attempt(request, attempt == 1, ahead or attempt > 1)
            except BudgetExceeded:
                if not self._reserved:
                    raise
            async with self._settled:
                if self._reserved:
                    await self._settled.wait()

    async def _attempt(self, request: Request, is_first: bool, ahead: bool) -> Answer:
        async with self._limit.turn(ahead=ahead):
            if is_first:  # not before it is this call's turn: what waits needs no money
                self._settler.reserve(request)
                self._reserved.add(request.key)
            self.calls_made += 1
            try:
                answer = await ask(self._openai, request)
                self._was_reached = True
            except Transient as failure:
                self._was_reached |= not isinstance(failure, Unreachable)
                self._limit.learn(failure.headers)
                if failure.is_rate_limit:
                    self._limit.ask_to_wait(failure.after_s or 0.0)
                self._limit.observe(limited=failure.is_rate_limit)
                self._failing += _LATEST * (1 - self._failing)
                raise
            except Rejected:
                self._limit.observe(limited=False)
                raise
            self._limit.learn(answer.headers, tokens=sum(answer.usage.values()))
            self._limit.observe(limited=False)
            self._failing -= _LATEST * self._failing
        return answer

    async def _wait(self, failure: Transient, attempt: int) -> None:
        longest = min(_LONGEST_BACKOFF_S, self._backoff_s * 2 ** (attempt - 1))
        if self._failing < _FEW and attempt <= _FIRST_TRIES:
            longest = self._backoff_s / 4  # the others are answered: this call had bad luck
        # The server's word is a lower bound; jitter keeps the waiting calls from coming at once.
        seconds = (failure.after_s or 0.0) + longest * random.uniform(0.5, 1.0)
        if failure.after_s is not None:
            seconds = failure.after_s * random.uniform(1.0, 1.1)
        if seconds > _WORTH_TELLING_S:
            logger.info("waiting %.0f s before the next attempt: %s", seconds, failure)
        await asyncio.sleep(seconds)


def _openai(base_url: str | None, api_key: str | None, timeout_s: float) -> "AsyncOpenAI":
    try:
        import openai
    except ModuleNotFoundError as error:
        raise MissingExtraError("calling an API", "build") from error
    if not (api_key or os.environ.get("OPENAI_API_KEY")):
        raise Echo4oError(
            "there is no API key; set OPENAI_API_KEY (any word will do for a server without keys)"
        )
    timeout = openai.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_S))
    client = openai.AsyncOpenAI(base_url=base_url, api_key=api_key, timeout=timeout, max_retries=0)
    if client.base_url.scheme not in ("http", "https") or not client.base_url.host:
        address = shown_address(client.base_url)
        raise Echo4oError(f"{address!r} is no address of an API; give --base-url https://HOST/v1")
    return client
