"""Rows as Arrow record batches of bounded size: what the bulk stages hand to each other.

Whatever runs the stages elsewhere - an engine on a cluster, `datasets` in several processes - needs
only these batches; the schema is that of the dataset.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from echo4o.schema import Row, features

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

    return pa.RecordBatch.from_pylist(
        [row.to_dict() for row in rows], schema=features().arrow_schema
    )


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
