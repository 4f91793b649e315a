"""Rows as Arrow record batches of bounded size: what the bulk stages hand to each other.

Whatever runs the stages elsewhere - an engine on a cluster, `datasets` in several processes - needs
only these batches; the schema is that of the dataset.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING

from echo4o.schema import Picture, Row, features

if TYPE_CHECKING:
    import pyarrow as pa

MAX_BATCH_BYTES = 32_000_000
"""A batch becomes a row group: small ones let a streaming reader show its first row soon."""
MAX_BATCH_ROWS = 1_000
_TEXT_BYTES = 2_000


def size_of(row: Row) -> int:
    """About the bytes that a row takes."""
    pictures = (*row.input_images, row.output_image)
    return _TEXT_BYTES + sum(len(picture.data) for picture in pictures)


def to_batch(rows: list[Row]) -> "pa.RecordBatch":
    """Rows as one record batch."""
    import pyarrow as pa

    schema = _schema()
    records = [row.to_dict() for row in rows]
    columns = {
        name: pa.array([record[name] for record in records], schema.field(name).type)
        for name in schema.names
        if name not in ("input_images", "output_image")
    }
    inputs = schema.field("input_images").type
    columns["input_images"] = pa.ListArray.from_arrays(
        _ends(len(row.input_images) for row in rows),
        _cells([picture for row in rows for picture in row.input_images]),
        type=inputs,
    )
    columns["output_image"] = _cells([row.output_image for row in rows])
    return pa.RecordBatch.from_pydict(columns, schema=schema)


@cache
def _schema() -> "pa.Schema":
    return features().arrow_schema


def _cells(pictures: list[Picture]) -> "pa.StructArray":
    """Of an `Image` column: the bytes are copied once, a builder would copy them as it grows."""
    import pyarrow as pa

    ends = _ends(len(picture.data) for picture in pictures).buffers()[1]
    data = pa.py_buffer(b"".join(picture.data for picture in pictures))
    column = pa.Array.from_buffers(pa.binary(), len(pictures), [None, ends, data])
    names = pa.array([picture.name for picture in pictures], pa.string())
    return pa.StructArray.from_arrays([column, names], ["bytes", "path"])


def _ends(lengths: Iterable[int]) -> "pa.Int32Array":
    import pyarrow as pa

    return pa.array([0, *accumulate(lengths)], pa.int32())


def batches(rows: Iterable[Row], max_bytes: int = MAX_BATCH_BYTES) -> "Iterator[pa.RecordBatch]":
    """Record batches of at most `max_bytes` (unless a single row has more) and 1,000 rows."""
    waiting: list[Row] = []
    total = 0
    for row in rows:
        size = size_of(row)
        if waiting and (total + size > max_bytes or len(waiting) == MAX_BATCH_ROWS):
            yield to_batch(waiting)
            waiting, total = [], 0
        waiting.append(row)
        total += size
    if waiting:
        yield to_batch(waiting)
