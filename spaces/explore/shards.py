"""The Parquet files of a store: footers, then texts of a row group or pictures of a row."""

import logging
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import NamedTuple

import cells
import pyarrow as pa
import pyarrow.parquet as pq
from stores import Found, SourceError, Store

logger = logging.getLogger(__name__)

TAIL = 256 * 1024
MAX_FOOTER = 64 * 1024 * 1024
MAX_TEXT_BYTES = 256 * 1024 * 1024
"""Of the text columns of one row group; more is no release and would fill the memory."""
MAX_GROUP_BYTES = 512 * 1024 * 1024
"""Of the pictures of one row group, where they cannot be read one by one."""
THREADS = 8


class Shard(NamedTuple):
    """A file whose footer was read."""

    path: str
    footer: bytes
    groups: tuple[int, ...]
    """Rows of each row group."""
    first: int
    """Place of its first row in all shards together."""


class Shards:
    """Files of one schema in order; a row's place counts over all of them."""

    def __init__(self, store: Store, files: Iterable[Found], needed: set[str]) -> None:
        """Read the footers.

        Raises:
            SourceError: there is no file with the `needed` columns.
        """
        self.store = store
        self.files: list[Shard] = []
        self.unreadable = 0
        """Files that are no Parquet, or not of this schema."""
        self._whole_groups = threading.Lock()
        self._index = lru_cache(1024)(self._read_index)
        self._chunks = lru_cache(64)(self._read_chunks)
        self._columns: set[str] = set()
        first = 0
        with ThreadPoolExecutor(THREADS) as pool:
            for file, footer in pool.map(self._footer, files):
                if footer is None or not needed <= set(
                    _metadata(footer).schema.to_arrow_schema().names
                ):
                    logger.warning("left out: %s is no Parquet file with %s", file.path, needed)
                    self.unreadable += 1
                    continue
                facts = _metadata(footer)
                groups = tuple(facts.row_group(g).num_rows for g in range(facts.num_row_groups))
                self.files.append(Shard(file.path, footer, groups, first))
                first += sum(groups)
        self.rows = first
        if not self.files:
            raise SourceError(
                f"{store.name} has no Parquet file with the columns {', '.join(sorted(needed))}; "
                "it must be a dataset as echo4o builds it"
            )

    def where(self, place: int) -> tuple[Shard, int, int]:
        """Shard, row group and line in it of a place."""
        shard = self.files[bisect_right(self.files, place, key=lambda one: one.first) - 1]
        line = place - shard.first
        for group, rows in enumerate(shard.groups):
            if line < rows:
                return shard, group, line
            line -= rows
        raise IndexError(place)

    def texts(self, shard: Shard, group: int, wanted: Callable[[str], bool]) -> pa.Table:
        """The columns of a row group that `wanted` names and that hold no pictures.

        Raises:
            SourceError: they are larger than any release's.
        """
        facts = _metadata(shard.footer)
        schema = facts.schema.to_arrow_schema()
        names = [
            one.name for one in schema if wanted(one.name) and not pa.types.is_nested(one.type)
        ]
        chosen = facts.row_group(group)
        columns = [chosen.column(number) for number in range(chosen.num_columns)]
        size = sum(one.total_uncompressed_size for one in columns if one.path_in_schema in names)
        if size > MAX_TEXT_BYTES:
            raise SourceError(f"a row group of {self.store.name} holds {size:,} bytes of text")
        with self.store.open(shard.path) as file:
            return pq.ParquetFile(file, metadata=facts, pre_buffer=True).read_row_group(
                group, columns=names
            )

    def pictures(self, place: int, column: str) -> list[bytes | None]:
        """The picture (or the list of pictures) of a row, as bytes; None where one is missing.

        Raises:
            SourceError: the column is not there or its row groups are too large.
        """
        shard, group, line = self.where(place)
        paths = {f"{column}.bytes", f"{column}.list.element.bytes"} & set(_levels(shard.footer))
        if not paths:
            raise SourceError(f"{self.store.name} has no pictures in the column {column}")
        path = paths.pop()
        try:
            chunk = self._chunks(shard.path, shard.footer)[group][path]
            starts = self._index(shard.path, chunk.index_at, chunk.index_bytes)
            return cells.cell(partial(self.store.read, shard.path), chunk, starts, line)
        except (cells.NotHere, KeyError, IndexError, SourceError):
            return self._from_group(shard, group, line, path)

    def _from_group(self, shard: Shard, group: int, line: int, path: str) -> list[bytes | None]:
        """The same from the whole row group, one at a time: each is tens of megabytes."""
        facts, column = _metadata(shard.footer), path.partition(".")[0]
        chosen = facts.row_group(group)
        columns = [chosen.column(number) for number in range(chosen.num_columns)]
        size = sum(
            c.total_uncompressed_size
            for c in columns
            if c.path_in_schema.partition(".")[0] == column
        )
        if size > MAX_GROUP_BYTES:
            raise SourceError(f"a row group of {self.store.name} holds {size:,} bytes of pictures")
        with self._whole_groups, self.store.open(shard.path) as file:
            parquet = pq.ParquetFile(file, metadata=facts, pre_buffer=True)
            value = parquet.read_row_group(group, columns=[column])[column][line].as_py()
        many = (value or []) if ".list." in path else [value]
        return [one.get("bytes") if isinstance(one, dict) else None for one in many]

    def _footer(self, file: Found) -> tuple[Found, bytes | None]:
        """The footer's bytes, None when the file is no whole Parquet file."""
        try:
            tail = self.store.read(file.path, max(0, file.size - TAIL), file.size)
            length = int.from_bytes(tail[-8:-4], "little")
            if tail[-4:] != b"PAR1" or not 0 < length <= min(MAX_FOOTER, file.size):
                return file, None
            if length + 8 > len(tail):
                tail = self.store.read(file.path, file.size - length - 8, file.size)
            footer = tail[-length - 8 : -8]
            _metadata(footer)
            return file, footer
        except (pa.ArrowException, OSError, SourceError, ValueError) as error:
            logger.warning("cannot read %s: %s", file.path, error)
            return file, None

    def _read_index(self, path: str, at: int, size: int) -> list[tuple[int, int, int]]:
        if at < 0 or not 0 < size <= MAX_FOOTER:
            raise cells.NotHere("no offset index")
        return cells.page_starts(self.store.read(path, at, at + size))

    def _read_chunks(self, path: str, footer: bytes) -> list[dict[str, cells.Chunk]]:
        return cells.chunks(footer, _levels(footer))


@lru_cache(64)
def _metadata(footer: bytes) -> pq.FileMetaData:
    """A footer as pyarrow's structure, which takes several times the memory of the bytes."""
    framed = b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    return pq.read_metadata(pa.BufferReader(framed))


def _names(footer: bytes) -> set[str]:
    return set(_metadata(footer).schema.to_arrow_schema().names)


@lru_cache(64)
def _levels(footer: bytes) -> dict[str, tuple[int, int]]:
    """(definition, repetition) levels of each picture column by its path."""
    schema = _metadata(footer).schema
    columns = [schema.column(number) for number in range(len(schema))]
    return {
        one.path: (one.max_definition_level, one.max_repetition_level)
        for one in columns
        if one.path.endswith(".bytes")
    }
