"""Rows made ready for BAGEL: token ids, latent moments, pixels for the vision tower.

Reading and resizing need no model and may happen in other processes (`load`); the autoencoder works
here (`finish`). Ready rows are kept in memory when all of them fit, and every distinct picture is
then encoded once. Random draws happen later, at every use (samples.py).
"""

import hashlib
import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm
from transformers import Qwen2Tokenizer

from echo4o.launch import is_first_rank
from echo4o.models.bagel.processor import ResizeRule
from echo4o.models.pixels import to_rgb
from echo4o.schema import MAX_REFERENCES

from .data import Rows, TrainRow, UnusableRowError, decode_picture, picture_size
from .latents import Encoder, Moments, normalised
from .processes import gather_objects, rank_and_world
from .references import renumber
from .sizes import Sizes
from .store import DiskShelf, Key, MemoryShelf, Shelf

logger = logging.getLogger(__name__)

_TOGETHER = 32
"""Pictures of one size that are encoded at once when everything is made ready beforehand."""


class Latent(NamedTuple):
    """A picture for the autoencoder, encoded or still waiting for it."""

    key: Key
    moments: Moments | None
    pixels_HWC: np.ndarray
    """uint8, resized; empty where it is encoded."""


class Reference(NamedTuple):
    """A reference picture; without its latent when it is only looked at."""

    latent: Latent | None
    pixels_HWC: np.ndarray
    """uint8, resized for the vision tower."""


class Example(NamedTuple):
    """A row without its random parts."""

    id: str
    instruction: str
    token_ids: list[int]
    references: tuple[Reference, ...]
    target: Latent | None
    """The picture to draw."""
    answer_ids: list[int] | None
    """The text to write."""


class Examples:
    """Makes rows ready, beforehand or one by one.

    Args:
        rows: The dataset.
        tokenizer: Encodes texts.
        encoder: The autoencoder.
        sizes: Of pictures.
        memory: Bytes for ready rows; 0 keeps none.
        shelf: Where encoded pictures may lie already.
        padded: Pad the pictures of a pack to one size, as the authors do.
    """

    def __init__(
        self,
        rows: Rows,
        tokenizer: Qwen2Tokenizer,
        encoder: Encoder,
        sizes: Sizes,
        *,
        memory: int,
        shelf: Shelf | None,
        padded: bool,
    ) -> None:
        self._rows, self._tokenizer, self._encoder, self._sizes = rows, tokenizer, encoder, sizes
        self._memory, self._shelf, self._padded = memory, shelf, padded
        self._ready: dict[int, Example] | None = None
        self._lengths: dict[int, int | None] = {}

    def prepare(self) -> list[int]:
        """Make all rows ready if they fit into memory; returns the numbers of usable rows."""
        if self._memory and not self._padded:
            self._ready = self._make_all()
        return list(range(len(self._rows)) if self._ready is None else self._ready)

    @property
    def all_ready(self) -> bool:
        """Whether every row is in memory."""
        return self._ready is not None

    def load(self, row: int) -> Example:
        """A row whose pictures may wait for the autoencoder.

        Raises:
            UnusableRowError: it lacks its text or a picture that decodes.
        """
        if self._ready is None:
            return self._load(self._rows[row], self._shelf)
        self._rows.refuse_known(row)
        return self._ready[row]

    def finish(self, examples: Sequence[Example]) -> list[Example]:
        """Encode what waits: pictures of one size together, or all of them padded to one size."""
        waiting = {lat.key: lat for one in examples for lat in _latents(one) if not lat.moments}
        groups: dict[tuple[int, ...], list[Latent]] = defaultdict(list)
        for latent in waiting.values():
            groups[() if self._padded else latent.pixels_HWC.shape].append(latent)
        encode = self._encoder.padded_moments if self._padded else self._encoder.moments
        found: dict[Key, Moments] = {}
        for group in groups.values():
            made = encode([normalised(latent.pixels_HWC) for latent in group])
            found |= zip((latent.key for latent in group), made, strict=True)
        return [_completed(one, found.get) for one in examples] if waiting else list(examples)

    def length(self, row: int) -> int | None:
        """Tokens with markers when nothing is dropped; None for an unusable row."""
        if row not in self._lengths:
            try:
                self._lengths[row] = self._count(self._rows[row])
            except UnusableRowError as error:
                self._rows.skip(row, str(error))
                self._lengths[row] = None
        return self._lengths[row]

    def fill(self, shelf: DiskShelf) -> int:
        """Keep all pictures of this process's share of the rows; returns the number of rows."""
        rows = sum(1 for _ in self._made(shelf))
        shelf.flush()
        return rows

    def reordered(self, example: Example, order: Sequence[int]) -> Example:
        """References in another order, and the text to match; unchanged where that is not safe."""
        text = renumber(example.instruction, order)
        if text is None:
            return example
        references = tuple(example.references[place] for place in order)
        token_ids = self._tokenizer.encode(text)
        return example._replace(references=references, token_ids=token_ids, instruction=text)

    def _count(self, row: TrainRow) -> int:
        def tokens(data: bytes, rule: ResizeRule, side: int, images: int = 1) -> int:
            width, height = rule.size(*picture_size(data), num_images=images)
            return (width // side) * (height // side) + 2

        sizes, rule = self._sizes, self._vit_rule(row)
        total = self._text_tokens(row)
        shared = 1 if row.target else len(row.references)
        total += sum(tokens(data, rule, sizes.patch, shared) for data in row.references)
        if row.target is not None:
            latents = (*row.references, *[row.target] * sizes.copies)
            total += sum(tokens(data, sizes.vae, sizes.cell) for data in latents)
        return total

    def _text_tokens(self, row: TrainRow) -> int:
        texts: Iterable[str | None] = [row.instruction]
        if self._sizes.shuffled and len(row.references) <= MAX_REFERENCES:
            orders = itertools.permutations(range(len(row.references)))
            texts = itertools.chain(texts, (renumber(row.instruction, order) for order in orders))
        total = max(len(self._tokenizer.encode(text)) for text in texts if text) + 2
        return total + (len(self._tokenizer.encode(row.answer)) + 2 if row.answer else 0)

    def _vit_rule(self, row: TrainRow) -> ResizeRule:
        return self._sizes.und if row.target is None else self._sizes.vit

    def _load(self, row: TrainRow, shelf: Shelf | None, *, keep: bool = False) -> Example:
        """One row; pictures are decoded only where the shelf has them not."""
        drawn, rule = row.target is not None, self._vit_rule(row)
        shared = 1 if drawn else max(len(row.references), 1)
        references = []
        for data in row.references:
            picture = _Picture(data, shelf)
            latent = picture.latent(self._sizes.vae) if drawn else None
            references.append(Reference(latent, picture.pixels(rule, shared, keep=keep)))
        target = None if row.target is None else _Picture(row.target, shelf)
        return Example(
            id=row.id,
            instruction=row.instruction,
            token_ids=self._tokenizer.encode(row.instruction),
            references=tuple(references),
            target=None if target is None else target.latent(self._sizes.vae),
            answer_ids=None if row.answer is None else self._tokenizer.encode(row.answer),
        )

    def _make_all(self) -> dict[int, Example] | None:
        """All usable rows, or None when they exceed the memory; every process makes a share."""
        shelf = MemoryShelf(self._shelf)
        drafts: dict[int, Example] = {}
        limit = self._memory / rank_and_world()[1]
        for number, example in self._made(shelf):
            drafts[number] = example
            if shelf.bytes > limit:
                break
        fits = shelf.bytes <= limit
        mine = {n: _completed(one, shelf.moments) for n, one in drafts.items()} if fits else None
        shares = gather_objects((mine, self._rows.refused))
        everything: dict[int, Example] = {}
        for share, refused in shares:
            for number, reason in refused.items():
                self._rows.skip(number, reason)
            if share is None:
                logger.info("the latents exceed `latent_cache_mb`: encoding at every use")
                return None
            everything |= share
        return dict(sorted(everything.items()))

    def _made(self, shelf: MemoryShelf | DiskShelf) -> Iterator[tuple[int, Example]]:
        """This process's share of the rows; their latents are on the shelf in the end."""
        waiting: dict[tuple[int, ...], dict[Key, Latent]] = defaultdict(dict)
        rank, world = rank_and_world()
        numbers = range(rank, len(self._rows), world)
        for number in tqdm(numbers, desc="encode", unit="row", disable=not is_first_rank()):
            try:
                example = self._load(self._rows[number], shelf, keep=True)
            except UnusableRowError as error:
                self._rows.skip(number, str(error))
                continue
            for latent in _latents(example):
                if latent.moments is None:
                    batch = waiting[latent.pixels_HWC.shape]
                    batch[latent.key] = latent
                    if len(batch) == _TOGETHER:
                        self._encode(batch, shelf)
            yield number, _without_pixels(example)
        for batch in waiting.values():
            self._encode(batch, shelf)

    def _encode(self, batch: dict[Key, Latent], shelf: Shelf) -> None:
        if batch:
            pixels = [normalised(latent.pixels_HWC) for latent in batch.values()]
            for key, moments in zip(batch, self._encoder.moments(pixels), strict=True):
                shelf.put_moments(key, moments)
        batch.clear()


class _Picture:
    """An encoded picture, decoded when that cannot be avoided, and then once."""

    def __init__(self, data: bytes, shelf: Shelf | None) -> None:
        self._data, self._shelf = data, shelf
        self._sha256 = hashlib.sha256(data).hexdigest()
        self._decoded: Image.Image | None = None

    def latent(self, rule: ResizeRule) -> Latent:
        key = Key(self._sha256, rule)
        moments = None if self._shelf is None else self._shelf.moments(key)
        return Latent(key, moments, _NOTHING if moments else np.array(rule.resize(self._rgb())))

    def pixels(self, rule: ResizeRule, images: int, *, keep: bool) -> np.ndarray:
        key = Key(self._sha256, rule, images)
        found = None if self._shelf is None else self._shelf.pixels(key)
        if found is None:
            found = np.array(rule.resize(self._rgb(), num_images=images))
            if keep and self._shelf is not None:
                self._shelf.put_pixels(key, found)
        return found

    def _rgb(self) -> Image.Image:
        if self._decoded is None:
            try:
                self._decoded = to_rgb(decode_picture(self._data))
            except ValueError:
                raise UnusableRowError("a picture has more than 8 bits per channel") from None
        return self._decoded


_NOTHING = np.empty((0, 0, 3), np.uint8)


def _latents(example: Example) -> list[Latent]:
    found = [*(reference.latent for reference in example.references), example.target]
    return [latent for latent in found if latent is not None]


def _completed(example: Example, find: Callable[[Key], Moments | None]) -> Example:
    """The example with all latents encoded."""

    def done(latent: Latent | None) -> Latent | None:
        if latent is None or latent.moments is not None:
            return latent
        moments = find(latent.key)
        assert moments is not None, "everything that waits is encoded"
        return Latent(latent.key, moments, _NOTHING)

    return _mapped(example, done)


def _without_pixels(example: Example) -> Example:
    return _mapped(example, lambda latent: latent and latent._replace(pixels_HWC=_NOTHING))


def _mapped(example: Example, change: Callable[[Latent | None], Latent | None]) -> Example:
    references = tuple(Reference(change(r.latent), r.pixels_HWC) for r in example.references)
    return example._replace(references=references, target=change(example.target))
