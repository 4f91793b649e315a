"""Writes rows to Parquet shards that the Hub, its viewer and streaming readers like.

Content-defined chunking (uploads re-send only what changed), page index, row groups under 100 MB,
shards under 500 MB; one row group is held in memory at a time.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from echo4o.schema import Row, features

from .background import Background
from .batches import MAX_BATCH_BYTES, MAX_BATCH_ROWS, size_of, to_batch
from .hashed_file import HashedFile

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MAX_SHARD_BYTES = 450_000_000
_CHUNKING = {"min_chunk_size": 256 * 1024, "max_chunk_size": 1024 * 1024, "norm_level": 0}


class Shard(NamedTuple):
    """A finished file."""

    path: Path
    rows: int
    sha256: str


class _Open(NamedTuple):
    path: Path
    file: HashedFile
    writer: "pq.ParquetWriter"


class ShardWriter:
    """Rows of one split of one config, in the order they are added.

    Files are called `<split>-00000-of-00003.parquet`, as `datasets` expects; the total is known
    only at the end, so `close` gives the files their names.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        *,
        background: Background | None = None,
        disk: Background | None = None,
        max_group_bytes: int = MAX_BATCH_BYTES,
        max_shard_bytes: int = MAX_SHARD_BYTES,
    ) -> None:
        """`background` makes the row groups and `disk` writes them, if they are given."""
        self.folder = folder
        self.split = split
        self._schema: pa.Schema = features().arrow_schema
        self._background = background
        self._disk = disk
        self._max_group_bytes = max_group_bytes
        self._max_shard_bytes = max_shard_bytes
        self._group: list[Row] = []
        self._group_bytes = 0
        self._open: _Open | None = None
        self._written_bytes = 0
        self._counts: list[int] = []
        self._files: list[HashedFile] = []
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, row: Row) -> None:
        """Append one row; writes a row group when enough have come together."""
        size = size_of(row)
        full = self._group_bytes + size > self._max_group_bytes
        if self._group and (full or len(self._group) >= MAX_BATCH_ROWS):
            self._flush()
        self._group.append(row)
        self._group_bytes += size

    def write(self, batch: "pa.RecordBatch") -> None:
        """Append a row group; a new file begins where the old one would grow too large."""
        size = batch.nbytes
        if self._written_bytes and self._written_bytes + size > self._max_shard_bytes:
            self._finish_shard()
        self._opened().writer.write_batch(batch, row_group_size=batch.num_rows)
        self._counts[-1] += batch.num_rows
        self._written_bytes += size

    def close(self) -> list[Shard]:
        """Write what is left and name the files; an empty split leaves none."""
        self._flush()
        if self._background is not None:
            self._background.wait()
        self._finish_shard()
        if self._disk is not None:
            self._disk.wait()
        shards = []
        for index, (rows, file) in enumerate(zip(self._counts, self._files, strict=True)):
            name = f"{self.split}-{index:05d}-of-{len(self._counts):05d}.parquet"
            path = self._partial(index).rename(self.folder / name)
            shards.append(Shard(path, rows, file.sha256()))
        return shards

    def abort(self) -> None:
        """Release the open file after an error."""
        if self._open is not None:
            self._open.file.close()
            self._open = None

    def _partial(self, index: int) -> Path:
        return self.folder / f".{self.split}-{index:05d}.partial"

    def _flush(self) -> None:
        if not self._group:
            return
        if self._background is None:
            self._write_rows(self._group)
        else:
            self._background.do(self._write_rows, self._group)
        self._group, self._group_bytes = [], 0

    def _write_rows(self, rows: list[Row]) -> None:
        self.write(to_batch(rows))

    def _opened(self) -> _Open:
        if self._open is None:
            import pyarrow.parquet as pq

            path = self._partial(len(self._counts))
            file = HashedFile(path, self._disk)
            writer = pq.ParquetWriter(
                file,
                self._schema,
                use_content_defined_chunking=_CHUNKING,
                write_page_index=True,
                **column_options(self._schema),
            )
            self._open = _Open(path, file, writer)
            self._counts.append(0)
        return self._open

    def _finish_shard(self) -> None:
        if self._open is None:
            return
        file = self._open.file
        self._open.writer.close()
        self._files.append(file)
        self._open = None
        if self._disk is None:
            file.finish()
        else:
            self._disk.do(file.finish)
        self._written_bytes = 0


def column_options(schema: "pa.Schema") -> Mapping[str, object]:
    """Per-column writer options: pictures are compressed already, text takes zstd.

    Statistics of picture bytes would put whole pictures into the footer's index, so they are off.
    """
    leaves = [path for field in schema for path in _leaves(field.name, field.type)]
    texts = [path for path in leaves if not path.endswith("bytes")]
    return {
        "compression": {path: "zstd" if path in texts else "none" for path in leaves},
        "use_dictionary": texts,
        "write_statistics": texts,
        "column_encoding": {path: "PLAIN" for path in leaves if path not in texts},
    }


def _leaves(path: str, kind: "pa.DataType") -> list[str]:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return [leaf for field in kind for leaf in _leaves(f"{path}.{field.name}", field.type)]
    if pa.types.is_list(kind):
        return _leaves(f"{path}.list.element", kind.value_type)
    return [path]
