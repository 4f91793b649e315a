"""Writes the dataset folder: Parquet by config and split, card, statistics, contact sheet, record.

Everything is made in a hidden folder first and moved at the end, so that a reader, or a killed
run, never leaves half a dataset where a whole one was.
"""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from echo4o.errors import Echo4oError
from echo4o.pictures import PictureError
from echo4o.records import RECORD_NAME, JsonValue, RunRecord, sha256_file, write_atomic
from echo4o.schema import DATASET_NAME, Row, check_row, dump_json

from .card import CardFacts, render_card
from .shards import Shard, ShardWriter
from .tally import Tally
from .thumbnails import preview_row, write_contact_sheet

logger = logging.getLogger(__name__)

PREVIEW_ROWS = 300
SHEET_PICTURES = 48
_STAGING = ".partial"
_OURS = ("data", "README.md", "statistics.json", "contact_sheet.png", "left_out.jsonl")


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
    """Refuse to write over anything that is no dataset of ours.

    Raises:
        Echo4oError: `out` is a file, or a folder with other things in it.
    """
    if out.exists() and not out.is_dir():
        raise Echo4oError(f"{out} is a file; give a folder for the dataset")
    if not out.is_dir() or (out / _STAGING).is_dir():
        return
    names = {path.name for path in out.iterdir()}
    if names and RECORD_NAME not in names:
        raise Echo4oError(f"{out} holds other files; give an empty or a new folder")
    if names and RunRecord.load(out).name != DATASET_NAME:
        raise Echo4oError(f"{out} holds another artefact; give an empty or a new folder")


class FolderWriter:
    """Takes rows one at a time; `finish` makes them visible together, an error leaves no trace."""

    def __init__(self, out: Path, *, preview: frozenset[str]) -> None:
        """`preview` names the rows that also go into the preview config."""
        check_target(out)
        self.out = out
        self.tally = Tally()
        self._preview = preview
        self._staging = out / _STAGING
        self._writers: dict[tuple[str, str], ShardWriter] = {}
        self._sheet: list[bytes] = []
        shutil.rmtree(self._staging, ignore_errors=True)
        self._staging.mkdir(parents=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.abort()

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
        splits = sorted((config, split) for config, split in shards)
        self._write("README.md", render_card(card, splits, statistics))
        self._write("statistics.json", json.dumps(statistics, indent=2, sort_keys=True) + "\n")
        self._write("left_out.jsonl", "".join(one.to_line() for one in left_out))
        if self._sheet:
            write_contact_sheet(self._staging / "contact_sheet.png", self._sheet)
        metrics = record.metrics | statistics | {"left_out": counts}
        filled = replace(record, files=self._hashes(shards), metrics=metrics)
        filled.save(self._staging)
        self._publish()
        return Result(folder=self.out, tally=self.tally, record=filled)

    def abort(self) -> None:
        """Remove what was begun; an earlier dataset in the folder stays as it was."""
        for writer in self._writers.values():
            writer.abort()
        shutil.rmtree(self._staging, ignore_errors=True)

    def _writer(self, config: str, split: str) -> ShardWriter:
        if (config, split) not in self._writers:
            folder = self._staging / "data" / config
            self._writers[config, split] = ShardWriter(folder, split)
        return self._writers[config, split]

    def _add_preview(self, row: Row) -> None:
        try:
            small = preview_row(replace(row, split="train"))
        except PictureError as error:
            logger.warning("row %s is not in the preview: %s", row.id, error)
            return
        self._writer("preview", "train").add(small)
        if len(self._sheet) < SHEET_PICTURES:
            self._sheet.append(small.output_image.data)

    def _write(self, name: str, content: str) -> None:
        write_atomic(self._staging / name, content)

    def _hashes(self, shards: dict[tuple[str, str], list[Shard]]) -> dict[str, str]:
        found = {
            f"data/{config}/{shard.path.name}": shard.sha256
            for (config, _), files in shards.items()
            for shard in files
        }
        for name in _OURS[1:]:
            if (self._staging / name).exists():
                found[name] = sha256_file(self._staging / name)
        return found

    def _publish(self) -> None:
        old = self._staging / "old"
        fresh = sorted(self._staging.iterdir())
        old.mkdir()
        for name in sorted({*_OURS, *(path.name for path in fresh)}):
            if (self.out / name).exists():
                (self.out / name).rename(old / name)
        for path in fresh:
            path.rename(self.out / path.name)
        shutil.rmtree(self._staging)
