"""Buys the pictures of a plan: references first, then the rows that need them; resumable.

What was bought lies in the ledger beside the plan. Refusals are outcomes, failures are tried again
by the next run, and nothing is paid twice.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, cast

from echo4o.client import ApiClient, ImageRequest, PriceTable
from echo4o.errors import Echo4oError
from echo4o.ledger import Entry as LedgerEntry
from echo4o.ledger import Ledger
from echo4o.records import JsonValue, sha256_bytes, write_atomic

from .plan import Entry, Plan, read_plan
from .reference_pool import FOLDER_NAME

LEDGER_NAME = "ledger.sqlite"
SETTINGS_NAME = "generate.json"


class SettingsError(Echo4oError):
    """The folder was generated with other settings, or not at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What is asked of the image API for every picture of a plan."""

    model: str
    """Model id as the API knows it."""
    size: str = "1024x1024"
    """`WIDTHxHEIGHT` in pixels."""
    quality: str = "auto"
    """As the API names it."""
    output_format: str = "png"
    """png, jpeg or webp."""

    def request(self, entry: Entry, references: Sequence[bytes] = ()) -> ImageRequest:
        """The API call for a plan entry."""
        return ImageRequest(
            model=self.model,
            prompt=entry.prompt,
            size=self.size,
            quality=self.quality,
            references=tuple(references),
            output_format=self.output_format,
            repeat=entry.repeat,
        )

    def save(self, folder: Path, *, is_begun: bool) -> None:
        """Remember the settings beside the plan.

        Raises:
            SettingsError: pictures were bought (`is_begun`) with other settings.
        """
        path = folder / SETTINGS_NAME
        if is_begun and path.exists() and (earlier := Settings.load(folder)) != self:
            raise SettingsError(
                f"{folder} was begun with {earlier.model} at {earlier.size}, quality "
                f"{earlier.quality}, {earlier.output_format}; use the same again, or plan in a "
                "new folder"
            )
        write_atomic(path, json.dumps(asdict(self), indent=2, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Settings":
        """The settings that a folder was generated with."""
        path = folder / SETTINGS_NAME
        if not path.is_file():
            raise SettingsError(f"{folder} holds no pictures yet; run `echo4o data generate` first")
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise SettingsError(f"{path} is damaged ({error}); restore it from a copy") from None


class Summary(NamedTuple):
    """What became of a plan's entries."""

    outcomes: dict[str, int]
    """done, refused, failed, and `no reference` for rows whose reference was not made."""
    calls: int
    """HTTP requests of this run."""
    spent_usd: float
    """All settled calls of the ledger."""


class Given(NamedTuple):
    """A reference that was given with the plan, not bought."""

    picture: str
    """SHA-256 of the bytes."""
    extension: str
    register: Mapping[str, JsonValue]
    """source, licence, attribution, depicts_person, consent."""


class Purchases:
    """Plan entries and what the ledger holds for them."""

    def __init__(self, plan: Plan, settings: Settings, ledger: Ledger) -> None:
        self.plan = plan
        self.settings = settings
        self.ledger = ledger
        self._references = {entry.id: entry for entry in plan.references}

    def reference(self, name: str) -> LedgerEntry | Given | None:
        """A reference that was bought or given, None when it is not there."""
        entry = self._references[name]
        if entry.source is None:
            return self.finished(self.settings.request(entry))
        given = Given(
            str(entry.source["sha256"]),
            str(entry.source["extension"]),
            cast(Mapping[str, JsonValue], entry.source["register"]),
        )
        return given if self._given_path(given).is_file() else None

    def finished(self, request: ImageRequest) -> LedgerEntry | None:
        """The finished purchase of a request, None when it failed, was refused or not made."""
        found = self.ledger.find(request.key)
        return found if found is not None and found.state == "done" else None

    def picture(self, bought: LedgerEntry | Given) -> bytes:
        """Bytes of a finished purchase or of a given reference, checked against their hash."""
        if isinstance(bought, Given):
            return self._read_given(bought)
        if bought.picture is None or bought.extension is None:
            raise Echo4oError(f"call {bought.key[:12]} is done but has no picture; restore a copy")
        return self.ledger.read_picture(bought.picture, bought.extension)

    def request(self, row: Entry) -> ImageRequest | None:
        """The call for a row, None while one of its references is missing."""
        pictures = []
        for name in row.references:
            bought = self.reference(name)
            if bought is None:
                return None
            pictures.append(self.picture(bought))
        return self.settings.request(row, pictures)

    def _given_path(self, given: Given) -> Path:
        return self.ledger.path.parent / FOLDER_NAME / f"{given.picture}.{given.extension}"

    def _read_given(self, given: Given) -> bytes:
        path = self._given_path(given)
        data = path.read_bytes()
        if sha256_bytes(data) != given.picture:
            raise Echo4oError(f"reference {path} does not match its hash; plan again to restore it")
        return data


class _Rows:
    """Requests of the rows whose references exist, made one at a time; has a length for the bar."""

    def __init__(self, purchases: Purchases) -> None:
        self._purchases = purchases
        self.without_reference = 0

    def __len__(self) -> int:
        return len(self._purchases.plan.rows)

    def __iter__(self) -> Iterator[ImageRequest]:
        for row in self._purchases.plan.rows:
            request = self._purchases.request(row)
            if request is None:
                self.without_reference += 1
            else:
                yield request


def generate(
    folder: Path,
    settings: Settings,
    *,
    base_url: str | None = None,
    budget_usd: float | None = None,
    concurrency: int = 8,
    requests_per_minute: float | None = None,
    prices: PriceTable | None = None,
    progress: bool = False,
) -> Summary:
    """Buy what the plan in `folder` still lacks.

    Raises:
        BudgetExceeded: the next call could cost more than is left; finished calls are kept.
        Echo4oError: the plan, the settings, the key or the address needs the user.
    """
    if concurrency < 1:
        raise ValueError(f"--concurrency must be at least 1, got {concurrency}")
    plan, _ = read_plan(folder)
    with Ledger(folder / LEDGER_NAME, budget_usd=budget_usd) as ledger:
        counts = ledger.counts()
        settings.save(folder, is_begun=counts["done"] + counts["refused"] > 0)
        purchases = Purchases(plan, settings, ledger)
        client = ApiClient(
            ledger=ledger,
            base_url=base_url,
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            prices=prices,
        )
        outcomes = asyncio.run(_buy(client, purchases, progress))
        return Summary(dict(sorted(outcomes.items())), client.calls_made, ledger.spent_usd)


async def _buy(client: ApiClient, purchases: Purchases, progress: bool) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    references = [
        purchases.settings.request(entry)
        for entry in purchases.plan.references
        if entry.source is None
    ]
    rows = _Rows(purchases)
    async with client:
        if references:
            async for _ in client.run(references, progress="references" if progress else None):
                pass
        async for _, reply in client.run(rows, progress="rows" if progress else None):
            outcomes[reply.outcome] += 1
    if rows.without_reference:
        outcomes["no reference"] = rows.without_reference
    return outcomes
