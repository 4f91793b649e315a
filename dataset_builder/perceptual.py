"""A perceptual hash of pictures, by Arrow record batch: the same view, nearly the same bits.

As in pHash, the low frequencies of a thumbnail; here of brightness and of both colour differences,
because two scenes in different colours may be equally bright, and once for each of 16 slightly
narrower views, because a crop of a few percent moves everything. Vectorised: libraries hash one
picture at a time.
"""

import io
import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from echo4o.pictures import PictureError, picture_facts

if TYPE_CHECKING:
    import pyarrow as pa

Floats = NDArray[np.float32]
Words = NDArray[np.uint64]

SIDE = 64
"""Thumbnail side in pixels."""
VIEWS = 16
"""The whole picture first, then with 3 % taken off each side or not."""
CHANNELS = 3
"""Brightness and the two colour differences; 64 bits each."""
VIEW_BYTES = VIEWS * CHANNELS * 8
_KEPT = 8
_CUTS = (0.0, 0.03)
_SAMPLES = 256
_DEAD_ZONE = 1.5
"""Weaker colour is noise of the encoder: a grey picture must not get random bits."""


def thumbnail(image: Image.Image) -> Floats:
    """A decoded picture as (CHANNELS, SIDE, SIDE), 0 to 255."""
    small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX).convert("YCbCr")
    return np.asarray(small, dtype=np.float32).transpose(2, 0, 1)


def view_hashes(thumbnails: Floats) -> Words:
    """Hashes (n, VIEWS, CHANNELS) of thumbnails (n, CHANNELS, SIDE, SIDE)."""
    return np.stack(
        [
            _pack(np.matmul(np.matmul(rows, thumbnails), columns.T) / 4)
            for rows in _bases()
            for columns in _bases()
        ],
        axis=1,
    )


def hash_batch(batch: "pa.RecordBatch") -> "pa.RecordBatch":
    """`id` and `picture` (encoded bytes) -> `id` and `views` (None: it does not decode)."""
    import pyarrow as pa

    small = [_decoded(cell.as_py()) for cell in batch.column("picture")]
    known = [one for one in small if one is not None]
    found = iter(view_hashes(np.stack(known)) if known else ())
    views = [None if one is None else to_bytes(next(found)) for one in small]
    kind = pa.binary(VIEW_BYTES)
    return pa.RecordBatch.from_arrays([batch.column("id"), pa.array(views, kind)], ["id", "views"])


def to_bytes(views: Words) -> bytes:
    """The hashes (VIEWS, CHANNELS) of one picture, big-endian."""
    return views.astype(">u8").tobytes()


def from_bytes(data: bytes) -> Words:
    """Undo `to_bytes` for one picture or many: (n, VIEWS, CHANNELS)."""
    words = np.frombuffer(data, dtype=">u8").astype(np.uint64)
    return words.reshape(-1, VIEWS, CHANNELS)


def _decoded(data: bytes) -> Floats | None:
    try:
        picture_facts(data)
        with Image.open(io.BytesIO(data)) as opened:
            opened.draft("RGB", (4 * SIDE, 4 * SIDE))
            return thumbnail(opened)
    except (PictureError, OSError, SyntaxError, ValueError):
        return None


def _pack(low: Floats) -> Words:
    """Bits of (n, CHANNELS, 8, 8) frequencies; the mean itself is left out."""
    flat = low.reshape(len(low), CHANNELS, _KEPT * _KEPT)
    bits = flat > _DEAD_ZONE
    bits[:, 0] = flat[:, 0] > np.median(flat[:, 0, 1:], axis=1, keepdims=True)
    bits[:, :, 0] = False
    return np.packbits(bits, axis=2).view(">u8")[:, :, 0].astype(np.uint64)


@cache
def _bases() -> tuple[Floats, ...]:
    """For each pair of cuts, what takes a thumbnail's rows to the low frequencies of the rest."""
    step = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    rows = np.arange(_KEPT)[:, None]
    cosine = np.cos(math.pi * rows * step) * math.sqrt(2 / _SAMPLES)
    cosine[0] /= math.sqrt(2)
    return tuple(
        (cosine @ _sampling(low + (1 - low - high) * step)).astype(np.float32)
        for low in _CUTS
        for high in _CUTS
    )


def _sampling(places: NDArray[np.floating]) -> NDArray[np.floating]:
    """Linear interpolation of SIDE pixels at `places` (0 to 1), as a matrix."""
    x = places * SIDE - 0.5
    left = np.floor(x).astype(int)
    index = np.arange(_SAMPLES)
    matrix = np.zeros((_SAMPLES, SIDE))
    np.add.at(matrix, (index, np.clip(left, 0, SIDE - 1)), 1 - (x - left))
    np.add.at(matrix, (index, np.clip(left + 1, 0, SIDE - 1)), x - left)
    return matrix
