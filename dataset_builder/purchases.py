"""What is asked for a plan's entries, and what the ledger holds for them; calls nobody."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple, cast

from echo4o.client import ChatRequest, ImageRequest
from echo4o.errors import Echo4oError
from echo4o.ledger import Entry as LedgerEntry
from echo4o.ledger import Ledger, LostPictureError, read_kept
from echo4o.records import JsonValue, write_atomic

from .plan import Entry, Plan
from .reference_pool import FOLDER_NAME
from .refusals import reworded, rewording

logger = logging.getLogger(__name__)

LEDGER_NAME = "ledger.sqlite"
SETTINGS_NAME = "generate.json"
_SHOWN = 5


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
    rewriter: str | None = None
    """Chat model that words refused prompts anew; None leaves them refused."""
    rewrites: int = 2
    """How often a refused prompt is worded anew, when there is a `rewriter`."""
    plan_sha256: str | None = None
    """Plan that the folder was begun with."""

    def __post_init__(self) -> None:
        if self.rewrites < 1:
            raise ValueError(f"--rewrites must be at least 1, got {self.rewrites}")

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

    def save(self, folder: Path, *, is_begun: bool) -> "Settings":
        """Remember the settings beside the plan; returns them with what the folder remembers.

        A rewriter may join later, and more rewrites; what was bought with it stays reachable.

        Raises:
            SettingsError: pictures were bought (`is_begun`) with other settings.
        """
        path = folder / SETTINGS_NAME
        merged = self
        if is_begun and path.exists():
            earlier = Settings.load(folder)
            if None not in (self.plan_sha256, earlier.plan_sha256) and (
                self.plan_sha256 != earlier.plan_sha256
            ):
                raise SettingsError(
                    f"the ledger in {folder} was begun with another plan; restore that plan, or "
                    "plan in a new folder"
                )
            merged = replace(self, plan_sha256=self.plan_sha256 or earlier.plan_sha256)
            if earlier.rewriter is not None:
                most = max(self.rewrites if self.rewriter else 1, earlier.rewrites)
                rewriter = self.rewriter or earlier.rewriter
                merged = replace(merged, rewriter=rewriter, rewrites=most)
            joined = replace(
                earlier,
                rewriter=merged.rewriter,
                rewrites=merged.rewrites,
                plan_sha256=merged.plan_sha256,
            )
            if joined != merged or earlier.rewriter not in (None, merged.rewriter):
                writer = f", --rewrite {earlier.rewriter}" if earlier.rewriter else ""
                raise SettingsError(
                    f"{folder} was begun with {earlier.model} at {earlier.size}, quality "
                    f"{earlier.quality}, {earlier.output_format}{writer}; use the same again, or "
                    "plan in a new folder"
                )
        write_atomic(path, json.dumps(asdict(merged), indent=2, sort_keys=True) + "\n")
        return merged

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


class Given(NamedTuple):
    """A reference that was given with the plan, not bought."""

    picture: str
    """SHA-256 of the bytes."""
    extension: str
    register: Mapping[str, JsonValue]
    """source, licence, attribution, depicts_person, consent."""


class Story(NamedTuple):
    """An entry as it was asked last, and everything that was bought for it."""

    entry: Entry
    """With the words of the last rewording, if there was one."""
    request: ImageRequest
    bought: LedgerEntry | None
    """What the ledger holds for `request`."""
    before: tuple[LedgerEntry, ...]
    """Refused attempts and the answers that reworded them."""
    question: ChatRequest | None
    """Asks for new words; None when nothing was refused, or every turn is used up."""

    @property
    def cost_usd(self) -> float:
        """Of all attempts."""
        return sum(one.cost_usd for one in (*self.before, *([self.bought] if self.bought else [])))


class Purchases:
    """Plan entries and what the ledger holds for them."""

    def __init__(self, plan: Plan, settings: Settings, ledger: Ledger) -> None:
        self.plan = plan
        self.settings = settings
        self.ledger = ledger
        self.lost: dict[str, str] = {}
        """SHA-256 of pictures that could not be read so far, and why."""
        self._references = {entry.id: entry for entry in plan.references}

    def reference(self, name: str) -> LedgerEntry | Given | None:
        """A reference that was given, or bought; None when nothing was bought."""
        entry = self._references[name]
        if entry.source is None:
            return self.finished(self._story(entry, ()).request)
        return Given(
            str(entry.source["sha256"]),
            str(entry.source["extension"]),
            cast(Mapping[str, JsonValue], entry.source["register"]),
        )

    def finished(self, request: ImageRequest) -> LedgerEntry | None:
        """The finished purchase of a request, None when it failed, was refused or not made."""
        found = self.ledger.find(request.key)
        return found if found is not None and found.state == "done" else None

    def picture(self, bought: LedgerEntry | Given) -> bytes:
        """Bytes of a finished purchase or of a given reference, checked against their hash.

        Raises:
            LostPictureError: the file is missing or damaged; `lost` keeps it.
        """
        if bought.picture is None or bought.extension is None:
            raise Echo4oError(f"call {bought.key[:12]} is done but has no picture; restore a copy")
        try:
            if isinstance(bought, Given):
                return read_kept(self._given_path(bought), bought.picture)
            return self.ledger.read_picture(bought.picture, bought.extension)
        except LostPictureError as error:
            self.lost[bought.picture] = str(error)
            raise

    def lost_reference(self, entry: Entry) -> str | None:
        """What is wrong with the first reference of an entry that could not be read."""
        found = (self.reference(name) for name in entry.references)
        return next(
            (self.lost[str(o.picture)] for o in found if o and o.picture in self.lost), None
        )

    def tell_lost(self) -> None:
        """Log which pictures could not be read, and what to do; nothing when all is well."""
        if not self.lost:
            return
        shown = "; ".join(list(self.lost.values())[:_SHOWN])
        more = f"; and {len(self.lost) - _SHOWN} more" if len(self.lost) > _SHOWN else ""
        logger.warning(
            "rows are left out because their pictures cannot be read (%d: %s%s); put the files "
            "back from a copy, or get bought ones with `echo4o data generate --rebuy-lost` and "
            "given ones with the same `echo4o data plan`",
            len(self.lost),
            shown,
            more,
        )

    def request(self, entry: Entry) -> ImageRequest | None:
        """The last call for an entry, None while one of its references is missing."""
        story = self.story(entry)
        return None if story is None else story.request

    def worded(self, entry: Entry, request: ImageRequest) -> Entry:
        """The entry with the words that `request` asks for, after a refusal."""
        if request.prompt == entry.prompt:
            return entry
        return replace(entry, prompt=request.prompt, instruction=request.prompt)

    def story(self, entry: Entry) -> Story | None:
        """What happened to an entry, None while one of its references is not there."""
        pictures = []
        for name in entry.references:
            bought = self.reference(name)
            if bought is None:
                return None
            try:
                pictures.append(self.picture(bought))
            except LostPictureError:
                return None
        return self._story(entry, pictures)

    def _story(self, entry: Entry, pictures: Sequence[bytes]) -> Story:
        request = self.settings.request(entry, pictures)
        bought = self.ledger.find(request.key)
        before: list[LedgerEntry] = []
        question = None
        turns = self.settings.rewrites if self.settings.rewriter else 0
        for turn in range(turns):
            if bought is None or bought.state != "refused":
                break
            asked = rewording(
                entry, bought.reason or "", model=str(self.settings.rewriter), turn=turn
            )
            said = self.ledger.find(asked.key)
            if said is None or said.state != "done":
                question = asked if said is None or said.state != "refused" else None
                break
            fresh = reworded(entry, said.text)
            if fresh is None:
                break
            before += [bought, said]
            entry, request = fresh, self.settings.request(fresh, pictures)
            bought = self.ledger.find(request.key)
        return Story(entry, request, bought, tuple(before), question)

    def _given_path(self, given: Given) -> Path:
        return self.ledger.path.parent / FOLDER_NAME / f"{given.picture}.{given.extension}"
