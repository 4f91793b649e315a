"""Rows of Parquet files that stay where they are, on the Hub or on a slow disk.

Only footers are read at first, and later one block (row group) at a time. Together with an order
that stays within a few blocks (order.py) every block is fetched about once an epoch.
"""

import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from echo4o.hub_errors import patiently

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

BLOCKS_TOGETHER = 4
"""Blocks whose rows are shuffled together."""
_BLOCKS_KEPT = 2 * BLOCKS_TOGETHER
"""Blocks in memory: those being shown, and those of rows that wait for a pack."""


class _Block(NamedTuple):
    file: int
    group: int


class RemoteRows:
    """Random access to the rows of some Parquet files.

    Args:
        files: Local paths or `hf://` addresses, as `datasets` resolves them.
        columns: Columns to read, of those that there are.
    """

    def __init__(self, files: Sequence[str], columns: Sequence[str]) -> None:
        self._files = list(files)
        self._open: dict[int, ParquetFile] = {}
        self._blocks: list[_Block] = []
        self._starts = [0]
        self._kept: OrderedDict[int, pa.Table] = OrderedDict()
        self.schemas: list[pa.Schema] = []
        """Of each file."""
        identity = hashlib.sha256()
        for number, name in enumerate(self._files):
            footer, schema = self._patiently(number, lambda f: (f.metadata, f.schema_arrow))
            self.schemas.append(schema)
            for group in range(footer.num_row_groups):
                self._blocks.append(_Block(number, group))
                self._starts.append(self._starts[-1] + footer.row_group(group).num_rows)
            identity.update(f"{name.rpartition('/')[2]} {footer.serialized_size}\n".encode())
            identity.update(str(footer.to_dict()["row_groups"]).encode())
        names = {name for schema in self.schemas for name in schema.names}
        self.column_names = [name for name in columns if name in names]
        self.digest = identity.hexdigest()

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def blocks(self) -> list[range]:
        """Row numbers of each block."""
        return [range(*ends) for ends in zip(self._starts, self._starts[1:], strict=False)]

    def __getitem__(self, number: int) -> dict[str, Any]:
        """One row, pictures still encoded."""
        block = bisect_right(self._starts, number) - 1
        row: dict[str, Any] = (
            self._table(block).slice(number - self._starts[block], 1).to_pylist()[0]
        )
        return row

    def column(self, name: str) -> list[Any]:
        """One column of all rows, None where a file lacks it; nothing else is fetched."""
        found: list[Any] = []
        for number, schema in enumerate(self.schemas):
            if name in schema.names:
                table = self._patiently(number, lambda file: file.read(columns=[name]))
                found += table.column(name).to_pylist()
            else:
                found += [None] * self._patiently(number, lambda file: file.metadata.num_rows)
        return found

    def _table(self, block: int) -> "pa.Table":
        if block not in self._kept:
            file, group = self._blocks[block]
            columns = self.column_names
            self._kept[block] = self._patiently(
                file, lambda opened: opened.read_row_group(group, columns=columns)
            )
            while len(self._kept) > _BLOCKS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(block)
        return self._kept[block]

    def _patiently(self, number: int, action: Callable[["ParquetFile"], Any]) -> Any:
        """Use a file; it is opened again when a connection was cut."""

        def attempt() -> Any:
            try:
                if number not in self._open:
                    self._open[number] = _open_parquet(self._files[number])
                return action(self._open[number])
            except BaseException:
                self._open.pop(number, None)
                raise

        return patiently(f"read {self._files[number]}", attempt)

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes open files of their own."""
        return {**self.__dict__, "_open": {}, "_kept": OrderedDict()}


def _open_parquet(name: str) -> "ParquetFile":
    import fsspec
    from pyarrow.parquet import ParquetFile

    filesystem, path = fsspec.core.url_to_fs(name)
    return ParquetFile(filesystem.open(path, "rb"), pre_buffer=True)
