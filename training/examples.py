"""Rows made ready for BAGEL: token ids, latent moments, pixels for the vision tower.

Ready rows are kept in memory when all of them fit; otherwise each is made when it is needed. Every
distinct picture is then encoded once. Random draws happen later, at every use (bagel.py).
"""

import hashlib
import logging
from collections import defaultdict
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from transformers import Qwen2Tokenizer

from echo4o.launch import is_first_rank
from echo4o.models.bagel.processor import ResizeRule, to_pixels, to_rgb

from .data import Rows, TrainRow, UnusableRowError, decode_picture, picture_size
from .latents import Encoder, Moments

logger = logging.getLogger(__name__)

_TOGETHER = 32
"""Pictures of one size that are encoded at once when everything is made ready beforehand."""


class Reference(NamedTuple):
    """A reference picture, for both of its segments."""

    moments: Moments
    pixels_HWC: np.ndarray
    """uint8, resized for the vision tower."""


class Example(NamedTuple):
    """A row without its random parts."""

    id: str
    token_ids: list[int]
    references: tuple[Reference, ...]
    target: Moments


class _Draft(NamedTuple):
    """A row whose pictures wait to be encoded; pictures by the hash of their bytes."""

    number: int
    id: str
    token_ids: list[int]
    references: tuple[str, ...]
    target: str


class Examples:
    """Makes rows ready, beforehand or one by one.

    Args:
        rows: The dataset.
        tokenizer: Encodes instructions.
        encoder: The autoencoder.
        vae_rule: Resizes pictures for the autoencoder.
        vit_rule: Resizes references for the vision tower.
        cell: Pixels per latent token and side.
        copies: Noised copies of a target.
        cache_bytes: Memory for ready rows; 0 keeps none.
    """

    def __init__(
        self,
        rows: Rows,
        tokenizer: Qwen2Tokenizer,
        encoder: Encoder,
        *,
        vae_rule: ResizeRule,
        vit_rule: ResizeRule,
        cell: int,
        copies: int,
        cache_bytes: int,
    ) -> None:
        self._rows, self._tokenizer, self._encoder = rows, tokenizer, encoder
        self._vae_rule, self._vit_rule, self._cell = vae_rule, vit_rule, cell
        self._copies = copies
        self._cache_bytes = cache_bytes
        self._ready: dict[int, Example] | None = None
        self._lengths: dict[int, int | None] = {}

    def prepare(self) -> list[int]:
        """Make all rows ready if they fit into the cache; returns the numbers of usable rows."""
        if self._cache_bytes:
            self._ready = self._make_all()
        return list(range(len(self._rows)) if self._ready is None else self._ready)

    def __getitem__(self, row: int) -> Example:
        """A row, ready.

        Raises:
            UnusableRowError: it lacks its text or a picture that decodes.
        """
        return self._make(self._rows[row]) if self._ready is None else self._ready[row]

    def length(self, row: int) -> int | None:
        """Tokens with markers when nothing is dropped; None for an unusable row."""
        if row not in self._lengths:
            try:
                self._lengths[row] = self._count(self._rows[row])
            except UnusableRowError as error:
                self._rows.skip(row, str(error))
                self._lengths[row] = None
        return self._lengths[row]

    def _count(self, row: TrainRow) -> int:
        def tokens(data: bytes, rule: ResizeRule, side: int) -> int:
            width, height = rule.size(*picture_size(data))
            return (width // side) * (height // side) + 2

        vit, patch = self._vit_rule, self._vit_rule.stride
        total = len(self._tokenizer.encode(row.instruction)) + 2
        total += sum(tokens(data, vit, patch) for data in row.references)
        latents = (*row.references, *[row.target] * self._copies)
        return total + sum(tokens(data, self._vae_rule, self._cell) for data in latents)

    def _make(self, row: TrainRow) -> Example:
        """One row by itself: the same numbers whatever else is in the batch."""
        pictures = [_decode_rgb(data) for data in (*row.references, row.target)]
        moments = [self._encoder.moments([self._vae_pixels(picture)])[0] for picture in pictures]
        references = tuple(
            Reference(latent, self._vit_pixels(picture))
            for latent, picture in zip(moments[:-1], pictures, strict=False)
        )
        ids = self._tokenizer.encode(row.instruction)
        return Example(row.id, ids, references, moments[-1])

    def _make_all(self) -> dict[int, Example] | None:
        """All usable rows, or None when they exceed the cache."""
        pictures = _PictureCache(self._encoder)
        drafts: list[_Draft] = []
        numbers = range(len(self._rows))
        for number in tqdm(numbers, desc="encode", unit="row", disable=not is_first_rank()):
            try:
                drafts.append(self._draft(self._rows[number], pictures))
            except UnusableRowError as error:
                self._rows.skip(number, str(error))
            if pictures.bytes > self._cache_bytes:
                logger.info("the latents exceed `latent_cache_mb`: encoding at every use")
                return None
        pictures.finish()
        return {draft.number: pictures.complete(draft) for draft in drafts}

    def _draft(self, row: TrainRow, pictures: "_PictureCache") -> _Draft:
        data = (*row.references, row.target)
        decoded = [_decode_rgb(picture) for picture in data]
        keys = [hashlib.sha256(picture).hexdigest() for picture in data]
        for key, picture in zip(keys, decoded, strict=True):
            if not pictures.knows(key):
                pictures.add(key, self._vae_pixels(picture))
        for key, picture in zip(keys[:-1], decoded, strict=False):
            if key not in pictures.vit:
                pictures.add_vit(key, self._vit_pixels(picture))
        ids = self._tokenizer.encode(row.instruction)
        return _Draft(row.number, row.id, ids, tuple(keys[:-1]), keys[-1])

    def _vae_pixels(self, picture: Image.Image) -> Tensor:
        return to_pixels(self._vae_rule.resize(picture))

    def _vit_pixels(self, picture: Image.Image) -> np.ndarray:
        return np.array(self._vit_rule.resize(picture))


class _PictureCache:
    """Distinct pictures, encoded in batches of one size, in the order they came."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._waiting: dict[tuple[int, ...], dict[str, Tensor]] = defaultdict(dict)
        self._moments: dict[str, Moments | None] = {}
        self.vit: dict[str, np.ndarray] = {}
        self.bytes = 0

    def knows(self, key: str) -> bool:
        return key in self._moments

    def add(self, key: str, pixels: Tensor) -> None:
        self._moments[key] = None
        batch = self._waiting[tuple(pixels.shape)]
        batch[key] = pixels
        if len(batch) == _TOGETHER:
            self._encode(batch)

    def add_vit(self, key: str, pixels: np.ndarray) -> None:
        self.vit[key] = pixels
        self.bytes += pixels.nbytes

    def finish(self) -> None:
        for batch in self._waiting.values():
            if batch:
                self._encode(batch)

    def _encode(self, batch: dict[str, Tensor]) -> None:
        for key, moments in zip(batch, self._encoder.moments(list(batch.values())), strict=True):
            self._moments[key] = moments
            self.bytes += moments.mean_Chw.nbytes + moments.std_Chw.nbytes
        batch.clear()

    def complete(self, draft: _Draft) -> Example:
        references = tuple(Reference(self._done(key), self.vit[key]) for key in draft.references)
        return Example(draft.id, draft.token_ids, references, self._done(draft.target))

    def _done(self, key: str) -> Moments:
        moments = self._moments[key]
        assert moments is not None, "finish() encodes everything that was added"
        return moments


def _decode_rgb(data: bytes) -> Image.Image:
    try:
        return to_rgb(decode_picture(data))
    except ValueError:
        raise UnusableRowError("a picture has more than 8 bits per channel") from None
