"""Which picture of a row BLIP3-o learns, and what its vision tower sees in it.

The tower is large and needed for nothing else: it is opened when a picture must be encoded, and
never where `train cache` encoded all of them before.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import constants
from PIL import Image
from torch import Tensor

from echo4o import hub
from echo4o.errors import Echo4oError
from echo4o.models.blip3o.tower import EvaTower, prepare

from .data import TrainRow, UnusableRowError, picture_size
from .encoded import Key, Wanted
from .fingerprint import described
from .parts import Blip3oSettings
from .store import FEATURES, DiskShelf

logger = logging.getLogger(__name__)

TOWER_FOLDER = "vision_tower"
"""Where the tower lies beside a base model, when no other one is named."""


class Tower:
    """The frozen vision tower, opened at its first use.

    Args:
        settings: Which one.
        source: The base model, beside which it lies if the settings name none.
        dtype: In which it computes, and its features are kept.
        device: Where it computes.

    Raises:
        Echo4oError: it is neither named nor there.
    """

    def __init__(
        self,
        settings: Blip3oSettings,
        source: str | Path,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._named = settings.tower or str(Path(source) / TOWER_FOLDER)
        self._revision, self.side = settings.tower_revision, settings.tower_side
        self.dtype, self._device = dtype, device
        self._tower: EvaTower | None = None
        is_folder = Path(self._named).is_dir()
        if not is_folder and (settings.tower is None or self._named.startswith((".", "/", "~"))):
            raise Echo4oError(
                f"there is no vision tower {self._named}, whose features BLIP3-o learns; set "
                f"blip3o.tower to a folder or Hub id"
            )
        if not is_folder and not constants.HF_HUB_OFFLINE:
            self._revision = hub.resolve(self._named, "model", self._revision)

    @property
    def name(self) -> str:
        """Tells its features from those of other towers, and of other types."""
        folder = Path(self._named)
        named = described(folder) if folder.is_dir() else f"{self._named} {self._revision}"
        return re.sub(r"[^\w.]+", "-", f"{named} {self.dtype}").strip("-")

    def features(self, pixels_HWC: Sequence[np.ndarray]) -> list[Tensor]:
        """(N, D) of each picture, on the CPU.

        Raises:
            Echo4oError: it does not load, or it sees pictures of another size.
        """
        if self._tower is None:
            logger.info("opening the vision tower: some pictures are not encoded yet")
            tower = EvaTower.open(self._named, revision=self._revision, dtype=self.dtype)
            if tower.config.side != self.side:
                raise Echo4oError(
                    f"the vision tower sees pictures of {tower.config.side} pixels, and "
                    f"blip3o.tower_side is {self.side}; set it to {tower.config.side}"
                )
            self._tower = tower.to(self._device)
        batch = torch.from_numpy(np.stack(list(pixels_HWC)))
        found = self._tower.encode(batch).to("cpu", self.dtype)
        return [one.clone() for one in found]  # a part of a batch would keep all of it in memory

    def close(self) -> None:
        """Give its memory back."""
        self._tower = None


class Blip3oCodec:
    """The picture to draw, as features; see `encoded.Codec`."""

    kind = FEATURES

    def __init__(self, tower: Tower) -> None:
        self._tower = tower

    def wanted(self, row: TrainRow) -> list[Wanted]:
        """The picture to draw.

        Raises:
            UnusableRowError: there is none, or it cannot be drawn from the text alone.
        """
        if row.target is None:
            raise UnusableRowError("it has no picture to draw, which is all that BLIP3-o learns")
        if row.references:
            raise UnusableRowError("it has references, and BLIP3-o draws from text alone")
        picture_size(row.target)
        return [Wanted(row.target, (self._tower.side, self._tower.side))]

    def pixels(self, picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
        """An RGB picture as the tower sees it, (H, W, 3) uint8."""
        return prepare(picture, size[0])

    def encode(self, pixels_HWC: Sequence[np.ndarray]) -> list[Tensor]:
        """Features of pictures."""
        return self._tower.features(pixels_HWC)

    def bytes_of(self, value: Tensor) -> int:
        """How much memory an encoded picture takes."""
        return value.nbytes

    def find(self, shelf: DiskShelf, key: Key) -> Tensor | None:
        """Features that lie on disk."""
        return shelf.features(key, self._tower.dtype)

    def keep(self, shelf: DiskShelf, key: Key, value: Tensor) -> None:
        """Put features there."""
        shelf.put_features(key, value)
