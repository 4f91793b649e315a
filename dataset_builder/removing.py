"""Takes rows out of a built dataset: its next version, with tombstones and a list of changes.

Shards without a removed row stay as they are, byte for byte, so that publishing sends only the
others. Everything is made beside the folder and swapped in at the end, as a build does it.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

from echo4o.errors import Echo4oError
from echo4o.records import RECORD_NAME, Input, JsonValue, RunRecord, sha256_file, write_atomic
from echo4o.schema import DATASET_NAME, Row, check_id, dump_json

from .card import recorded
from .folder import SHEET_PICTURES, TOMBSTONES_NAME, Looks, aside, describe, staged, swap
from .gallery import Gallery
from .look import text_columns
from .shards import ShardWriter
from .tally import Tally

if TYPE_CHECKING:
    import pyarrow.parquet as pq

CHANGES_NAME = "CHANGELOG.md"
_LONGEST_REASON = 500
_BATCH_ROWS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Removed:
    """What was taken out."""

    version: int
    """Of the dataset now; the first is 1."""
    rows: int
    shards: int
    """Files that were written anew."""
    kept: int
    """Files that stayed as they were."""


def read_ids(path: Path) -> list[str]:
    """Row ids of a file: one a line, or JSON lines with `id` (such as an old tombstones.jsonl).

    Raises:
        Echo4oError: the file cannot be read, names no row, or a line is no id.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise Echo4oError(f"--ids: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Echo4oError(f"--ids: {path} is not UTF-8 text; give one row id a line") from None
    found: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            found[_id(path, number, line.strip())] = None
    if not found:
        raise Echo4oError(f"--ids: {path} names no row; give one row id a line")
    return list(found)


def _id(path: Path, number: int, line: str) -> str:
    name: object = line
    try:
        if line.startswith("{"):
            name = json.loads(line).get("id")
        check_id(name if isinstance(name, str) else "")
    except (ValueError, RecursionError, Echo4oError):
        raise Echo4oError(
            f"--ids: {path} line {number} is no row id ({line[:60]!r}); give one a line, or JSON "
            'lines with "id"'
        ) from None
    return str(name)


def remove(
    folder: Path,
    ids: Sequence[str],
    reason: str,
    *,
    is_legal: bool = False,
    progress: bool = False,
) -> Removed:
    """Replace a dataset folder by its next version without these rows.

    `is_legal` notes a take-down for which tags and history may be rewritten.

    Raises:
        Echo4oError: this is no dataset of ours, a row is not in it, or nothing would be left.
    """
    reason = " ".join(reason.split())
    if not 0 < len(reason) <= _LONGEST_REASON or not reason.isprintable():
        raise Echo4oError(f"--reason needs a text of 1 to {_LONGEST_REASON} characters")
    _record(folder)  # a wrong folder is told before anything is made beside it
    with staged(folder) as staging:
        return _next(folder, staging, ids, reason, is_legal, progress)


def _next(
    folder: Path, staging: Path, ids: Sequence[str], reason: str, is_legal: bool, progress: bool
) -> Removed:
    """Make the next version in `staging` and put it into the place of `folder`."""
    started, clock = datetime.now(UTC), time.monotonic()
    record = _record(folder)
    version = cast(int, record.parameters.get("version", 1)) + 1
    shards = sorted(name for name in record.files if name.endswith(".parquet"))
    hits = _find(folder, shards, ids)
    gone = frozenset(ids)
    files = _write_shards(folder, staging, shards, hits, gone, record, progress)
    change = _change(version, started, reason, len(gone), is_legal)
    card = recorded(record, folder)
    card = replace(card, versions=(change, *card.versions))
    statistics, looks = _count(staging, sorted(files))
    text = (folder / "left_out.jsonl").read_text(encoding="utf-8")
    files |= describe(staging, card, files, statistics, looks=looks, left_out=text)
    files |= _write_history(folder, staging, gone, reason, version, started, change)
    replace(
        record,
        command="echo4o data remove",
        inputs=(*record.inputs, _earlier(folder, version)),
        parameters=record.parameters
        | {"card": card.to_dict(), "version": version, "legal_take_down": is_legal},
        metrics=record.metrics | statistics | {"removed": len(gone)},
        files=files,
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - clock, 3),
    ).save(staging)
    swap(staging, folder)
    return Removed(version=version, rows=len(gone), shards=len(hits), kept=len(shards) - len(hits))


def _record(folder: Path) -> RunRecord:
    """The folder's record, after the dataset that a kill put aside is back."""
    old = aside(folder, "old")
    if old.is_dir() and not folder.exists():
        old.rename(folder)
    record = RunRecord.load(folder)
    if record.name != DATASET_NAME:
        raise Echo4oError(f"{folder} holds no dataset of `echo4o data`; give a built dataset")
    recorded(record, folder)
    if not isinstance(record.parameters.get("version", 1), int):
        raise Echo4oError(f"{folder} was built by another echo4o; build it again")
    missing = sorted(name for name in record.files if not (folder / name).is_file())
    if missing:
        raise Echo4oError(f"{folder} lacks {missing[0]}, which its record names; restore it")
    return record


def _find(folder: Path, shards: Sequence[str], ids: Sequence[str]) -> set[str]:
    """Shards that hold one of the rows.

    Raises:
        Echo4oError: naming the rows that are in none.
    """
    wanted, found, hits = set(ids), set[str](), set[str]()
    for name in shards:
        held = wanted.intersection(_parquet(folder / name).read(["id"]).column("id").to_pylist())
        if held:
            hits.add(name)
            found |= held
    unknown = [row_id for row_id in ids if row_id not in found]
    if unknown:
        gone = set(_tombstones(folder))
        told = "was removed before" if unknown[0] in gone else "is not in the dataset"
        raise Echo4oError(
            f"--ids: row {unknown[0]!r} {told} ({len(unknown)} of {len(ids)} such ids); nothing "
            "was removed, take them out of the file"
        )
    return hits


def _parquet(path: Path) -> "pq.ParquetFile":
    import pyarrow.parquet as pq

    return pq.ParquetFile(path)


def _write_shards(
    folder: Path,
    staging: Path,
    shards: Sequence[str],
    hits: set[str],
    gone: frozenset[str],
    record: RunRecord,
    progress: bool,
) -> dict[str, str]:
    """Link what stays and write the rest anew; names and hashes of the shards."""
    from tqdm import tqdm

    made: list[tuple[str, Path, str]] = []
    for name in tqdm(shards, desc="remove", disable=not progress):
        if name not in hits:
            made.append((name, folder / name, record.files[name]))
            continue
        writer = ShardWriter(staging / "anew" / name, "rows", max_shard_bytes=1 << 62)
        for batch in _parquet(folder / name).iter_batches(batch_size=_BATCH_ROWS):
            for values in batch.to_pylist():
                if values["id"] not in gone:
                    writer.add(Row.from_dict(values))
        made += [(name, shard.path, shard.sha256) for shard in writer.close()]
    return _place(staging, made)


def _place(staging: Path, made: list[tuple[str, Path, str]]) -> dict[str, str]:
    """Give the shards that are left their numbers, `00000-of-00003`."""
    splits: dict[str, list[tuple[Path, str]]] = {}
    for name, path, digest in made:
        splits.setdefault(name.rpartition("-of-")[0].rpartition("-")[0], []).append((path, digest))
    if not any("/preview/" not in split for split in splits):
        raise Echo4oError("not a single row would be left; delete the dataset instead")
    files = {}
    for split, parts in splits.items():
        for index, (path, digest) in enumerate(parts):
            name = f"{split}-{index:05d}-of-{len(parts):05d}.parquet"
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            _link(path, staging / name)
            files[name] = digest
    shutil.rmtree(staging / "anew", ignore_errors=True)
    return files


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(path, target)


def _count(staging: Path, shards: Sequence[str]) -> tuple[dict[str, JsonValue], Looks]:
    """Statistics of the rows that are left, and the pictures for the pages."""
    tally, sizes = Tally(), dict[str, tuple[int, int]]()
    shown = [row for name in shards if "/preview/" in name for row in _rows(staging / name)]
    names = {row.id for row in shown}
    for name in shards:
        if "/preview/" in name:
            continue
        for batch in _parquet(staging / name).iter_batches(columns=text_columns()):
            for values in batch.to_pylist():
                tally.add(values)
                if values["id"] in names:
                    sizes[values["id"]] = (values["width"], values["height"])
    gallery, sheet = Gallery(), dict[str, list[bytes]]()
    for small in shown:
        width, height = sizes[small.id]
        gallery.add(replace(small, width=width, height=height), small)
        pictures = sheet.setdefault(small.subset, [])
        if len(pictures) < SHEET_PICTURES:
            pictures.append(small.output_image.data)
    return tally.to_dict(), Looks(sheet, gallery)


def _rows(path: Path) -> Iterator[Row]:
    for batch in _parquet(path).iter_batches(batch_size=_BATCH_ROWS):
        yield from map(Row.from_dict, batch.to_pylist())


def _change(version: int, when: datetime, reason: str, rows: int, is_legal: bool) -> str:
    legal = " (legal take-down: tags and history that hold them may be rewritten)"
    words = reason.replace("<", "&lt;")  # the file is Markdown, which would let markup through
    return f"- Version {version}, {when:%Y-%m-%d}: {rows} rows removed: {words}" + (
        legal if is_legal else ""
    )


def _tombstones(folder: Path) -> list[str]:
    path = folder / TOMBSTONES_NAME
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [str(json.loads(line)["id"]) for line in lines]


def _write_history(
    folder: Path,
    staging: Path,
    gone: frozenset[str],
    reason: str,
    version: int,
    when: datetime,
    change: str,
) -> dict[str, str]:
    """Append to tombstones and changes; hashes by file name."""
    old = folder / TOMBSTONES_NAME
    text = old.read_text(encoding="utf-8") if old.is_file() else ""
    for name in sorted(gone):
        told: dict[str, JsonValue] = {"id": name, "reason": reason, "version": version}
        text += dump_json(told | {"removed": f"{when:%Y-%m-%d}"}) + "\n"
    write_atomic(staging / TOMBSTONES_NAME, text)
    earlier = folder / CHANGES_NAME
    head = f"# Changes of {DATASET_NAME}\n\n"
    rest = earlier.read_text(encoding="utf-8").removeprefix(head) if earlier.is_file() else ""
    write_atomic(staging / CHANGES_NAME, f"{head}{change}\n{rest}")
    return {name: sha256_file(staging / name) for name in (TOMBSTONES_NAME, CHANGES_NAME)}


def _earlier(folder: Path, version: int) -> Input:
    return Input(
        kind="dataset",
        id=f"{DATASET_NAME} version {version - 1}",
        sha256=sha256_file(folder / RECORD_NAME),
    )
