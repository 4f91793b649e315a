"""Writes rows to Parquet shards that the Hub, its viewer and streaming readers like.

Content-defined chunking (uploads re-send only what changed), page index, row groups under 100 MB,
shards under 500 MB; one row group is held in memory at a time.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from echo4o.records import sha256_file
from echo4o.schema import Row, features

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MAX_GROUP_BYTES = 32_000_000
"""Small groups let a streaming reader show its first row soon; the Hub asks for at most 100 MB."""
MAX_GROUP_ROWS = 1_000
MAX_SHARD_BYTES = 450_000_000
_CHUNKING = {"min_chunk_size": 256 * 1024, "max_chunk_size": 1024 * 1024, "norm_level": 0}
_TEXT_BYTES = 2_000


class Shard(NamedTuple):
    """A finished file."""

    path: Path
    rows: int
    sha256: str


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
        max_group_bytes: int = MAX_GROUP_BYTES,
        max_shard_bytes: int = MAX_SHARD_BYTES,
    ) -> None:
        self.folder = folder
        self.split = split
        self.rows = 0
        self._schema: pa.Schema = features().arrow_schema
        self._max_group_bytes = max_group_bytes
        self._max_shard_bytes = max_shard_bytes
        self._group: list[dict[str, object]] = []
        self._group_bytes = 0
        self._writer: pq.ParquetWriter | None = None
        self._written_bytes = 0
        self._counts: list[int] = []
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, row: Row) -> None:
        """Append one row; writes a row group when enough have come together."""
        size = _TEXT_BYTES + len(row.output_image.data)
        size += sum(len(picture.data) for picture in row.input_images)
        full = self._group_bytes + size > self._max_group_bytes
        if self._group and (full or len(self._group) >= MAX_GROUP_ROWS):
            self._flush()
        self._group.append(row.to_dict())
        self._group_bytes += size
        self.rows += 1

    def close(self) -> list[Shard]:
        """Write what is left and name the files; an empty split leaves none."""
        self._flush()
        self._finish_shard()
        shards = []
        for index, rows in enumerate(self._counts):
            name = f"{self.split}-{index:05d}-of-{len(self._counts):05d}.parquet"
            path = self._partial(index).rename(self.folder / name)
            shards.append(Shard(path, rows, sha256_file(path)))
        return shards

    def abort(self) -> None:
        """Release the open file after an error."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _partial(self, index: int) -> Path:
        return self.folder / f".{self.split}-{index:05d}.partial"

    def _flush(self) -> None:
        if not self._group:
            return
        if self._written_bytes and self._written_bytes + self._group_bytes > self._max_shard_bytes:
            self._finish_shard()
        import pyarrow as pa

        table = pa.Table.from_pylist(self._group, schema=self._schema)
        self._open_writer().write_table(table, row_group_size=len(self._group))
        self._counts[-1] += len(self._group)
        self._written_bytes += self._group_bytes
        self._group, self._group_bytes = [], 0

    def _open_writer(self) -> "pq.ParquetWriter":
        if self._writer is None:
            import pyarrow.parquet as pq

            self._counts.append(0)
            self._writer = pq.ParquetWriter(
                self._partial(len(self._counts) - 1),
                self._schema,
                use_content_defined_chunking=_CHUNKING,
                write_page_index=True,
                **column_options(self._schema),
            )
        return self._writer

    def _finish_shard(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        self._written_bytes = 0
        with self._partial(len(self._counts) - 1).open("rb+") as file:
            os.fsync(file.fileno())


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
