"""The calls of the Batch API themselves: files in, batches begun once, results out as lines."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from .errors import Echo4oError
from .transport import Rejected, Transient, translated

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import Batch

logger = logging.getLogger(__name__)
T = TypeVar("T")

_METADATA = "echo4o_batch"
_LONGEST_LINE = 128 * 1024 * 1024
_LONGEST_BACKOFF_S = 60.0
_PATIENCE = 12
"""Times that a free call is repeated: some five minutes of an absent network."""


class Uncertain(Echo4oError):
    """Nobody knows whether the batch was made; the next run looks for it again."""


class BatchService:
    """What is asked of the service about files and batches; all of it may be repeated but one.

    Only `begin` must happen once, so it looks for its batch before it tries again.
    """

    def __init__(self, client: "AsyncOpenAI", *, grace_s: float, backoff_s: float) -> None:
        self._client = client
        self._grace_s = grace_s
        self._backoff_s = backoff_s

    async def upload(self, name: str, data: bytes) -> str:
        """Store a batch file; returns its id."""
        create = partial(self._client.files.create, file=(name, data), purpose="batch")
        file = await self._free(create)
        if file is None:
            raise Echo4oError("the service takes no files for batches; run without --batch-api")
        return file.id

    async def retrieve(self, identity: str) -> "Batch | None":
        """A batch, None when the service does not know it."""
        return await self._free(partial(self._client.batches.retrieve, identity))

    async def cancel(self, identity: str) -> None:
        """Ask for the end of a batch; one that is over already stays as it is."""
        try:
            await self._free(partial(self._client.batches.cancel, identity))
        except Echo4oError as error:
            logger.info("batch %s was not cancelled: %s", identity, error)

    async def begin(self, token: str, endpoint: str, model: str, file_id: str) -> str:
        """Create the batch once, although a cut reply says nothing of what the service did.

        Raises:
            Uncertain: a reply was lost, and the service cannot be asked what it did.
            Echo4oError: there is no such batch at the service.
        """
        for attempt in range(_PATIENCE):
            try:
                async with translated(self._client, model):
                    made = await self._client.batches.create(
                        input_file_id=file_id,
                        endpoint=endpoint,
                        completion_window="24h",
                        metadata={_METADATA: token},
                    )
                    return made.id
            except Rejected as failure:
                raise Echo4oError(f"the service refused a batch: {failure}") from failure
            except Transient as failure:
                logger.info("a batch was not confirmed (%s); looking for it", failure)
                await self._pause(attempt, failure)
                try:
                    found = await self.find(token)
                except Echo4oError as error:
                    raise Uncertain(str(error)) from error
                if found is not None:
                    return found
        raise Echo4oError("the service took no batch; run the same command again later")

    async def find(self, token: str) -> str | None:
        """The service's id of the batch with this token, None when it was never made."""

        async def look() -> str:
            async for batch in self._client.batches.list(limit=100):
                if (batch.metadata or {}).get(_METADATA) == token:
                    return batch.id
            return ""

        for seconds in (0.0, self._grace_s):
            await asyncio.sleep(seconds)
            if found := await self._free(look):
                return found
        return None

    async def read(self, file_id: str, take: Callable[[bytes], Awaitable[None]]) -> bool:
        """Give every line of a result file to `take`; from the start again when it breaks off.

        Returns False when the service no longer has the file.
        """

        async def attempt() -> bool:
            content = self._client.files.with_streaming_response.content(file_id)
            async with content as response:
                async for line in _lines(response.iter_bytes(1 << 18)):
                    await take(line)
            return True

        return await self._free(attempt) is not None

    async def _free(self, call: Callable[[], Awaitable[T]]) -> T | None:
        """The result of a call that costs nothing, repeated for minutes; None when it is 404."""
        for attempt in range(_PATIENCE):
            try:
                async with translated(self._client, None):
                    return await call()
            except Rejected as failure:
                if failure.status == 404:
                    return None
                raise Echo4oError(f"the service refused: {failure}") from failure
            except Transient as failure:
                if attempt == _PATIENCE - 1:
                    raise Echo4oError(
                        f"the service cannot be reached ({failure}); batches go on there: run the "
                        "same command again to collect them"
                    ) from failure
                await self._pause(attempt, failure)
        raise AssertionError("the loop always returns")

    async def _pause(self, attempt: int, failure: Transient) -> None:
        longest = min(_LONGEST_BACKOFF_S, self._backoff_s * 2**attempt)
        await asyncio.sleep(max(failure.after_s or 0.0, longest * random.uniform(0.5, 1.0)))


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Whole lines; the last one needs no end."""
    parts: list[bytes] = []
    async for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for piece in whole:
            yield b"".join([*parts, piece])
            parts.clear()
        parts.append(rest)
        if sum(map(len, parts)) > _LONGEST_LINE:
            raise Echo4oError(f"a line of a batch's result has over {_LONGEST_LINE} bytes")
    if last := b"".join(parts):
        yield last
