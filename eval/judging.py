"""Asks a judge about every picture, on the core's client and ledger.

Verdicts are cached by content in the ledger, so a second run asks nothing and a killed run goes on
where it was. A reply that cannot be read is asked for again as often as the protocol says.
"""

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from echo4o.client import ApiClient, ChatRequest
from echo4o.errors import Echo4oError
from echo4o.ledger import BudgetExceeded, Ledger
from echo4o.pictures import PictureError
from echo4o.prices import PriceTable

from .batched import settle_in_batches
from .cases import Case
from .foreseen import Foreseen, spread
from .items import Item
from .local_judge import CLIP, DETECTOR, PREFIX, LocalJudge
from .protocols import JudgeProtocol
from .series import SeriesCase, SeriesProtocol
from .verdicts import Verdict

logger = logging.getLogger(__name__)

T = TypeVar("T")

_READERS = 2
"""Threads that read, turn and encode pictures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeConfig:
    """Which judge, and how hard it may be asked."""

    model: str
    """Name of the judge model at the API; `local:` or `detector:` and the Hub id or folder of one
    of this machine."""
    colours: str = CLIP
    """Hub id or folder of the CLIP model that names colours for a detector."""
    base_url: str | None = None
    """Address of an OpenAI-compatible API; None means OPENAI_BASE_URL, else OpenAI's own."""
    concurrency: int = 8
    """Most calls in flight."""
    budget_usd: float | None = None
    """Most that the ledger of this run may ever hold; None means no limit."""
    timeout_s: float = 120.0
    """Longest wait for one reply."""
    repeats: int = 1
    """Times every picture is judged; an item counts the mean."""
    batch_api: bool = False
    """Send the questions as batches: cheaper, and answered within a day."""
    poll_s: float = 30.0
    """Seconds between two looks at a batch."""

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise ValueError("`model` of the judge is empty; name one")
        if self.concurrency < 1:
            raise ValueError(f"`concurrency` must be at least 1, got {self.concurrency}")
        if self.is_local and self.repeats > 1:
            raise ValueError(f"judge {self.model} says the same every time; use `repeats` 1")
        if self.is_local and self.batch_api:
            raise ValueError(f"judge {self.model} is on this machine; drop `batch_api`")
        if self.repeats < 1:
            raise ValueError(f"`repeats` must be at least 1, got {self.repeats}")
        if self.budget_usd is not None and not self.budget_usd >= 0:
            raise ValueError(f"`budget_usd` must be 0 or more, got {self.budget_usd}")
        if not self.timeout_s > 0:
            raise ValueError(f"`timeout_s` must be above 0, got {self.timeout_s}")

    @property
    def is_local(self) -> bool:
        """Whether the judge runs on this machine."""
        return self.model.startswith((PREFIX, DETECTOR))

    @property
    def is_detector(self) -> bool:
        """Whether the judge finds objects, and cannot be spoken to."""
        return self.model.startswith(DETECTOR)

    @property
    def name(self) -> str:
        """What results call the judge; of a folder only its last part."""
        prefix = DETECTOR if self.is_detector else PREFIX
        folder = Path(self.model.removeprefix(prefix))
        return (
            f"{prefix}{folder.resolve().name}" if self.is_local and folder.is_dir() else self.model
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """Verdicts by item, picture and repeat in this order, and what they took."""

    verdicts: tuple[Verdict, ...]
    calls: int
    """HTTP requests made now; 0 when everything was known."""
    spent_usd: float
    """Everything this ledger ever paid."""


def check_judge(config: JudgeConfig, ledger: Path) -> None:
    """Refuse now what judging would refuse before its first call; makes no call.

    Raises:
        Echo4oError: there is no price for the judge, no API key, or the ledger cannot be used.
    """
    if not config.is_local:
        PriceTable.load().price(config.model)

    async def open_and_close() -> None:
        with Ledger(ledger, budget_usd=config.budget_usd) as book:
            async with _client(config, book):
                pass

    _wait_for(open_and_close())


def judge(
    items: Sequence[Item],
    pictures: Mapping[int, Path],
    *,
    more: Sequence[Mapping[int, Path]] = (),
    protocol: JudgeProtocol,
    config: JudgeConfig,
    ledger: Path,
    progress: bool = False,
) -> Judged:
    """Judge the pictures of `items`; blocks until all verdicts are there.

    Args:
        items: What to judge, in the order of the result.
        pictures: Picture file by item number; an item without one gets the verdict `missing`.
        more: The second pictures of the items, the third ones, and so on.
        protocol: How to ask and how to read.
        config: Which judge.
        ledger: SQLite file that keeps every reply; the same file is never asked twice.
        progress: Show a bar on stderr.

    Raises:
        BudgetExceeded: the next call does not fit into the budget; what was judged is kept.
        Echo4oError: the judge gave no reply to any item, or cannot be used at all.
    """
    cases = make_cases(items, [pictures, *more], protocol, config.repeats)
    return judge_cases(cases, config=config, ledger=ledger, progress=progress)


def judge_cases(
    cases: Sequence[Case], *, config: JudgeConfig, ledger: Path, progress: bool = False
) -> Judged:
    """Judge as `judge` does what `make_cases` returned."""
    check_kind(cases[0].protocol, config)
    return _wait_for(judge_async(cases, config=config, ledger=ledger, progress=progress))


def make_cases(
    items: Sequence[Item],
    samples: Sequence[Mapping[int, Path]],
    protocol: JudgeProtocol,
    repeats: int = 1,
) -> list[Case]:
    """Return what is to be judged, by item, picture and repeat."""
    kind = SeriesCase if isinstance(protocol, SeriesProtocol) else Case
    return [
        kind(item=item, path=found.get(item.number), protocol=protocol, sample=n, repeat=time)
        for item in items
        for n, found in enumerate(samples, start=1)
        for time in range(1, repeats + 1)
    ]


def _wait_for(work: Coroutine[Any, Any, T]) -> T:
    if not _is_in_loop():
        return asyncio.run(work)
    # Inside a notebook a loop is running already; ours gets its own thread.
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, work).result()


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def judge_async(
    cases: Sequence[Case], *, config: JudgeConfig, ledger: Path, progress: bool = False
) -> Judged:
    """Judge as `judge` does, inside a running event loop."""
    with Ledger(ledger, budget_usd=config.budget_usd) as book:
        async with _client(config, book) as client:
            if config.batch_api and isinstance(client, ApiClient):
                verdicts = await settle_in_batches(
                    client, cases, config.model, poll_s=config.poll_s, progress=progress
                )
            else:
                verdicts = await _Judging(client, config, book, progress).settle(cases)
        result = Judged(
            verdicts=tuple(_charge_once(cases, verdicts)),
            calls=client.calls_made,
            spent_usd=round(book.spent_usd, 8),
        )
    for verdict in result.verdicts:
        if verdict.outcome == "unreadable":
            logger.warning("item %d: no readable reply (%s)", verdict.number, verdict.reason)
    _refuse_silence(result.verdicts, config.model, cases[0].protocol.endings)
    return result


def check_kind(protocol: JudgeProtocol, config: JudgeConfig) -> None:
    """Refuse a judge that cannot answer what the protocol asks.

    Raises:
        Echo4oError: a detector is wanted and none is named, or the other way round.
    """
    if protocol.by_detector and not config.is_detector:
        raise Echo4oError(
            f"this benchmark is judged by a detector, not by {config.model}; name one as "
            f"--judge {DETECTOR}facebook/mask2former-swin-small-coco-instance"
        )
    if config.is_detector and not protocol.by_detector:
        raise Echo4oError(
            f"{config.model} finds objects and cannot be asked questions; name a model behind an "
            f"API, or {PREFIX}NAME"
        )


def _client(config: JudgeConfig, book: Ledger) -> ApiClient | LocalJudge:
    if config.is_detector:
        from .geneval_judge import DetectorJudge

        return DetectorJudge(config.model, config.colours, ledger=book)
    if config.is_local:
        return LocalJudge(config.model, ledger=book, batch_size=config.concurrency)
    return ApiClient(
        ledger=book,
        base_url=config.base_url,
        concurrency=config.concurrency,
        timeout_s=config.timeout_s,
    )


class _Judging:
    """Settles each case on its own: ask, read, ask again what could not be read."""

    def __init__(
        self, client: ApiClient | LocalJudge, config: JudgeConfig, ledger: Ledger, progress: bool
    ) -> None:
        self._client = client
        # A local judge's name pins its weights.
        self._model = client.model if isinstance(client, LocalJudge) else config.model
        self._ledger = ledger
        # Twice as many as may be in flight: some read pictures or wait for their next attempt.
        self._workers = 2 * config.concurrency
        self._progress = progress

    async def settle(self, cases: Sequence[Case]) -> list[Verdict]:
        """Return a verdict for every case, in their order.

        An error that needs the user lets calls in flight finish, and is raised then. Where the
        budget ends, what still fits into it is asked before that is said.
        """
        settled: dict[int, Verdict] = {}
        errors: list[Exception] = []
        unpaid: list[BudgetExceeded] = []
        source = iter(spread(cases))
        bar = tqdm(total=len(cases), desc="judge", disable=not self._progress, mininterval=0.5)
        foreseen = Foreseen(cases)

        async def work() -> None:
            for place, case in source:
                if errors:
                    return
                try:
                    settled[place] = await self._settle(case, pool)
                except BudgetExceeded as error:
                    unpaid.append(error)  # others may cost less, or be known already
                    continue
                except Exception as error:
                    errors.append(error)
                    return
                foreseen.learn(case)
                bar.set_postfix_str(foreseen.words(self._ledger), refresh=False)
                bar.update()

        with bar, ThreadPoolExecutor(max_workers=_READERS) as pool:
            await asyncio.gather(*(work() for _ in range(min(self._workers, len(cases)))))
        if errors:
            raise errors[0]
        if unpaid:
            raise BudgetExceeded(
                f"{len(unpaid)} of {len(cases)} questions were not asked, the replies to the "
                f"others are kept: {unpaid[-1]}"
            )
        return [settled[place] for place in range(len(cases))]

    async def _settle(self, case: Case, pool: ThreadPoolExecutor) -> Verdict:
        if case.path is None:
            return case.unasked("missing", "there is no picture for this item")
        loop = asyncio.get_running_loop()
        try:
            picture, request = await loop.run_in_executor(pool, _first, case, self._model)
        except PictureError as error:
            return case.unasked("damaged", str(error))
        while True:
            reply = await self._client.chat(request, ahead=case.replies > 0)
            verdict = case.take(reply, request.key)
            if verdict is not None:
                return verdict
            await asyncio.sleep(case.protocol.pause_s)
            request = case.request(picture, self._model)


def _first(case: Case, model: str) -> tuple[bytes, ChatRequest]:
    """Return the picture as it is sent and the first request; the slow part, fit for a thread."""
    assert case.path is not None
    picture = case.protocol.load(case.path)
    case.sha256 = picture.sha256
    request = case.request(picture.data, model)
    _ = request.key  # hashed here once
    return picture.data, request


def _charge_once(cases: Sequence[Case], verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Return the verdicts with each call's price at one of them.

    Equal questions about equal pictures are equal requests: the client buys one reply and gives it
    to each, and its price belongs to the first in order, whichever asked first.
    """
    charged: set[str] = set()
    result = []
    for case, verdict in zip(cases, verdicts, strict=True):
        cost = sum(price for key, price in case.paid.items() if key not in charged)
        charged |= case.paid.keys()
        result.append(replace(verdict, cost_usd=cost))
    return result


def _refuse_silence(verdicts: Sequence[Verdict], model: str, endings: Sequence[str]) -> None:
    """A judge that answers nothing gives no score at all."""
    asked = [verdict for verdict in verdicts if verdict.outcome not in ("missing", "damaged")]
    if not asked:
        missing = sum(verdict.outcome == "missing" for verdict in verdicts)
        raise Echo4oError(
            f"none of {len(verdicts)} items has a usable picture ({missing} missing); this "
            f"protocol looks for the item's number with the ending {' or '.join(endings)}"
        )
    if all(verdict.outcome == "failed" for verdict in asked):
        raise Echo4oError(
            f"judge {model} answered none of {len(asked)} questions, so there is no score: "
            f"{asked[0].reason}"
        )
