"""Reads the dataset: rows over all sources of the mixture, undecoded, and their pictures.

The order of rows is not decided here (order.py), nor what a row becomes (the family).
"""

import dataclasses
import functools
import hashlib
import io
import logging
import struct
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from huggingface_hub import constants
from PIL import ExifTags, Image

from echo4o import hub, loading
from echo4o.errors import Echo4oError
from echo4o.hub_errors import patiently
from echo4o.pictures import MAX_PIXELS
from echo4o.records import Input

from .columns import KEPT, needed
from .config import TrainConfig
from .remote import RemoteRows

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

_DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error, IndexError)


class UnusableRowError(Echo4oError):
    """A row that cannot be trained on; it is skipped and counted by its reason."""


class TrainRow(NamedTuple):
    """What training needs of a row, pictures still encoded."""

    number: int
    """Number over all sources of the mixture."""
    id: str
    instruction: str
    references: tuple[bytes, ...]
    """In the order the instruction means."""
    target: bytes | None
    """The picture to draw."""
    answer: str | None
    """The text to write."""


class Rows:
    """Random access to the rows of all sources; row numbers run through them one after another."""

    def __init__(self, datasets: Sequence["Dataset | RemoteRows"], source: Input) -> None:
        self._datasets = list(datasets)
        self._source = source
        self._starts = [0]
        for dataset in self._datasets:
            self._starts.append(self._starts[-1] + len(dataset))
        self.refused: dict[int, str] = {}

    def __len__(self) -> int:
        return self._starts[-1]

    def sources(self) -> list[range]:
        """Row numbers of each source."""
        return [range(*ends) for ends in zip(self._starts, self._starts[1:], strict=False)]

    def __getitem__(self, number: int) -> TrainRow:
        """One row.

        Raises:
            UnusableRowError: the row lacks its text, a picture, or something to learn.
        """
        source = next(i for i, rows in enumerate(self.sources()) if number in rows)
        cells = self._datasets[source][number - self._starts[source]]
        name = str(cells.get("id") or number)
        instruction = cells["instruction"]
        if not instruction or not instruction.strip():
            raise UnusableRowError("no instruction")
        references = tuple(_bytes_of(cell) for cell in cells.get("input_images") or ())
        answer = (cells.get("answer") or "").strip() or None
        picture = cells.get("output_image")
        target = _bytes_of(picture) if picture or answer is None else None
        return TrainRow(number, name, instruction, references, target, answer)

    def instructions(self) -> list[str]:
        """All texts, in order of row numbers (the dataset's pictures are not read)."""
        columns = (_column(dataset, "instruction") for dataset in self._datasets)
        return [text or "" for column in columns for text in column]

    def blocks(self) -> list[Sequence[range] | None]:
        """Of each source, rows that are fetched together; None where every row is at hand."""
        return [
            [range(start + block.start, start + block.stop) for block in dataset.blocks]
            if isinstance(dataset, RemoteRows)
            else None
            for dataset, start in zip(self._datasets, self._starts, strict=False)
        ]

    @functools.cached_property
    def subsets(self) -> tuple[str, ...]:
        """Names of the subsets, in alphabetical order; "rows" stands for those that name none."""
        return tuple(sorted(set(self._subset_names)))

    def subset_of(self, number: int) -> int:
        """Place of a row's subset in `subsets`."""
        return self.subsets.index(self._subset_names[number])

    @functools.cached_property
    def _subset_names(self) -> list[str]:
        names: list[str] = []
        for dataset in self._datasets:
            if "subset" in dataset.column_names:
                names += [str(name or "rows") for name in _column(dataset, "subset")]
            else:
                names += ["rows"] * len(dataset)
        return names

    def skip(self, number: int, reason: str) -> None:
        """Count a row that cannot be used (once, however often it comes)."""
        if number not in self.refused:
            self.refused[number] = reason
            logger.debug("row %d is skipped: %s", number, reason)

    def refuse_known(self, number: int) -> None:
        """Stop at a row that was found unusable before.

        Raises:
            UnusableRowError: it was, for this reason.
        """
        if number in self.refused:
            raise UnusableRowError(self.refused[number])

    @property
    def skipped(self) -> Counter[str]:
        """Rows that cannot be used, by reason."""
        return Counter(self.refused.values())

    def skipped_in_words(self) -> str:
        """How many rows are skipped, and why."""
        reasons = ", ".join(f"{reason}: {count}" for reason, count in self.skipped.items())
        return f"{len(self.refused)} of {len(self)} rows ({reasons})"

    def refuse_if_none(self, usable: int) -> None:
        """Stop with the reasons when no row can be used."""
        if not usable:
            raise Echo4oError(f"no row can be used; left out: {self.skipped_in_words()}")

    @property
    def source(self) -> Input:
        """The dataset as a record names it, with the digest of its rows."""
        return dataclasses.replace(self._source, sha256=self.digest)

    @functools.cached_property
    def digest(self) -> str:
        """Identifies the rows by their ids and texts, so that a resume notices other data."""
        found = hashlib.sha256()
        if any(isinstance(dataset, RemoteRows) for dataset in self._datasets):
            return "/".join(d.digest for d in self._datasets if isinstance(d, RemoteRows))
        for dataset in self._datasets:
            if "id" in dataset.column_names:
                found.update("\0".join(map(str, _column(dataset, "id"))).encode())
        found.update("\0".join(self.instructions()).encode())
        return found.hexdigest()


def load_rows(config: TrainConfig) -> Rows:
    """Load every source of the mixture with weight above 0.

    Raises:
        Echo4oError: a source has no rows or lacks a column that training needs.
    """
    path, revision = loading.source(config.data), config.revision
    if Path(path).is_dir():
        if (Path(path) / "plan.jsonl").is_file():
            raise Echo4oError(f"{path} is a plan and no dataset yet; run `echo4o data build` first")
        source = Input(kind="dataset", id=Path(path).resolve().name)
    else:
        if path.startswith((".", "/", "~")) or path.count("/") != 1:
            raise Echo4oError(
                f"there is no folder {path}; give a dataset folder or a Hub id (ORG/NAME)"
            )
        if not constants.HF_HUB_OFFLINE:
            # The commit, so that the record says what was read even if a branch moves meanwhile.
            revision = hub.resolve(path, "dataset", revision)
        source = Input(kind="dataset", id=path, revision=revision)
    names = [name for name, weight in config.mixture if weight > 0]
    load = _stream if config.streaming else _load
    return Rows([load(path, revision, name, config.split) for name in names], source)


def pinned(config: TrainConfig) -> TrainConfig:
    """The configuration with the commit of a base model on the Hub, whose branch may move."""
    model = config.base_model
    if model is None or Path(model).is_dir() or model.startswith((".", "/", "~")):
        return config
    if constants.HF_HUB_OFFLINE:
        return config
    return dataclasses.replace(
        config, base_revision=hub.resolve(model, "model", config.base_revision)
    )


def _load(path: str, revision: str | None, name: str, split: str) -> "Dataset":
    import datasets

    cache = loading.cache_folder(Path(path)) if Path(path).is_dir() else None
    try:
        # `datasets` has some patience with the Hub, but none with a connection that is cut.
        builder = patiently(
            f"look up {path}", lambda: loading.builder(path, name, revision, cache_dir=cache)
        )
        patiently(f"load {path}", builder.download_and_prepare)
        dataset = builder.as_dataset(split=split)
    except datasets.exceptions.DataFilesNotFoundError as error:
        raise Echo4oError(f"{path} holds no dataset: {error}") from None
    except datasets.exceptions.DatasetGenerationError as error:
        # Its words for a Parquet file without a row.
        if "BatchSize must be greater than 0" not in str(error.__cause__):
            raise
        raise Echo4oError(f"{path} ({name}, {split}) has no rows") from None
    except ValueError as error:  # what `datasets` says of an unknown config or split
        raise Echo4oError(
            f"{path} ({name}, {split}) cannot be loaded: {error}; choose with "
            f"--set mixture=CONFIG:WEIGHT and --set split=NAME"
        ) from error
    kept = needed(dataset.features.arrow_schema, f"{path} ({name})")
    if not len(dataset):
        raise Echo4oError(f"{path} ({name}, {split}) has no rows")
    return _undecoded(dataset.select_columns(kept))


def _stream(path: str, revision: str | None, name: str, split: str) -> RemoteRows:
    """Rows of the Parquet files that a config's split consists of, which stay where they are."""
    try:
        builder = patiently(f"look up {path}", lambda: loading.builder(path, name, revision))
    except (FileNotFoundError, ValueError) as error:
        raise Echo4oError(f"{path} ({name}) cannot be streamed: {error}") from None
    files = [str(file) for file in (builder.config.data_files or {}).get(split, [])]
    if not files or not all(file.endswith(".parquet") for file in files):
        raise Echo4oError(
            f"{path} ({name}, {split}) has no Parquet files to stream; set streaming=false"
        )
    rows = RemoteRows(files, KEPT)
    for file, schema in zip(files, rows.schemas, strict=True):
        needed(schema, f"{file.rpartition('/')[2]} of {path} ({name})")
    if not len(rows):
        raise Echo4oError(f"{path} ({name}, {split}) has no rows")
    return rows


def _column(dataset: "Dataset | RemoteRows", name: str) -> list[Any]:
    """One column, whatever else the rows hold."""
    if isinstance(dataset, RemoteRows):
        return dataset.column(name)
    return list(dataset.with_format(None)[name])


def _undecoded(dataset: "Dataset") -> "Dataset":
    import datasets

    picture = datasets.Image(decode=False)
    for name, kind in {"output_image": picture, "input_images": datasets.List(picture)}.items():
        if name in dataset.column_names:
            dataset = dataset.cast_column(name, kind)
    return dataset


def _bytes_of(cell: Mapping[str, Any] | bytes | None) -> bytes:
    data = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if not data:
        is_path = isinstance(cell, Mapping) and cell.get("path")
        what = "a picture is only a path, its bytes are not stored"
        raise UnusableRowError(what if is_path else "a picture is missing")
    return cast(bytes, data)


def picture_size(data: bytes) -> tuple[int, int]:
    """Width and height as they are seen, from what stands before the pixels.

    Raises:
        UnusableRowError: not a picture, or a larger one than MAX_PIXELS.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data)) as picture:
                width, height = picture.size[::-1] if _lies_on_its_side(picture) else picture.size
        except Image.DecompressionBombError:
            raise UnusableRowError("a picture is too large") from None
        except _DECODE_ERRORS:
            raise UnusableRowError("a picture does not decode") from None
    if width * height > MAX_PIXELS:
        raise UnusableRowError("a picture is too large")
    return width, height


def _lies_on_its_side(picture: Image.Image) -> bool:
    """Whether EXIF says so. Pillow turns a TIFF itself, and decodes a PNG to look behind it."""
    if picture.format == "TIFF" or (picture.format == "PNG" and "exif" not in picture.info):
        return False
    return picture.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)


def decode_picture(data: bytes) -> Image.Image:
    """Decode a picture, in its own mode.

    Raises:
        UnusableRowError: it does not decode or is larger than MAX_PIXELS.
    """
    picture_size(data)
    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except _DECODE_ERRORS:
        raise UnusableRowError("a picture does not decode") from None
    return picture
