"""Writes the dataset folder: Parquet, card, statistics, pictures to look at, Croissant, record.

Everything is made in a hidden folder beside it, and the two are swapped at the end: a reader, or a
killed run, never sees half a dataset. What a kill between the two renames put aside comes back.
"""

import contextlib
import fcntl
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, cast

from echo4o.errors import Echo4oError
from echo4o.pictures import PictureError
from echo4o.records import RECORD_NAME, JsonValue, RunRecord, sha256_file, sync_folder, write_atomic
from echo4o.schema import DATASET_NAME, Row, check_row, dump_json

from .background import Background
from .card import CardFacts, render_card
from .croissant import CROISSANT_NAME, write_croissant
from .gallery import Gallery
from .shards import Shard, ShardWriter
from .tally import Tally
from .thumbnails import preview_row, write_contact_sheet

logger = logging.getLogger(__name__)

PREVIEW_ROWS = 300
TOMBSTONES_NAME = "tombstones.jsonl"
"""Rows that were removed from earlier versions."""
SHEET_PICTURES = 24
"""Of each subset."""
_BESIDES = (
    *("README.md", "statistics.json", "contact_sheet.png", "left_out.jsonl"),
    CROISSANT_NAME,
)


class LeftOut(NamedTuple):
    """Something of the source that is not in the dataset."""

    reason: str
    """A short phrase that is counted, for example `missing picture`."""
    where: str
    """Row, file or member."""
    detail: str = ""

    def to_line(self) -> str:
        """One line of `left_out.jsonl`; foreign text comes out as ASCII."""
        return dump_json(dict(self._asdict())) + "\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What was written."""

    folder: Path
    tally: Tally
    record: RunRecord


def check_target(out: Path) -> None:
    """Refuse to replace anything but a dataset of ours; first bring back one that a kill put aside.

    Raises:
        Echo4oError: `out` is a file, or a folder with anything that its record does not name.
    """
    old = aside(out, "old")
    if old.is_dir() and not out.exists():
        logger.info("%s is back: a run was stopped while it replaced it", out)
        old.rename(out)
    if out.exists() and not out.is_dir():
        raise Echo4oError(f"{out} is a file; give a folder for the dataset")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / RECORD_NAME).is_file():
        raise Echo4oError(f"{out} holds other files; give an empty or a new folder")
    record = RunRecord.load(out)
    if record.name != DATASET_NAME:
        raise Echo4oError(f"{out} holds another artefact; give an empty or a new folder")
    if TOMBSTONES_NAME in record.files:
        raise Echo4oError(
            f"rows were removed from {out}, which would come back; give a new folder, and then "
            f"run `echo4o data remove` with a copy of its {TOMBSTONES_NAME}"
        )
    files = (path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir())
    foreign = sorted(set(files) - set(record.files) - {RECORD_NAME})
    if foreign:
        raise Echo4oError(
            f"{out} holds {foreign[0]}, which is not of the dataset and would be lost; move it "
            f"away ({len(foreign)} such files) or give a new folder"
        )


def aside(out: Path, purpose: str) -> Path:
    """A hidden name beside `out`, so that renames never cross a file system."""
    real = out.resolve()
    return real.parent / f".{real.name}.{purpose}"


def _hold(staging: Path, out: Path) -> int:
    """Lock an unfinished dataset for this process; returns the descriptor that holds it.

    Raises:
        Echo4oError: another process writes it.
    """
    descriptor = os.open(staging, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Echo4oError(
            f"{out} is being written by another process; wait for it or stop it"
        ) from None
    except OSError as error:  # some network file systems lock no folder
        logger.debug("%s is not locked: %s", staging, error)
    return descriptor


@contextlib.contextmanager
def staged(out: Path) -> Iterator[Path]:
    """An empty hidden folder beside `out`, this process's alone; an error removes it.

    Raises:
        Echo4oError: another process is writing `out`.
    """
    staging = aside(out, "partial")
    if staging.is_dir():
        os.close(_hold(staging, out))
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    held = _hold(staging, out)
    try:
        yield staging
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    finally:
        os.close(held)


class FolderWriter:
    """Takes rows one at a time; `finish` makes them visible together, an error leaves no trace."""

    def __init__(self, out: Path, *, preview: frozenset[str]) -> None:
        """`preview` names the rows that also go into the preview config.

        Raises:
            Echo4oError: `out` holds something else, or another process is writing it.
        """
        check_target(out)
        self.out = out
        self.tally = Tally()
        self._preview = preview
        self._background, self._disk = Background(), Background()
        self._writers: dict[tuple[str, str], ShardWriter] = {}
        self._sheet: dict[str, list[bytes]] = {}
        self._gallery = Gallery()
        self._stack = contextlib.ExitStack()
        self.staging = self._stack.enter_context(staged(out))
        """Hidden folder of the unfinished dataset; gone when all is over."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._background.__exit__(kind, error, trace)
        self._disk.__exit__(kind, error, trace)
        if kind is not None:
            for writer in self._writers.values():
                writer.abort()
        self._stack.__exit__(kind, error, trace)

    def add(self, row: Row) -> None:
        """Append one row.

        Raises:
            RowError: the row breaks the schema.
        """
        check_row(row)
        self._writer(row.subset, row.split).add(row)
        self.tally.add_row(row)
        if row.id in self._preview:
            self._add_preview(row)

    def finish(
        self, record: RunRecord, card: CardFacts, left_out: Sequence[LeftOut] = ()
    ) -> Result:
        """Write shards, card, statistics, contact sheet and record, and move them into place.

        Raises:
            Echo4oError: there is not a single row.
        """
        counts: JsonValue = dict(sorted(Counter(one.reason for one in left_out).items()))
        if not self.tally.rows:
            first = f"; the first: {left_out[0].where} {left_out[0].detail}" if left_out else ""
            raise Echo4oError(f"not a single row can be written; left out: {counts}{first}")
        shards = {key: writer.close() for key, writer in self._writers.items()}
        statistics = self.tally.to_dict()
        lines = "".join(one.to_line() for one in left_out)
        hashes = self._hashes(shards)
        looks = Looks(self._sheet, self._gallery)
        hashes |= describe(self.staging, card, hashes, statistics, looks=looks, left_out=lines)
        metrics = record.metrics | statistics | {"left_out": counts}
        parameters = record.parameters | {"card": card.to_dict()}
        filled = replace(record, files=hashes, metrics=metrics, parameters=parameters)
        filled.save(self.staging)
        swap(self.staging, self.out)
        return Result(folder=self.out, tally=self.tally, record=filled)

    def _writer(self, config: str, split: str) -> ShardWriter:
        if (config, split) not in self._writers:
            folder = self.staging / "data" / config
            self._writers[config, split] = ShardWriter(
                folder, split, background=self._background, disk=self._disk
            )
        return self._writers[config, split]

    def _add_preview(self, row: Row) -> None:
        try:
            small = preview_row(replace(row, split="train"))
        except PictureError as error:
            logger.warning("row %s is not in the preview: %s", row.id, error)
            return
        self._writer("preview", "train").add(small)
        self._gallery.add(row, small)
        pictures = self._sheet.setdefault(row.subset, [])
        if len(pictures) < SHEET_PICTURES:
            pictures.append(small.output_image.data)

    def _hashes(self, shards: dict[tuple[str, str], list[Shard]]) -> dict[str, str]:
        return {
            f"data/{config}/{shard.path.name}": shard.sha256
            for (config, _), files in shards.items()
            for shard in files
        }


class Looks(NamedTuple):
    """Pictures for the pages that people look at."""

    sheet: Mapping[str, Sequence[bytes]]
    """Small pictures by subset, for the contact sheet."""
    gallery: Gallery


def describe(
    folder: Path,
    card: CardFacts,
    shards: Mapping[str, str],
    statistics: dict[str, JsonValue],
    *,
    looks: Looks,
    left_out: str,
) -> dict[str, str]:
    """Write all that lies beside the shards but the record; hashes by file name."""
    text = render_card(card, shards, statistics, has_sheet=bool(looks.sheet))
    write_atomic(folder / "README.md", text)
    counts = json.dumps(statistics, indent=2, sort_keys=True) + "\n"
    write_atomic(folder / "statistics.json", counts)
    write_atomic(folder / "left_out.jsonl", left_out)
    if looks.sheet:
        write_contact_sheet(folder / "contact_sheet.png", [*looks.sheet.values()])
    totals = cast(dict[str, int], statistics["by_subset"])
    pages = looks.gallery.write(folder / "gallery", card.title, totals)
    write_croissant(folder, card, shards, statistics)
    names = [*_BESIDES, *(f"gallery/{page}" for page in pages)]
    return {name: sha256_file(folder / name) for name in names if (folder / name).exists()}


def swap(staging: Path, out: Path) -> None:
    """Put a finished folder into the place of the old one; a symbolic link stays one."""
    out, old = out.resolve(), aside(out, "old")
    sync_folder(staging)
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    try:
        staging.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    sync_folder(out.parent)
    shutil.rmtree(old, ignore_errors=True)
