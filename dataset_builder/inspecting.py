"""Looks at every picture of a built dataset without a model: damaged, repeated, with credentials.

For datasets that were imported, where no check went before. Works through record batches, so that
memory holds one batch and some 400 bytes for each row.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from echo4o.records import JsonValue
from echo4o.schema import SUBSETS, dump_json, json_list, json_object

from .credentials import find_credentials
from .duplicates import find_duplicates, group_of
from .perceptual import hash_batch
from .sampling import dataset_files

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ["id", "subset", "instruction", "constraints", "references", "output_image"]
_BATCH_ROWS = 64


@dataclass(slots=True)
class Inspection:
    """What was found; `lines` is a file that `data remove --ids` reads."""

    rows: int = 0
    credentials: int = 0
    damaged: list[str] = field(default_factory=list)
    """Ids of rows whose picture does not decode."""
    repeats: dict[str, str] = field(default_factory=dict)
    """Row -> the earlier row that it repeats."""

    def to_dict(self) -> dict[str, JsonValue]:
        """The counts as JSON."""
        return {
            "decoded": self.rows - len(self.damaged),
            "damaged": len(self.damaged),
            "near_duplicates": len(self.repeats),
            "content_credentials": self.credentials,
        }

    def lines(self) -> Iterator[str]:
        """Damaged rows, then near-duplicates, as JSON lines."""
        for row_id in self.damaged:
            yield dump_json({"id": row_id, "reason": "does not decode"}) + "\n"
        for row_id, first in self.repeats.items():
            told: dict[str, JsonValue] = {"id": row_id, "reason": "near-duplicate"}
            yield dump_json(told | {"duplicate_of": first}) + "\n"


def inspect(
    dataset: str, config: str = "all", revision: str | None = None, *, progress: bool = False
) -> Inspection:
    """Decode every target picture of a folder or Hub id.

    Raises:
        Echo4oError: the dataset has no Parquet files where ours has them.
    """
    from tqdm import tqdm

    found = Inspection()
    with tqdm(desc="pictures", unit=" rows", disable=not progress) as bar:
        marks = find_duplicates(_hashed(dataset, config, revision, found, bar.update))
    names = ("id", "duplicate_of")
    found.repeats = dict(zip(*(marks.column(name).to_pylist() for name in names), strict=True))
    return found


def _hashed(
    dataset: str,
    config: str,
    revision: str | None,
    found: Inspection,
    tell: Callable[[int], object],
) -> "Iterator[pa.RecordBatch]":
    """`id`, `group`, `views` of all rows; counts what it sees on the way."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    system, files = dataset_files(dataset, SUBSETS if config == "all" else (config,), revision)
    for path in files:
        with system.open(path) as file:
            for batch in pq.ParquetFile(file).iter_batches(_BATCH_ROWS, columns=_COLUMNS):
                pictures = batch.column("output_image").field("bytes")
                ids = batch.column("id")
                hashed = hash_batch(pa.RecordBatch.from_arrays([ids, pictures], ["id", "picture"]))
                views = hashed.column("views")
                found.rows += len(ids)
                found.damaged += ids.filter(views.is_null()).to_pylist()
                found.credentials += sum(
                    find_credentials(one.as_py() or b"").present for one in pictures
                )
                groups = [_group(row) for row in batch.drop_columns(["output_image"]).to_pylist()]
                yield pa.RecordBatch.from_arrays(
                    [ids, pa.array(groups, pa.string()), views], ["id", "group", "views"]
                )
                tell(len(ids))


def _group(row: Mapping[str, object]) -> str:
    return group_of(
        str(row["subset"]),
        str(row["instruction"]),
        json_object(row, "constraints"),
        [str(one.get("sha256")) for one in json_list(row, "references")],
    )
