"""Rows made ready for OmniGen2: the instruction, and pictures for the autoencoder.

Reading and resizing need no model and may happen in other processes (`load`). When the latents of
all rows fit into memory every distinct picture is encoded once, else at every use.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from echo4o.launch import is_first_rank
from echo4o.models.bagel.processor import to_rgb
from echo4o.models.omnigen2.processor import reference_size, resized_to
from echo4o.models.omnigen2.transformer import MAX_REFERENCES

from .data import Rows, TrainRow, UnusableRowError, decode_picture, picture_size
from .latents import Encoder, Moments, normalised
from .parts import OmniGen2Settings

logger = logging.getLogger(__name__)

_TOGETHER = 32
"""Pictures of one size that are encoded at once when everything is made ready beforehand."""


class Key(NamedTuple):
    """Names one resized picture."""

    sha256: str
    """Of the encoded picture."""
    size: tuple[int, int]
    """Width and height that it is shrunk to."""


class Picture(NamedTuple):
    """A picture that is encoded, or waits for it."""

    key: Key
    pixels_HWC: np.ndarray | None
    """uint8; None where its latents are at hand."""


class Example(NamedTuple):
    """A row without its random parts."""

    id: str
    instruction: str
    pictures: tuple[Picture, ...]
    """The references in order, then the picture to draw."""


class Examples:
    """Makes rows ready, beforehand or one by one.

    Args:
        rows: The dataset.
        encoder: The autoencoder.
        settings: Sizes of pictures.
        memory: Bytes for latents; 0 keeps none.
    """

    def __init__(
        self, rows: Rows, encoder: Encoder, settings: OmniGen2Settings, *, memory: int
    ) -> None:
        self._rows, self._encoder, self._settings = rows, encoder, settings
        self._memory = memory
        self._latents: dict[Key, Moments] = {}
        self._held = 0
        self._ready: dict[int, Example] | None = None

    def prepare(self) -> list[int]:
        """Encode all pictures if their latents fit into memory; numbers of the usable rows."""
        if self._memory:
            self._ready = self._encode_all()
        if self._ready is None:
            self._latents.clear()
            return list(range(len(self._rows)))
        return list(self._ready)

    @property
    def all_ready(self) -> bool:
        """Whether every row is in memory."""
        return self._ready is not None

    def load(self, row: int) -> Example:
        """A row whose pictures may wait for the autoencoder.

        Raises:
            UnusableRowError: it lacks its text or a picture that decodes, or has too many.
        """
        return self._read(self._rows[row]) if self._ready is None else self._ready[row]

    def moments(self, examples: Sequence[Example]) -> list[list[Moments]]:
        """Latents of each example's pictures, encoded where they are not at hand."""
        waiting = {p.key: p for one in examples for p in one.pictures if p.pixels_HWC is not None}
        groups: dict[tuple[int, int], list[Picture]] = defaultdict(list)
        for picture in waiting.values():
            groups[picture.key.size].append(picture)
        found: dict[Key, Moments] = {}
        for group in groups.values():
            found |= self._encoded(group)
        return [
            [found[p.key] if p.key in found else self._latents[p.key] for p in one.pictures]
            for one in examples
        ]

    def patches(self, row: int) -> int:
        """Tokens of a row's pictures.

        Raises:
            UnusableRowError: as `load`, as far as headers tell.
        """
        cells = [
            self._size(picture_size(data), budget) for data, budget in _pictures(self._rows[row])
        ]
        return sum((width // 16) * (height // 16) for width, height in cells)

    def _size(self, size: tuple[int, int], references: int) -> tuple[int, int]:
        try:
            return reference_size(*size, self._limit(references), self._settings.max_side)
        except ValueError:
            raise UnusableRowError("a picture is too narrow") from None

    def _limit(self, references: int) -> int:
        """Pixels of one of that many references; 0 stands for the picture to draw."""
        settings = self._settings
        return settings.reference_pixels[:references][-1] if references else settings.max_pixels

    def _read(self, row: TrainRow) -> Example:
        pictures = []
        for data, references in _pictures(row):
            size = self._size(picture_size(data), references)
            key = Key(hashlib.sha256(data).hexdigest(), size)
            pictures.append(Picture(key, None if key in self._latents else self._pixels(data, key)))
        return Example(row.id, row.instruction, tuple(pictures))

    def _pixels(self, data: bytes, key: Key) -> np.ndarray:
        try:
            picture = to_rgb(decode_picture(data))
        except ValueError:
            raise UnusableRowError("a picture has more than 8 bits per channel") from None
        return np.array(resized_to(picture, key.size))

    def _encode_all(self) -> dict[int, Example] | None:
        """All usable rows, or None when their latents exceed the memory."""
        ready: dict[int, Example] = {}
        waiting: dict[tuple[int, int], dict[Key, Picture]] = defaultdict(dict)
        numbers = range(len(self._rows))
        for number in tqdm(numbers, desc="encode", unit="row", disable=not is_first_rank()):
            try:
                example = self._read(self._rows[number])
            except UnusableRowError as error:
                self._rows.skip(number, str(error))
                continue
            for picture in example.pictures:
                batch = waiting[picture.key.size]
                if picture.pixels_HWC is not None:
                    batch[picture.key] = picture
                if len(batch) == _TOGETHER:
                    self._keep(batch)
            named = tuple(Picture(picture.key, None) for picture in example.pictures)
            ready[number] = example._replace(pictures=named)
            if self._held > self._memory:
                logger.info("the latents exceed `latent_cache_mb`: encoding at every use")
                return None
        for batch in waiting.values():
            self._keep(batch)
        return ready

    def _keep(self, batch: dict[Key, Picture]) -> None:
        if batch:
            found = self._encoded(list(batch.values()))
            self._latents |= found
            self._held += sum(m.mean_Chw.nbytes + m.std_Chw.nbytes for m in found.values())
        batch.clear()

    def _encoded(self, pictures: Sequence[Picture]) -> dict[Key, Moments]:
        """Pictures of one size."""
        pixels = [normalised(p.pixels_HWC) for p in pictures if p.pixels_HWC is not None]
        found = self._encoder.moments(pixels)
        return dict(zip((picture.key for picture in pictures), found, strict=True))


def _pictures(row: TrainRow) -> list[tuple[bytes, int]]:
    """A row's encoded pictures, each with the number of references it shares the limit with.

    Raises:
        UnusableRowError: there is nothing to draw, or there are too many references.
    """
    if row.target is None:
        raise UnusableRowError("it has no picture to draw, which is all that OmniGen2 learns")
    count = len(row.references)
    if count > MAX_REFERENCES:
        raise UnusableRowError(f"it has more than {MAX_REFERENCES} references")
    return [*((data, count) for data in row.references), (row.target, 0)]
