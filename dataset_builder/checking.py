"""Checks bought pictures: does each follow its instruction, and may it be shown at all.

Answers lie in a ledger of their own (`check.ledger.sqlite`), so none is paid twice; verdicts are
written as they come, so that a run that was killed goes on where it stopped.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from echo4o.client import ApiClient, PriceTable
from echo4o.ledger import Ledger, LostPictureError
from echo4o.pictures import PictureError
from echo4o.records import JsonValue, sha256_file

from .check_question import expected_tokens, question
from .deciding import Rules
from .examining import Examined, Item, items, rows_bought
from .generate import LEDGER_NAME, Purchases, Settings
from .judge import Judge
from .marking import Counted, finish_check
from .plan import PLAN_NAME, read_plan
from .verdicts import CHECK_NAME, Verdict, VerdictError, header_line, read_verdicts

CHECK_LEDGER = "check.ledger.sqlite"
PARTIAL_NAME = ".check.partial.jsonl"
_LEAST_CHUNK = 64


class Estimate(NamedTuple):
    """What a check will cost."""

    rows: int
    usd: float
    """Of the first looks."""
    again_usd: float
    """Of second looks, if every text was rewritten that the rules let be."""


class Checked(NamedTuple):
    """What a check found and cost."""

    counted: Counted
    calls: int
    """HTTP requests of this run."""
    spent_usd: float
    """All settled calls of the check's ledger."""


def estimate(folder: Path, rules: Rules, prices: PriceTable) -> Estimate:
    """Price of looking at every bought row, and at most of looking again at what is rewritten."""
    with _purchases(folder) as purchases:
        rows, usd, again = 0, 0.0, 0.0
        for item in items(purchases):
            try:
                references = tuple(purchases.picture(one) for one in item.references)
                picture = purchases.picture(item.bought)
                seen = Examined(item=item, picture=picture, references=references)
                asked = question(seen.asked, picture, references, model=rules.model)
                tokens = expected_tokens(seen.asked)
                price = asked.estimate(prices, output_tokens=tokens).cost_usd
            except (LostPictureError, PictureError):
                continue  # nobody will be asked about it
            rows, usd = rows + 1, usd + price
            again += price if rules.of(item.entry.subset) == "rewrite" else 0.0
        purchases.tell_lost()
        return Estimate(rows, usd, again)


def check(
    folder: Path,
    rules: Rules,
    *,
    base_url: str | None = None,
    budget_usd: float | None = None,
    concurrency: int = 8,
    prices: PriceTable | None = None,
    progress: bool = False,
) -> Checked:
    """Judge every bought row of the plan in `folder` and write check.jsonl.

    Raises:
        BudgetExceeded: the next call could cost more than is left; run again to go on.
        Echo4oError: the plan, the pictures, the key, the model or the address needs the user.
    """
    if concurrency < 1:
        raise ValueError(f"--concurrency must be at least 1, got {concurrency}")
    started = datetime.now(UTC)
    with (
        _purchases(folder) as purchases,
        Ledger(folder / CHECK_LEDGER, budget_usd=budget_usd) as ledger,
    ):
        client = ApiClient(ledger=ledger, base_url=base_url, concurrency=concurrency, prices=prices)
        chunk = max(4 * concurrency, _LEAST_CHUNK)
        run = _Run(folder, purchases, rules, client)
        asyncio.run(run.write(chunk, progress))
        counted = finish_check(folder, PARTIAL_NAME, purchases.plan, rules, started)
        purchases.tell_lost()
        return Checked(counted, client.calls_made, ledger.spent_usd)


@contextlib.contextmanager
def _purchases(folder: Path) -> Iterator[Purchases]:
    plan, _ = read_plan(folder)
    settings = Settings.load(folder)
    with Ledger(folder / LEDGER_NAME, read_only=True) as ledger:
        yield Purchases(plan, settings, ledger)


class _Run:
    """One run of the check over a folder."""

    def __init__(self, folder: Path, purchases: Purchases, rules: Rules, client: ApiClient) -> None:
        self._folder = folder
        self._purchases = purchases
        self._rules = rules
        self._client = client
        self._header: dict[str, JsonValue] = {
            "plan_sha256": sha256_file(folder / PLAN_NAME),
            **rules.to_dict(),
        }

    async def write(self, chunk: int, progress: bool) -> None:
        """Append the verdicts that the partial file lacks, in plan order."""
        from tqdm import tqdm

        earlier = _Earlier(self._folder / CHECK_NAME, self._header, self._purchases)
        judge = Judge(self._client, self._purchases, self._rules)
        total = rows_bought(self._purchases)
        with (
            self._open() as (file, done, left),
            judge,
            tqdm(desc="check", total=total, initial=done, disable=not progress) as bar,
        ):
            async with self._client:
                for part in _chunks(left, chunk):
                    known = {item.entry.id: earlier.take(item) for item in part}
                    fresh = [item for item in part if known[item.entry.id] is None]
                    judged = await judge.verdicts(fresh)
                    for item in part:
                        verdict = known[item.entry.id] or judged[item.entry.id]
                        file.write(verdict.to_line().encode())
                    file.flush()
                    bar.set_postfix_str(f"{self._client.ledger.spent_usd:.2f} USD")
                    bar.update(len(part))

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple[BinaryIO, int, Iterator[Item]]]:
        """The partial file at the end of what still holds, its rows, and the items left."""
        path = self._folder / PARTIAL_NAME
        head = header_line(self._header)
        kept, size = 0, len(head.encode())
        source, verdicts = items(self._purchases), _readable(path, self._header)
        left: Iterator[Item] = source
        for item in source:
            verdict = next(verdicts, None)
            known = None if verdict is None else (verdict.id, verdict.sha256)
            if verdict is None or known != (item.entry.id, item.bought.picture):
                left = chain([item], source)
                break
            kept, size = kept + 1, size + len(verdict.to_line().encode())
        if not kept:
            path.write_text(head, encoding="utf-8")
        with path.open("rb+") as file:
            file.truncate(size)
            file.seek(size)
            yield file, kept, left


class _Earlier:
    """Verdicts of a finished check that still hold, in plan order."""

    def __init__(self, path: Path, header: dict[str, JsonValue], purchases: Purchases) -> None:
        self._place = {entry.id: index for index, entry in enumerate(purchases.plan.rows)}
        self._verdicts = _readable(path, header)
        self._next = next(self._verdicts, None)

    def take(self, item: Item) -> Verdict | None:
        """The verdict on a row, None when it was not judged or could not be decided."""
        here = self._place[item.entry.id]
        while self._next is not None and self._place.get(self._next.id, -1) < here:
            self._next = next(self._verdicts, None)
        found = self._next
        if found is None or (found.id, found.sha256) != (item.entry.id, item.bought.picture):
            return None
        return None if found.decision == "undecided" else found


def _readable(path: Path, header: dict[str, JsonValue]) -> Iterator[Verdict]:
    """Verdicts of a file that was written under the same rules; nothing when there is none."""
    if not path.is_file():
        return
    try:
        told, verdicts = read_verdicts(path, may_end_early=True)
        if told == header:
            yield from verdicts
    except VerdictError:
        if path.name != PARTIAL_NAME:
            raise
        # What a kill left half written is judged again; the ledger has the answers.


def _chunks(values: Iterable[Item], size: int) -> Iterator[list[Item]]:
    source = iter(values)
    while part := list(islice(source, size)):
        yield part
