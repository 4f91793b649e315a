"""A process that buys pictures and can be killed: target of a fork server, so it starts at once."""

import asyncio
from multiprocessing.synchronize import Event
from pathlib import Path

from echo4o.client import ApiClient, BatchOptions, ImageRequest
from echo4o.ledger import Ledger

# What the fork server imports once for all children.
PRELOAD = ["openai.resources", "openai.types", "tqdm", "echo4o.client"]


def requests(count: int) -> list[ImageRequest]:
    """The pictures to buy."""
    prompt = "A photo of three red circles, scene {}"
    return [
        ImageRequest(model="sandbox-image", size="64x64", prompt=prompt.format(number))
        for number in range(count)
    ]


def buy_all(url: str, key: str, ledger: Path, count: int, begun: Event) -> None:
    """Buy `count` pictures; sets `begun` when the first call is about to be made."""

    async def work() -> None:
        with Ledger(ledger, budget_usd=1.0) as book:
            settings = {"concurrency": 8, "backoff_s": 0.02, "max_attempts": 10}
            async with ApiClient(ledger=book, base_url=url, api_key=key, **settings) as client:
                begun.set()
                async for _ in client.run(requests(count)):
                    pass

    asyncio.run(work())


def buy_batches(url: str, key: str, ledger: Path, count: int) -> None:
    """Buy `count` pictures by the Batch API, ten in a batch."""

    async def work() -> None:
        options = BatchOptions(poll_s=0.05, grace_s=0.3, max_lines=10, rounds=10)
        with Ledger(ledger, budget_usd=1.0) as book:
            async with ApiClient(ledger=book, base_url=url, api_key=key) as client:
                async for _ in client.run_batches(requests(count), options=options):
                    pass

    asyncio.run(work())
