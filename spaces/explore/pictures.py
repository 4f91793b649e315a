"""Foreign pictures as bounded JPEG data addresses; what cannot be shown says why instead."""

import base64
import logging
import threading
from typing import NamedTuple

from echo4o.dataset_builder.thumbnails import shrunk_jpeg
from echo4o.errors import Echo4oError
from echo4o.pictures import picture_facts

logger = logging.getLogger(__name__)

TILE, REFERENCE, LARGE = 320, 480, 1024
MAX_PIXELS = 25_000_000
_QUALITY = 84
# A picture of 25 megapixels takes some 200 MB while it is made small.
_FEW_AT_ONCE = threading.Semaphore(2)


class Shown(NamedTuple):
    """A picture for a page."""

    url: str
    """A data address; empty when there is nothing to show."""
    width: int = 0
    """Of the original."""
    height: int = 0
    """Of the original."""
    fault: str = ""
    """Why there is nothing to show."""


def show(data: bytes | None, side: int) -> Shown:
    """The picture with at most `side` pixels a side."""
    if not data:
        return Shown("", fault="There is no picture here")
    try:
        facts = picture_facts(data)
        if facts.width * facts.height > MAX_PIXELS:
            megapixels = facts.width * facts.height / 1e6
            return Shown("", facts.width, facts.height, f"Too large to show: {megapixels:.0f} MP")
        with _FEW_AT_ONCE:
            small = shrunk_jpeg(data, side, _QUALITY)[0]
    except Echo4oError as error:
        logger.info("not shown: %s", error)
        return Shown("", fault="This picture is damaged, or far too large")
    except Exception:
        # A decoder may fail in any way on a hostile file; the page must not.
        logger.exception("a picture cannot be decoded")
        return Shown("", fault="This picture is damaged")
    address = f"data:image/jpeg;base64,{base64.b64encode(small).decode()}"
    return Shown(address, facts.width, facts.height)
