"""Builds the dataset folder from a plan and its ledger: plan order, the same bytes every time."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from echo4o.ledger import Entry as LedgerEntry
from echo4o.ledger import Ledger, LostPictureError
from echo4o.pictures import PictureError, PictureFacts
from echo4o.records import Input, JsonValue, RunRecord, sha256_bytes
from echo4o.schema import DATASET_NAME, Picture, Row, Split, constraint_key

from .card import CardFacts, check_lines
from .folder import PREVIEW_ROWS, FolderWriter, LeftOut, Result, check_target
from .generate import LEDGER_NAME, Given, Purchases, Settings
from .marking import Counted
from .plan import Entry, read_plan
from .splits import Candidate, choose_validation, ranked, usual_validation
from .stripping import without_camera_data
from .thumbnails import check_picture
from .verdicts import Verdict, Verdicts, applied, paired


class _Ready(NamedTuple):
    """A planned row whose pictures were all bought."""

    entry: Entry
    bought: LedgerEntry
    references: tuple[LedgerEntry | Given, ...]
    verdict: Verdict | None
    """What `data check` said of it."""


class Harvest:
    """Rows of a plan whose pictures are there; `left_out` names the others."""

    def __init__(
        self,
        folder: Path,
        ledger: Ledger,
        *,
        license_id: str | None = None,
        subset: str | None = None,
    ) -> None:
        """`license_id` is what the rows say of their pictures' licence; None reads all subsets."""
        self.plan, self.plan_sha256 = read_plan(folder)
        self.settings = Settings.load(folder)
        self.verdicts = Verdicts.load(folder)
        self.left_out: list[LeftOut] = []
        self.purchases = Purchases(self.plan, self.settings, ledger)
        self._license = license_id
        self._subset = subset

    def ready(self) -> list["_Ready"]:
        """Rows that were bought, in plan order."""
        found = []
        for entry in self.plan.rows:
            if self._subset not in (None, entry.subset):
                continue
            request = self.purchases.request(entry)
            if request is None:
                lost = self.purchases.lost_reference(entry)
                reason = "no reference" if lost is None else "lost reference"
                self.left_out.append(LeftOut(reason, entry.id, lost or ""))
                continue
            entry = self.purchases.worded(entry, request)
            bought = self.purchases.ledger.find(request.key)
            if bought is None or bought.state != "done":
                state = "not generated" if bought is None else bought.state
                self.left_out.append(LeftOut(state, entry.id, (bought and bought.reason) or ""))
                continue
            verdict = self.verdicts.find(entry, bought.picture)
            if verdict is not None and verdict.decision == "drop":
                reason, _, detail = verdict.reason.partition(": ")
                self.left_out.append(LeftOut(reason, entry.id, detail))
                continue
            given = (self.purchases.reference(name) for name in entry.references)
            references = tuple(one for one in given if one)
            found.append(_Ready(applied(entry, verdict), bought, references, verdict))
        return found

    def rows(self, ready: list["_Ready"], validation: frozenset[str]) -> Iterator[Row]:
        """Dataset rows; one whose picture is lost or does not decode is left out."""
        for one in ready:
            split: Split = "validation" if one.entry.id in validation else "train"
            try:
                yield self._row(one, split)
            except PictureError as error:
                self.left_out.append(LeftOut("bad picture", one.entry.id, str(error)))
            except LostPictureError as error:
                self.left_out.append(LeftOut("lost picture", one.entry.id, str(error)))

    def checked(self, ready: list["_Ready"]) -> dict[str, JsonValue]:
        """What `data check` counted, and how many rows of the dataset it never saw."""
        counted = Counted()
        for entry, verdict in paired(self.plan.rows, self.verdicts.by_id.values()):
            counted.add(entry.subset, verdict)
        unchecked = sum(one.verdict is None for one in ready)
        return {**counted.to_dict(), "unchecked": unchecked, "rules": dict(self.verdicts.header)}

    def _row(self, ready: "_Ready", split: Split) -> Row:
        entry, bought = ready.entry, ready.bought
        output, facts = self._picture(bought)
        inputs = [self._picture(one)[0] for one in ready.references]
        hashes = [sha256_bytes(one.data) for one in inputs]
        return Row(
            id=entry.id,
            task_type="ic" if entry.references else "t2i",
            subset=entry.subset,
            category=entry.category,
            instruction=entry.instruction,
            requested_instruction=entry.prompt if entry.prompt != entry.instruction else None,
            input_images=tuple(inputs),
            output_image=output,
            width=facts.width,
            height=facts.height,
            generator=_model(bought),
            license=self._license,
            split=split,
            constraints=entry.constraints,
            references=tuple(map(_reference, ready.references, hashes)),
            provenance=self._provenance(ready, hashes),
        )

    def _picture(self, bought: LedgerEntry | Given) -> tuple[Picture, PictureFacts]:
        data = self.purchases.picture(bought)
        facts = check_picture(data, decode=True)
        if isinstance(bought, Given):
            data = without_camera_data(data)
        return Picture(data=data, name=f"{sha256_bytes(data)}.{bought.extension}"), facts

    def _provenance(self, ready: "_Ready", inputs: list[str]) -> dict[str, JsonValue]:
        checked = {} if ready.verdict is None else ready.verdict.provenance()
        return {
            "request_id": ready.bought.request_id,
            "model": _model(ready.bought),
            "parameters": {
                "model": self.settings.model,
                "size": self.settings.size,
                "quality": self.settings.quality,
                "output_format": self.settings.output_format,
            },
            "created": ready.bought.created,
            "sha256": {"output_image": ready.bought.picture, "input_images": [*inputs]},
            **checked,
        }


def _model(bought: LedgerEntry) -> str:
    return bought.answered_by or bought.model


def _reference(bought: LedgerEntry | Given, digest: str) -> dict[str, JsonValue]:
    """`digest` is of the bytes in the dataset; a given picture may have lost its camera data."""
    if isinstance(bought, Given):
        given = {} if digest == bought.picture else {"given_sha256": bought.picture}
        return {"sha256": digest, **given, **bought.register}
    return {
        "sha256": digest,
        "source": f"generated by {_model(bought)}",
        "licence": None,
        "attribution": None,
        "depicts_person": None,
        "consent": None,
        "request_id": bought.request_id,
    }


def _candidate(ready: "_Ready") -> Candidate:
    hashes = [f"picture {one.picture}" for one in (ready.bought, *ready.references)]
    key = constraint_key(ready.entry.constraints)
    # Rows that name no facts share none: without this they would all stay together.
    facts = [f"constraints {key}"] if key else []
    return Candidate(ready.entry.id, (*facts, *hashes))


def build(
    folder: Path,
    out: Path,
    *,
    validation: int | None = None,
    license_id: str | None = None,
    progress: bool = False,
) -> Result:
    """Write the dataset folder `out` from the plan and ledger in `folder`.

    The Parquet files follow from plan, ledger and `validation` alone. None takes the usual number
    of validation rows: 2,000, but at most a tenth.

    Raises:
        Echo4oError: there is no plan or ledger, nothing was bought, or `out` holds other files.
    """
    from tqdm import tqdm

    started, clock = datetime.now(UTC), time.monotonic()
    check_target(out)
    read_plan(folder)
    Settings.load(folder)
    with Ledger(folder / LEDGER_NAME, read_only=True) as ledger:
        harvest = Harvest(folder, ledger, license_id=license_id)
        ready = harvest.ready()
        wanted = usual_validation(len(ready)) if validation is None else validation
        chosen = choose_validation([_candidate(one) for one in ready], wanted)
        preview = ranked([one.entry.id for one in ready], PREVIEW_ROWS)
        with FolderWriter(out, preview=preview) as writer:
            with tqdm(desc="build", total=len(ready), disable=not progress) as bar:
                for row in harvest.rows(ready, chosen):
                    writer.add(row)
                    bar.update()
            record = RunRecord(
                name=DATASET_NAME,
                command="echo4o data build",
                inputs=(Input(kind="plan", id=harvest.plan.recipe, sha256=harvest.plan_sha256),),
                parameters={
                    "validation": wanted,
                    "license": license_id,
                    "model": harvest.settings.model,
                    "size": harvest.settings.size,
                    "quality": harvest.settings.quality,
                },
                seed=harvest.plan.seed,
                metrics={"planned": len(harvest.plan.rows), "check": harvest.checked(ready)},
                started=started.isoformat(timespec="seconds"),
                seconds=round(time.monotonic() - clock, 3),
            )
            cost = round(ledger.spent_usd, 4)
            card = _card(harvest, license_id, harvest.checked(ready), cost)
            result = writer.finish(record, card, harvest.left_out)
        harvest.purchases.tell_lost()
        return result


def _card(
    harvest: Harvest, license_id: str | None, checked: dict[str, JsonValue], cost_usd: float
) -> CardFacts:
    return CardFacts(
        origin=(
            f"Made by recipe `{harvest.plan.recipe}` (seed {harvest.plan.seed}) with "
            f"`{harvest.settings.model}`."
        ),
        license=license_id,
        tags=("synthetic", "echo4o"),
        cost_usd=cost_usd,
        checks=check_lines(checked),
    )
