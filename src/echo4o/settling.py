"""Puts what came of a call into the ledger, and says it as a reply; calls nobody."""

import asyncio
from typing import NamedTuple, Self

from .calls import Reply, Request
from .ledger import Entry, Ledger
from .pictures import picture_facts
from .prices import PriceTable
from .transport import Answer


class Order(NamedTuple):
    """A reserved call, as far as its settlement needs it."""

    key: str
    model: str
    bound_usd: float
    """Most that it can cost, the discount of a batch included."""
    share: float = 1.0
    """Part of the list price that is paid."""

    @classmethod
    def of(cls, request: Request, prices: PriceTable, *, in_batch: bool = False) -> Self:
        """The order of a request that is about to be sent.

        Raises:
            PriceError: the model is not in the price table.
            PictureError: a picture that would be sent is damaged.
        """
        share = prices.price(request.model).batch_factor if in_batch else 1.0
        return cls(request.key, request.model, request.bound_usd(prices) * share, share)


class Settler:
    """The way of every call through the ledger: reserved, then settled or failed."""

    def __init__(self, ledger: Ledger, prices: PriceTable) -> None:
        self.ledger = ledger
        self.prices = prices

    def known(self, key: str, *, with_image: bool = True) -> Reply | None:
        """The reply to a request that was settled before, None when it has to be bought."""
        entry = self.ledger.find(key)
        if entry is None or entry.state not in ("done", "refused"):
            return None
        return self._reply(entry, with_image)

    def reserve(self, request: Request, batch: str | None = None) -> Order:
        """Set the price aside; nothing may be sent before.

        Raises:
            BudgetExceeded, LedgerError, PriceError, PictureError: nothing was reserved.
        """
        order = Order.of(request, self.prices, in_batch=batch is not None)
        self.ledger.check_space()
        self.ledger.reserve(
            order.key,
            kind=request.kind,
            model=order.model,
            request=request.record,
            price_usd=order.bound_usd,
            batch=batch,
        )
        return order

    async def settle(self, order: Order, answer: Answer, attempts: int) -> Reply:
        """Keep an answer; its picture is on the disk before the ledger says so."""
        digest = extension = None
        if answer.image is not None:
            extension = picture_facts(answer.image).extension
            digest = await asyncio.to_thread(self.ledger.store_picture, answer.image, extension)
        cost = self._cost(order, answer)
        self.ledger.settle(
            order.key,
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

    def fail(
        self, key: str, model: str, reason: str, attempts: int, *, unknown_bill: bool = False
    ) -> Reply:
        """Keep a failure; `unknown_bill` keeps its price as well, since it may have been paid."""
        self.ledger.settle(
            key,
            "failed",
            cost_usd=0.0,
            attempts=attempts,
            created="",
            reason=reason,
            unknown_bill=unknown_bill,
        )
        return Reply(outcome="failed", reason=reason, model=model, attempts=attempts)

    def _cost(self, order: Order, answer: Answer) -> float:
        if answer.is_free:
            return 0.0
        if not answer.usage:
            # A server that does not say what it used is assumed to have used the most.
            return order.bound_usd
        usage, price = answer.usage, self.prices.price(order.model)
        tokens = {name: usage[name] for name in ("text", "images", "output")}
        return order.share * price.cost(**tokens)

    def _reply(self, entry: Entry, with_image: bool) -> Reply:
        image = None
        if with_image and entry.picture is not None and entry.extension is not None:
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
