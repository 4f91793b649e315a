"""The Batch API: many calls in one file at a reduced price, within a day; used by `ApiClient`.

A batch outlives this process. Its lines are reserved in the ledger under its token before the file
is sent; the token travels in the batch's metadata. So a process that was killed at any moment,
also between the service's yes and our note of it, finds the batch again and pays for nothing twice.
"""

import asyncio
import json
import logging
import secrets
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from functools import partial
from types import NoneType
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from .batch_service import BatchService, Uncertain
from .calls import Reply, Request
from .errors import Echo4oError
from .ledger import BudgetExceeded, LedgerError
from .pictures import PictureError
from .prices import PriceError
from .progress import Progress
from .settling import Order, Settler
from .transport import Rejected, Transient, clean, read_answer, read_problem, whole

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import Batch

logger = logging.getLogger(__name__)

_FINAL = ("completed", "failed", "expired", "cancelled")
# The service takes no more lines now; it will when other batches are done.
_FULL = ("token_limit_exceeded", "rate_limit_exceeded", "quota_exceeded")


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchOptions:
    """How requests are put into batches."""

    poll_s: float = 30.0
    """Seconds between two looks at a batch."""
    max_lines: int = 50_000
    """Most requests in a batch; a service with a limit of queued tokens needs fewer."""
    max_bytes: int = 150_000_000
    """Most bytes of a batch file."""
    rounds: int = 3
    """How often a line is sent that fails, or that the service does not reach within its day."""
    grace_s: float = 5.0
    """How long a batch may take to show up in the service's list."""

    def __post_init__(self) -> None:
        for name in ("poll_s", "max_lines", "max_bytes", "rounds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be above 0, got {getattr(self, name)}")


class _Draft(NamedTuple):
    """A batch file that is being written."""

    token: str
    endpoint: str
    model: str
    file: IO[bytes]
    keys: list[str]


class BatchRunner:
    """Sends batches, waits for them, and settles their lines."""

    def __init__(
        self,
        client: "AsyncOpenAI",
        settler: Settler,
        options: BatchOptions,
        *,
        backoff_s: float = 0.5,
    ) -> None:
        self._client = client
        self._service = BatchService(client, grace_s=options.grace_s, backoff_s=backoff_s)
        self._settler = settler
        self._ledger = settler.ledger
        self._options = options
        self.lines = 0
        """Lines that were sent, repeats included."""
        self._failures: Counter[str] = Counter()
        self._settled: set[str] = set()
        self._is_full_there = False
        self._error: Echo4oError | None = None

    async def run(
        self, requests: Iterable[Request], progress: str | None, with_images: bool
    ) -> AsyncIterator[tuple[Request, Reply]]:
        """Settle all requests in batches, then yield them in their order with their replies."""
        if iter(requests) is requests:
            raise ValueError("requests of batches are read several times; give a list, no iterator")
        await self._recover()
        while True:
            self._error, self._is_full_there = None, False
            known = len(self._settled)
            await self._send_missing(requests)
            had_open = bool(self._open())
            await self._collect(progress)
            if not had_open or not isinstance(self._error, BudgetExceeded | NoneType):
                break
            if self._is_full_there and len(self._settled) == known:
                raise Echo4oError(
                    "the service queues no more batches of this size; wait for others to finish, "
                    "or send fewer lines in each"
                )
        for request in requests:
            yield request, self._reply(request, with_images)
        if self._error is not None:
            raise self._error

    async def cancel(self) -> int:
        """End all batches under way and settle what they finished; returns their number."""
        await self._recover()
        batches = self._open()
        for _, service_id in batches:
            await self._service.cancel(service_id)
        await self._collect(None)
        return len(batches)

    def _reply(self, request: Request, with_image: bool) -> Reply:
        reply = self._settler.known(request.key, with_image=with_image)
        if reply is None:
            entry = self._ledger.find(request.key)
            reason = None if entry is None else entry.reason
            return Reply(outcome="failed", reason=reason or "it was not sent", model=request.model)
        return replace(reply, cached=request.key not in self._settled)

    def _open(self) -> list[tuple[str, ...]]:
        """Token and service id of the batches under way."""
        return self._ledger.execute(
            "SELECT token, service_id FROM batches WHERE state = 'open' ORDER BY token"
        )

    async def _recover(self) -> None:
        """Find out what became of batches that an earlier process was about to send."""
        query = "SELECT token, state FROM batches WHERE state IN ('written', 'sending')"
        for token, state in self._ledger.execute(query):
            found = await self._service.find(token) if state == "sending" else None
            if found is None:
                self._release(token, "the batch was never sent")
            else:
                self._mark(token, "open", found)

    async def _send_missing(self, requests: Iterable[Request]) -> None:
        """Send what is neither known nor under way."""
        drafts: dict[tuple[str, str], _Draft] = {}
        try:
            for request in requests:
                if not self._is_needed(request.key):
                    continue
                line = _line(request)
                group = (request.endpoint, request.model)
                draft = drafts.get(group)
                if draft is not None and self._is_full(draft, len(line)):
                    await self._send(drafts.pop(group))
                    draft = None
                if draft is None:
                    draft = drafts[group] = self._draft(*group)
                self._settler.reserve(request, draft.token)
                draft.keys.append(request.key)
                draft.file.write(line)
        except (BudgetExceeded, LedgerError, PriceError, PictureError) as error:
            self._error = error  # what was written before it fits, and goes
        for draft in drafts.values():
            await self._send(draft)

    def _is_needed(self, key: str) -> bool:
        entry = self._ledger.find(key)
        if entry is None:
            return True
        if entry.state == "failed":
            return self._failures[key] < self._options.rounds
        return entry.state == "reserved" and entry.batch is None

    def _is_full(self, draft: _Draft, more: int) -> bool:
        too_many = len(draft.keys) >= self._options.max_lines
        return too_many or draft.file.tell() + more > self._options.max_bytes

    def _draft(self, endpoint: str, model: str) -> _Draft:
        token = secrets.token_hex(16)
        self._ledger.execute(
            "INSERT INTO batches (token, endpoint, model, state) VALUES (?, ?, ?, 'written')",
            (token, endpoint, model),
        )
        return _Draft(token, endpoint, model, tempfile.TemporaryFile(), [])

    async def _send(self, draft: _Draft) -> None:
        """Upload the file and begin the batch."""
        with draft.file:
            if not draft.keys:
                self._mark(draft.token, "closed")
                return
            draft.file.seek(0)
            data = draft.file.read()
        try:
            name = f"echo4o-{draft.token}.jsonl"
            file_id = await self._service.upload(name, data)
            self._mark(draft.token, "sending")
            service_id = await self._service.begin(
                draft.token, draft.endpoint, draft.model, file_id
            )
        except Uncertain:
            raise  # the lines stay reserved, and the next run looks for the batch
        except Echo4oError as error:
            self._release(draft.token, str(error))
            raise
        self._mark(draft.token, "open", service_id)
        self.lines += len(draft.keys)
        logger.info("batch %s: %d lines of %s", service_id, len(draft.keys), draft.endpoint)

    async def _collect(self, progress: str | None) -> None:
        """Wait until no batch is under way."""
        if not self._open():
            return
        query = "SELECT count(*) FROM calls WHERE state = 'reserved' AND batch IS NOT NULL"
        total = int(self._ledger.execute(query)[0][0])
        bar = Progress(progress, total, self._ledger)
        finished: dict[str, int] = {}
        try:
            while batches := self._open():
                for token, service_id in batches:
                    found = await self._service.retrieve(service_id)
                    if found is not None and found.request_counts is not None:
                        counts = found.request_counts
                        finished[token] = (counts.completed or 0) + (counts.failed or 0)
                    if found is None or found.status in _FINAL:
                        await self._close(token, service_id, found)
                left = len(self._open())
                bar.say(f"{left} batches under way", settled=sum(finished.values()))
                if left:
                    await asyncio.sleep(self._options.poll_s)
        finally:
            bar.close()

    async def _close(self, token: str, service_id: str, batch: "Batch | None") -> None:
        """Settle every line of a batch that is over."""
        if batch is None:
            reason = f"the service no longer knows batch {service_id}"
            logger.warning("%s; its lines may have been billed and stay counted", reason)
            self._release(token, reason, unknown_bill=True)
            return
        is_whole = True
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id and not await self._service.read(file_id, partial(self._take, token)):
                logger.warning("the service has lost result file %s; its price is kept", file_id)
                is_whole = False
        problems = batch.errors.data if batch.errors is not None else None
        codes = {problem.code for problem in problems or []}
        message = "; ".join(str(problem.message) for problem in (problems or [])[:3])
        reason = f"batch {batch.status}" + (f": {message}" if message else "")
        is_full = batch.status == "failed" and not codes.isdisjoint(_FULL)
        self._is_full_there |= is_full
        reason = clean(reason, self._client.api_key)
        if batch.status in ("failed", "cancelled") and not is_full:
            self._error = Echo4oError(f"{service_id} is over: {reason}; its lines are not paid")
        counted = batch.status in ("completed", "expired")
        self._release(token, reason, counted=counted, unknown_bill=not is_whole)

    async def _take(self, token: str, line: bytes) -> None:
        if not line.strip():
            return
        try:
            result = json.loads(line)
            entry = self._ledger.find(str(result["custom_id"]))
            response = result.get("response") or {}
            body, status = response.get("body"), response.get("status_code")
            body = body if isinstance(body, dict) else {}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            logger.warning("a line of a batch's result is unreadable (%s)", error)
            return
        if entry is None or entry.batch != token or entry.state != "reserved":
            return
        share = self._settler.prices.price(entry.model).batch_factor
        order = Order(entry.key, entry.model, entry.reserved_usd, share)
        try:
            if not response:
                raise Transient(_message(result.get("error")), may_be_billed=False)
            headers = {"x-request-id": whole(response.get("request_id") or "")}
            if status == 200:
                answer = read_answer(entry.kind, entry.model, body, headers)
            else:
                said = body.get("error")
                problem = said if isinstance(said, dict) else body
                answer = read_problem(
                    status if isinstance(status, int) else 500,
                    problem,
                    headers,
                    model=entry.model,
                    client=self._client,
                )
        except Transient as failure:
            self._fail(order, str(failure), unknown_bill=failure.may_be_billed)
        except Rejected as failure:
            self._fail(order, str(failure))
            self._failures[order.key] = self._options.rounds
        except Echo4oError as error:
            self._fail(order, str(error))
            self._error = error
        else:
            await self._settler.settle(order, answer, 1)
            self._settled.add(order.key)

    def _fail(self, order: Order, reason: str, *, unknown_bill: bool = False) -> None:
        reason = clean(reason, self._client.api_key)
        self._settler.fail(order.key, order.model, reason, 1, unknown_bill=unknown_bill)
        self._failures[order.key] += 1

    def _release(
        self, token: str, reason: str, *, unknown_bill: bool = False, counted: bool = False
    ) -> None:
        """Close a batch: what it did not settle was not executed, and is free to be sent again."""
        query = "SELECT key, model FROM calls WHERE batch = ? AND state = 'reserved'"
        for key, model in self._ledger.execute(query, (token,)):
            self._settler.fail(key, model, reason, 0, unknown_bill=unknown_bill)
            self._failures[key] += counted
        self._mark(token, "closed")

    def _mark(self, token: str, state: str, service_id: str | None = None) -> None:
        self._ledger.execute(
            "UPDATE batches SET state = ?, service_id = coalesce(?, service_id) WHERE token = ?",
            (state, service_id, token),
        )


def _line(request: Request) -> bytes:
    line = {
        "custom_id": request.key,
        "method": "POST",
        "url": request.endpoint,
        "body": request.body(),
    }
    return json.dumps(line).encode() + b"\n"


def _message(error: Any) -> str:
    facts = error if isinstance(error, dict) else {}
    return f"{facts.get('code') or 'error'}: {facts.get('message') or 'no reason given'}"
