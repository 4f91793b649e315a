"""What can be said of a bought picture without asking anybody: does it decode, is it blank, ..."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from echo4o.ledger import Entry as LedgerEntry
from echo4o.pictures import PictureError

from .check_question import Asked
from .credentials import Credentials, find_credentials
from .generate import Given, Purchases
from .perceptual import thumbnail, to_bytes, view_hashes
from .plan import Entry
from .thumbnails import check_picture, open_picture

_BLANK_SPREAD = 12
"""Grey levels; a picture that varies less in every channel is one colour, give or take JPEG."""


class Item(NamedTuple):
    """A row whose pictures were bought."""

    entry: Entry
    bought: LedgerEntry
    references: tuple[LedgerEntry | Given, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Examined:
    """A row with its pictures and what they are in themselves."""

    item: Item
    picture: bytes
    references: tuple[bytes, ...]
    views: str = ""
    """Perceptual hashes, base64; empty when the picture does not decode."""
    credentials: Credentials = Credentials(present=False)
    fault: str | None = None
    """Why the row is dropped without asking anybody."""

    @property
    def asked(self) -> Asked:
        """What the picture is held against."""
        entry = self.item.entry
        return Asked(
            instruction=entry.prompt if self.references else entry.instruction,
            constraints=entry.constraints,
            is_exact=entry.subset == "instruction_following",
        )


def items(purchases: Purchases) -> Iterator[Item]:
    """The bought rows, in plan order."""
    for entry in purchases.plan.rows:
        request = purchases.request(entry)
        bought = None if request is None else purchases.finished(request)
        if request is None or bought is None:
            continue
        entry = purchases.worded(entry, request)
        references = [purchases.reference(name) for name in entry.references]
        yield Item(entry, bought, tuple(one for one in references if one is not None))


def rows_bought(purchases: Purchases) -> int:
    """How many rows have a picture, told without reading plan or pictures."""
    query = "SELECT count(*) FROM calls WHERE kind = 'image' AND state = 'done'"
    bought = int(purchases.ledger.execute(query)[0][0])
    made = [one for one in purchases.plan.references if one.source is None]
    return bought - sum(purchases.reference(one.id) is not None for one in made)


def examine(item: Item, purchases: Purchases) -> Examined:
    """Read, decode and hash the pictures of a row."""
    picture = purchases.picture(item.bought)
    references = tuple(purchases.picture(one) for one in item.references)
    made = Examined(item=item, picture=picture, references=references)
    try:
        check_picture(picture, decode=False)
        image = open_picture(picture).convert("RGB")
    except PictureError as error:
        return replace(made, fault=f"does not decode: {error}")
    spread = max(high - low for low, high in image.getextrema())  # type: ignore[misc]
    views = view_hashes(thumbnail(image)[None])[0]
    return replace(
        made,
        views=base64.b64encode(to_bytes(views)).decode(),
        credentials=find_credentials(picture),
        fault="blank picture" if spread <= _BLANK_SPREAD else None,
    )
