"""Rows made ready for families whose pictures a frozen network encodes: text, and encoded pictures.

Reading and resizing need no model and may happen in other processes (`load`). What `train cache`
left on disk is used. When what the rows need fits into memory, every distinct picture is encoded
once, else at every use.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from echo4o.launch import is_first_rank
from echo4o.models.pixels import to_rgb

from .data import Rows, TrainRow, UnusableRowError, decode_picture
from .processes import rank_and_world
from .store import DiskShelf

logger = logging.getLogger(__name__)

V = TypeVar("V")

_TOGETHER = 32
"""Pictures of one size that are encoded at once when everything is made ready beforehand."""


class Key(NamedTuple):
    """Names one resized picture."""

    sha256: str
    """Of the encoded picture."""
    size: tuple[int, int]
    """Width and height that it is brought to."""

    @property
    def text(self) -> str:
        """What tells it from all others."""
        return f"{self.sha256} {self.size[0]}x{self.size[1]}"


class Wanted(NamedTuple):
    """A picture of a row, still a file."""

    data: bytes
    size: tuple[int, int]
    """Width and height that it is brought to."""


class Picture(NamedTuple):
    """A picture that is encoded, or waits for it."""

    key: Key
    pixels_HWC: np.ndarray | None
    """uint8; None where what it encodes to is at hand."""


class Example(NamedTuple):
    """A row without its random parts."""

    id: str
    instruction: str
    pictures: tuple[Picture, ...]
    """The references in order, then the picture to draw."""


class Codec(Protocol[V]):
    """What a family needs of pictures, and the network that encodes them."""

    kind: str
    """Under which an encoded picture lies on disk."""

    def wanted(self, row: TrainRow) -> list[Wanted]:
        """The pictures of a row: references in order, then the one to draw.

        Raises:
            UnusableRowError: it lacks one, or has one that the family cannot use.
        """

    def pixels(self, picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
        """An RGB picture brought to that size, (H, W, 3) uint8."""

    def encode(self, pixels_HWC: Sequence[np.ndarray]) -> list[V]:
        """Encode pictures of one size."""

    def bytes_of(self, value: V) -> int:
        """How much memory an encoded picture takes."""

    def find(self, shelf: DiskShelf, key: Key) -> V | None:
        """An encoded picture that lies on disk."""

    def keep(self, shelf: DiskShelf, key: Key, value: V) -> None:
        """Put an encoded picture there."""


class Examples(Generic[V]):
    """Makes rows ready, beforehand or one by one.

    Args:
        rows: The dataset.
        codec: Which pictures, and how they are encoded.
        memory: Bytes for encoded pictures; 0 keeps none.
        shelf: Where encoded pictures may lie already.
    """

    def __init__(
        self, rows: Rows, codec: Codec[V], *, memory: int, shelf: DiskShelf | None
    ) -> None:
        self._rows, self._codec, self._memory, self._shelf = rows, codec, memory, shelf
        self._held: dict[Key, V] = {}
        self._bytes = 0
        self._ready: dict[int, Example] | None = None

    def prepare(self) -> list[int]:
        """Encode all pictures if they then fit into memory; numbers of the usable rows."""
        if self._memory:
            self._ready = self._make_all()
        if self._ready is None:
            self._held.clear()
            self._bytes = 0
            return list(range(len(self._rows)))
        return list(self._ready)

    @property
    def all_ready(self) -> bool:
        """Whether every row is in memory."""
        return self._ready is not None

    def load(self, row: int) -> Example:
        """A row whose pictures may wait for the network.

        Raises:
            UnusableRowError: it lacks its text or a picture that decodes, or has too many.
        """
        if self._ready is None:
            return self._read(self._rows[row])
        self._rows.refuse_known(row)
        return self._ready[row]

    def sizes(self, row: int) -> list[tuple[int, int]]:
        """Width and height that each picture of a row is brought to.

        Raises:
            UnusableRowError: as `load`, as far as headers tell.
        """
        return [one.size for one in self._codec.wanted(self._rows[row])]

    def values(self, examples: Sequence[Example]) -> list[list[V]]:
        """Each example's pictures, encoded where that was not done before."""
        waiting = {p.key: p for one in examples for p in one.pictures if p.pixels_HWC is not None}
        groups: dict[tuple[int, int], list[Picture]] = defaultdict(list)
        for picture in waiting.values():
            groups[picture.key.size].append(picture)
        found: dict[Key, V] = {}
        for group in groups.values():
            found |= self._encoded(group)
        return [
            [found[p.key] if p.key in found else self._at_hand(p.key) for p in one.pictures]
            for one in examples
        ]

    def fill(self, shelf: DiskShelf) -> int:
        """Put the pictures of this process's share of the rows on disk; how many rows these are."""
        self._shelf = shelf
        rank, world = rank_and_world()
        rows = sum(1 for _ in self._made(range(rank, len(self._rows), world), shelf))
        shelf.flush()
        return rows

    def _read(self, row: TrainRow) -> Example:
        pictures = []
        for data, size in self._codec.wanted(row):
            key = Key(hashlib.sha256(data).hexdigest(), size)
            pictures.append(Picture(key, None if self._has(key) else self._pixels(data, key)))
        return Example(row.id, row.instruction, tuple(pictures))

    def _has(self, key: Key) -> bool:
        on_disk = self._shelf is not None and self._shelf.has(self._codec.kind, key)
        return key in self._held or on_disk

    def _at_hand(self, key: Key) -> V:
        if key in self._held:
            return self._held[key]
        found = None if self._shelf is None else self._codec.find(self._shelf, key)
        assert found is not None, "a picture without pixels is in memory or on disk"
        return found

    def _pixels(self, data: bytes, key: Key) -> np.ndarray:
        try:
            picture = to_rgb(decode_picture(data))
        except ValueError:
            raise UnusableRowError("a picture has more than 8 bits per channel") from None
        return self._codec.pixels(picture, key.size)

    def _make_all(self) -> dict[int, Example] | None:
        """All usable rows, or None when what they need exceeds the memory."""
        ready: dict[int, Example] = {}
        for number, example in self._made(range(len(self._rows)), None):
            ready[number] = example
            if self._bytes > self._memory:
                logger.info("the pictures exceed `latent_cache_mb`: encoding at every use")
                return None
        return ready

    def _made(self, numbers: range, shelf: DiskShelf | None) -> Iterator[tuple[int, Example]]:
        """Usable rows of these numbers; in the end their pictures are on the shelf, or held."""
        waiting: dict[tuple[int, int], dict[Key, Picture]] = defaultdict(dict)
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
                    self._put(batch, shelf)
            named = tuple(Picture(picture.key, None) for picture in example.pictures)
            yield number, example._replace(pictures=named)
        for batch in waiting.values():
            self._put(batch, shelf)

    def _put(self, batch: dict[Key, Picture], shelf: DiskShelf | None) -> None:
        for key, value in (self._encoded(list(batch.values())) if batch else {}).items():
            if shelf is not None:
                self._codec.keep(shelf, key, value)
            elif key not in self._held:
                self._held[key] = value
                self._bytes += self._codec.bytes_of(value)
        batch.clear()

    def _encoded(self, pictures: Sequence[Picture]) -> dict[Key, V]:
        """Pictures of one size."""
        found = self._codec.encode([p.pixels_HWC for p in pictures if p.pixels_HWC is not None])
        return dict(zip((picture.key for picture in pictures), found, strict=True))
