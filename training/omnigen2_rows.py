"""Which pictures of a row OmniGen2 needs, how large, and their latents."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from echo4o.models.omnigen2.processor import reference_size, resized_to
from echo4o.models.omnigen2.transformer import MAX_REFERENCES

from .data import TrainRow, UnusableRowError, picture_size
from .encoded import Key, Wanted
from .latents import Encoder, Moments, normalised
from .parts import OmniGen2Settings
from .store import LATENT, DiskShelf


class OmniGen2Codec:
    """References and the picture to draw, as latents; see `encoded.Codec`."""

    kind = LATENT

    def __init__(self, encoder: Encoder, settings: OmniGen2Settings) -> None:
        self._encoder, self._settings = encoder, settings

    def wanted(self, row: TrainRow) -> list[Wanted]:
        """The references in order, then the picture to draw.

        Raises:
            UnusableRowError: there is nothing to draw, there are too many references, or a picture
                is damaged or too narrow.
        """
        if row.target is None:
            raise UnusableRowError("it has no picture to draw, which is all that OmniGen2 learns")
        count = len(row.references)
        if count > MAX_REFERENCES:
            raise UnusableRowError(f"it has more than {MAX_REFERENCES} references")
        settings = self._settings
        limit = settings.reference_pixels[:count][-1] if count else 0
        found = [Wanted(data, self._size(data, limit)) for data in row.references]
        return [*found, Wanted(row.target, self._size(row.target, settings.max_pixels))]

    def pixels(self, picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
        """An RGB picture brought to that size, (H, W, 3) uint8."""
        return np.array(resized_to(picture, size))

    def encode(self, pixels_HWC: Sequence[np.ndarray]) -> list[Moments]:
        """Encode pictures of one size."""
        return self._encoder.moments([normalised(one) for one in pixels_HWC])

    def bytes_of(self, value: Moments) -> int:
        """How much memory an encoded picture takes."""
        return int(value.mean_Chw.nbytes + value.std_Chw.nbytes)

    def find(self, shelf: DiskShelf, key: Key) -> Moments | None:
        """An encoded picture that lies on disk."""
        return shelf.moments(key)

    def keep(self, shelf: DiskShelf, key: Key, value: Moments) -> None:
        """Put an encoded picture there."""
        shelf.put_moments(key, value)

    def _size(self, data: bytes, max_pixels: int) -> tuple[int, int]:
        try:
            return reference_size(*picture_size(data), max_pixels, self._settings.max_side)
        except ValueError:
            raise UnusableRowError("a picture is too narrow") from None
