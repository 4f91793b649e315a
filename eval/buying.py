"""Buys pictures for every item from an OpenAI-compatible image model, on the core's ledger.

Bytes are stored exactly as received. Such models take no seed, so pictures cannot be made again;
what was bought is in the ledger and is never paid twice. Refusals are outcomes and are listed.
"""

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from echo4o.client import ApiClient, ImageRequest, PriceTable, Reply
from echo4o.errors import Echo4oError
from echo4o.ledger import Ledger
from echo4o.pictures import picture_facts
from echo4o.records import write_atomic

from .generate import Wanted, missing, settle_manifest
from .items import Item, ItemSet
from .painters import ModelIdentity
from .pictures import name_of

PREFIX = "api:"
BOUGHT = "bought.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class BuyConfig:
    """Which image model, and what it may cost."""

    model: str
    """Its name at the API."""
    base_url: str | None = None
    """Address of an OpenAI-compatible API; None means OPENAI_BASE_URL, else OpenAI's own."""
    size: tuple[int, int] = (1024, 1024)
    """Width and height in pixels."""
    quality: str = "auto"
    """As the API names it."""
    samples: int = 1
    """Pictures of each item; more can be bought later."""
    concurrency: int = 8
    """Most calls in flight."""
    budget_usd: float | None = None
    """Most that the pictures of this folder may ever cost; None means no limit."""

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise ValueError(f"`model` is empty; name one, such as {PREFIX}gpt-image-2")
        for name in ("samples", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        if self.budget_usd is not None and not self.budget_usd >= 0:
            raise ValueError(f"`budget_usd` must be 0 or more, got {self.budget_usd}")

    def request(self, one: Wanted) -> ImageRequest:
        """Return the call for one picture."""
        return ImageRequest(
            model=self.model,
            prompt=one.item.prompt,
            size=f"{self.size[0]}x{self.size[1]}",
            quality=self.quality,
            references=tuple(Path(name).read_bytes() for name in one.item.references),
            repeat=one.sample - 1,
        )


class Bought(NamedTuple):
    """What a purchase came to."""

    pictures: int
    """Written now."""
    refused: dict[str, str]
    """Picture (`7`, `7-2`) -> why the service declined."""
    failed: dict[str, str]
    """Picture -> why no reply came; asked again by the next run."""
    calls: int
    spent_usd: float
    """Everything this folder's ledger ever paid."""


def estimate_usd(items: Sequence[Item], folder: Path, config: BuyConfig) -> tuple[int, float]:
    """Return how many pictures are still to be bought, and what they should cost; calls nothing.

    Raises:
        PriceError: there is no price for the model.
    """
    prices = PriceTable.load()
    prices.price(config.model)
    todo = missing(items, folder, config.samples) if folder.is_dir() else _all(items, config)
    return len(todo), sum(config.request(one).estimate(prices).cost_usd for one in todo)


def buy(
    items: Sequence[Item],
    source: ItemSet,
    folder: Path,
    config: BuyConfig,
    *,
    ledger: Path,
    progress: bool = False,
) -> Bought:
    """Buy the pictures that are not there yet into `folder`, as `7.png`, `7-2.png`.

    Raises:
        BudgetExceeded: the next picture does not fit into the budget; what was bought is kept.
        Echo4oError: the folder holds pictures of another model, or nothing came at all.
    """
    settle_manifest(folder, _manifest(source, config))
    todo = missing(items, folder, config.samples)
    bought = asyncio.run(_buy(todo, folder, config, ledger, progress))
    # What was not asked for now, because of fewer items or samples, stays as it was.
    asked = {_stem(one) for one in todo}
    earlier = {
        name: reason
        for name, reason in read_bought(folder).get("refused", {}).items()
        if name not in asked
    }
    refused = earlier | bought.refused
    facts = {"refused": refused, "failed": bought.failed, "spent_usd": bought.spent_usd}
    write_atomic(folder / BOUGHT, json.dumps(facts, indent=2) + "\n")
    if todo and len(bought.failed) == len(todo):
        reason = next(iter(bought.failed.values()))
        raise Echo4oError(f"{config.model} made none of {len(todo)} pictures: {reason}")
    return bought


def read_bought(folder: Path) -> Mapping[str, Any]:
    """Return {refused, failed, spent_usd} of a bought folder; empty for one that was generated."""
    path = folder / BOUGHT
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise Echo4oError(f"{path} is not JSON ({error}); delete it and run again") from error
    if not isinstance(value, dict):
        raise Echo4oError(f"{path} is damaged; delete it and run again")
    return value


async def _buy(
    todo: Sequence[Wanted], folder: Path, config: BuyConfig, ledger: Path, progress: bool
) -> Bought:
    refused: dict[str, str] = {}
    failed: dict[str, str] = {}
    waiting = _by_key(todo, config)
    written = 0
    with Ledger(ledger, budget_usd=config.budget_usd) as book:
        client = ApiClient(ledger=book, base_url=config.base_url, concurrency=config.concurrency)
        async with client:
            requests = [config.request(same[0]) for same in waiting.values()]
            title = "buy" if progress else None
            async for request, reply in client.run(requests, progress=title):
                for one in waiting[request.key]:  # equal prompts are one purchase
                    written += _take(one, reply, folder, refused, failed)
        return Bought(written, refused, failed, client.calls_made, round(book.spent_usd, 8))


def _by_key(todo: Iterable[Wanted], config: BuyConfig) -> dict[str, list[Wanted]]:
    waiting: dict[str, list[Wanted]] = {}
    for one in todo:
        waiting.setdefault(config.request(one).key, []).append(one)
    return waiting


def _take(
    one: Wanted, reply: Reply, folder: Path, refused: dict[str, str], failed: dict[str, str]
) -> int:
    if reply.image is None:
        listed = refused if reply.outcome == "refused" else failed
        listed[_stem(one)] = reply.reason or "no reason given"
        return 0
    extension = picture_facts(reply.image).extension
    write_atomic(folder / name_of(one.item, one.sample, extension), reply.image)
    return 1


def _stem(one: Wanted) -> str:
    return Path(name_of(one.item, one.sample)).stem


def _all(items: Sequence[Item], config: BuyConfig) -> list[Wanted]:
    return [Wanted(item, sample) for sample in range(1, config.samples + 1) for item in items]


def _manifest(source: ItemSet, config: BuyConfig) -> dict[str, Any]:
    model = ModelIdentity(id=f"{PREFIX}{config.model}", revision=None, sha256=None)
    return {
        "format": 1,
        "items": {"source": source.source, "sha256": source.sha256},
        "model": asdict(model),
        "settings": {"size": list(config.size), "quality": config.quality},
    }
