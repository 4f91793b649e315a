"""What judging will cost, worked out before the first call: calls, tokens and money.

Questions and pictures are counted exactly as they will be sent. How long replies will be is a
guess, made better by the replies to this very task that the ledger already holds. Without them it
is as good as the protocol's `usual_reply`: judges say less about right pictures than about wrong
ones, and how many are right is what nobody knows yet, so both ends are told. While a run goes on,
`foreseen` knows better.
"""

import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image
from tqdm import tqdm

from echo4o.client import ChatRequest
from echo4o.ledger import Entry, Ledger
from echo4o.pictures import PictureError
from echo4o.prices import PriceTable, text_tokens

from .cases import Case
from .judging import JudgeConfig
from .series import SeriesCase

_ENOUGH = 5
"""Replies from which the guess for a tag is corrected: long questions get long replies."""
_ALL = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """Calls that judging would make now, if every first reply can be read."""

    calls: int = 0
    known: int = 0
    """Questions that the ledger answers."""
    text: int = 0
    """Text tokens sent."""
    images: int = 0
    """Tokens of the pictures sent."""
    output: int = 0
    """Tokens of the replies."""
    cost_usd: float = 0.0
    all_right_usd: float = 0.0
    """The same if the judge has no fault to describe; equal where earlier replies are known."""
    all_wrong_usd: float = 0.0


def estimate(
    cases: Sequence[Case],
    config: JudgeConfig,
    ledger: Path,
    *,
    size: tuple[int, int] | None = None,
    progress: bool = False,
) -> Forecast:
    """Return what judging `cases` would ask and cost now; makes no call and no file.

    `size` is the width and height that pictures will have which are not there yet; without it
    items without a picture cost nothing.

    Raises:
        Echo4oError: there is no price for the judge, or the ledger cannot be read.
    """
    if config.is_local:
        return Forecast(calls=sum(case.path is not None or size is not None for case in cases))
    prices = PriceTable.load()
    price = prices.price(config.model)
    asked = {}
    for case, request in _requests(cases, config.model, size, progress):
        right, wrong = map(text_tokens, case.protocol.reply_ends(case.item))
        # Pictures that are not there yet are all blank, and yet different ones.
        key = request.key if case.path is not None else f"{request.key}-{case.sample}"
        asked[key] = _Asked(
            case.item.tag,
            *request.estimate(prices, output_tokens=0)[:2],
            usual=text_tokens(case.protocol.usual_reply(case.item)),
            right=right,
            wrong=wrong,
            most=request.max_tokens or price.output_max_tokens,
        )
    known = _known(asked, ledger)
    ratio = _ratios([(asked[one.key], one.usage.get("output", 0)) for one in known])
    settled = {entry.key for entry in known}
    todo = [one for key, one in asked.items() if key not in settled]
    text, images = sum(one.text for one in todo), sum(one.images for one in todo)
    share = price.batch_factor if config.batch_api else 1.0

    def output(end: Literal["usual", "right", "wrong"]) -> int:
        tokens = 0.0
        for one in todo:
            known = ratio.get(one.tag, ratio.get(_ALL))
            guess: float = getattr(one, end) if known is None else known * one.usual
            tokens += min(guess, one.most)
        return round(tokens)

    def cost(end: Literal["usual", "right", "wrong"]) -> float:
        return share * price.cost(text=text, images=images, output=output(end))

    return Forecast(
        calls=len(todo),
        known=len(settled),
        text=text,
        images=images,
        output=output("usual"),
        cost_usd=cost("usual"),
        all_right_usd=cost("right"),
        all_wrong_usd=cost("wrong"),
    )


class _Asked(NamedTuple):
    """A request without its picture: tokens sent, of usual replies, and of the longest one."""

    tag: str
    text: int
    images: int
    usual: int
    right: int
    wrong: int
    most: int


def _ratios(answered: Sequence[tuple[_Asked, int]]) -> dict[str, float]:
    """Return how much longer replies are than the usual one, by tag and over all, where known."""
    pairs: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for one, output in answered:
        if output:  # a server that does not say what it used teaches nothing
            pairs[one.tag].append((output, one.usual))
            pairs[_ALL].append((output, one.usual))
    return {
        name: sum(real for real, _ in group) / sum(usual for _, usual in group)
        for name, group in pairs.items()
        if len(group) >= _ENOUGH
    }


def _requests(
    cases: Sequence[Case], model: str, size: tuple[int, int] | None, progress: bool
) -> Iterable[tuple[Case, ChatRequest]]:
    """Yield each case that would be asked about, with what it asks if every reply can be read."""
    blank = None if size is None else _blank(size)
    with ThreadPoolExecutor(max_workers=2) as pool:
        asked = pool.map(lambda case: _usual(case, model, blank), cases)
        bar = tqdm(asked, total=len(cases), desc="estimate", disable=not progress)
        for case, requests in zip(cases, bar, strict=True):
            for request in requests:
                yield case, request


def _blank(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size).save(buffer, format="PNG")
    return buffer.getvalue()


def _usual(case: Case, model: str, blank: bytes | None) -> list[ChatRequest]:
    if case.path is None and blank is None:
        return []
    try:
        picture = blank if case.path is None else case.protocol.load(case.path).data
    except PictureError:
        return []
    assert picture is not None
    if isinstance(case, SeriesCase):
        return case.usual_requests(picture, model)
    return [case.request(picture, model)]


def _known(keys: Iterable[str], ledger: Path) -> list[Entry]:
    if not ledger.is_file():
        return []
    with Ledger(ledger, read_only=True) as book:
        entries = [book.find(key) for key in keys]
    return [one for one in entries if one is not None and one.state in ("done", "refused")]
