"""Where encoded pictures are kept: in memory for one run, or on disk for all of them.

On disk they are Arrow files beside the cached dataset, one folder per autoencoder. An entry is
keyed by content - the picture's sha256 and the resize rule - so that it can neither be stale nor
belong to another picture, and revisions of a dataset share what did not change. Files appear whole
or not at all; several processes may write at once.
"""

import hashlib
import logging
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from echo4o import loading
from echo4o.models.bagel.processor import ResizeRule
from echo4o.records import sync_folder

from .config import TrainConfig
from .latents import Moments

if TYPE_CHECKING:
    import pyarrow as pa
    from diffusers import AutoencoderKL

logger = logging.getLogger(__name__)

LATENT, PIXELS, FEATURES = "latent", "pixels", "features"
"""Kinds of entries on disk."""
_PART_BYTES = 64 * 2**20
"""A file is written when this much waits; a run that is ended loses no more than that."""


class Key(NamedTuple):
    """Names one resized picture."""

    sha256: str
    """Of the encoded picture."""
    rule: ResizeRule
    images: int = 1
    """Pictures that shared the rule's limit of pixels."""

    @property
    def text(self) -> str:
        """What tells it from all others."""
        rule = self.rule
        sizes = f"{rule.longest},{rule.shortest},{rule.stride},{rule.max_pixels / self.images:g}"
        return f"{self.sha256} {sizes}"


class Named(Protocol):
    """The key of a resized picture, of any family."""

    @property
    def text(self) -> str:
        """What tells it from all others."""


class Shelf(Protocol):
    """Keeps moments and resized pixels."""

    def moments(self, key: Key) -> Moments | None:
        """Of a picture for the autoencoder."""

    def pixels(self, key: Key) -> np.ndarray | None:
        """(H, W, 3) uint8, of a picture for the vision tower."""

    def put_moments(self, key: Key, moments: Moments) -> None:
        """Keep an encoded picture."""

    def put_pixels(self, key: Key, pixels_HWC: np.ndarray) -> None:
        """Keep a resized picture."""


class MemoryShelf:
    """Keeps everything in memory, looking first into another shelf."""

    def __init__(self, behind: Shelf | None) -> None:
        self._behind = behind
        self._moments: dict[Key, Moments] = {}
        self._pixels: dict[Key, np.ndarray] = {}
        self.bytes = 0

    def moments(self, key: Key) -> Moments | None:
        """Of a picture for the autoencoder."""
        if key not in self._moments and self._behind and (found := self._behind.moments(key)):
            self.put_moments(key, found)
        return self._moments.get(key)

    def pixels(self, key: Key) -> np.ndarray | None:
        """(H, W, 3) uint8, of a picture for the vision tower."""
        if key not in self._pixels and self._behind:
            found = self._behind.pixels(key)
            if found is not None:
                self.put_pixels(key, found)
        return self._pixels.get(key)

    def put_moments(self, key: Key, moments: Moments) -> None:
        """Keep an encoded picture."""
        self._moments[key] = moments
        self.bytes += moments.mean_Chw.nbytes + moments.std_Chw.nbytes

    def put_pixels(self, key: Key, pixels_HWC: np.ndarray) -> None:
        """Keep a resized picture."""
        self._pixels[key] = pixels_HWC
        self.bytes += pixels_HWC.nbytes


class DiskShelf:
    """Arrow files in a folder; what is put there is found after the next `flush`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: dict[str, tuple[pa.RecordBatch, int]] = {}
        self._waiting: list[tuple[str, list[int], bytes, bytes | None]] = []
        self._waiting_keys: set[str] = set()
        self._waiting_bytes = 0
        for path in sorted(folder.glob("part-*.arrow")):
            self._open(path)

    def __len__(self) -> int:
        return len(self._found)

    def has(self, kind: str, key: Named) -> bool:
        """Whether something is here; the kinds are LATENT, PIXELS, FEATURES."""
        return f"{kind} {key.text}" in self._found

    def moments(self, key: Named) -> Moments | None:
        """Of a picture for the autoencoder."""
        cells = self._cells(f"{LATENT} {key.text}")
        if cells is None:
            return None
        shape, mean, std = cells
        assert std is not None, "latents are written with their spread"
        return Moments(_array(mean, shape, np.float32), _array(std, shape, np.float32))

    def pixels(self, key: Named) -> np.ndarray | None:
        """(H, W, 3) uint8, of a picture for the vision tower."""
        cells = self._cells(f"{PIXELS} {key.text}")
        return None if cells is None else _array(cells[1], cells[0], np.uint8)

    def put_moments(self, key: Named, moments: Moments) -> None:
        """Keep an encoded picture."""
        mean, std = moments
        self._put(f"{LATENT} {key.text}", list(mean.shape), mean.tobytes(), std.tobytes())

    def put_pixels(self, key: Named, pixels_HWC: np.ndarray) -> None:
        """Keep a resized picture."""
        self._put(f"{PIXELS} {key.text}", list(pixels_HWC.shape), pixels_HWC.tobytes(), None)

    def features(self, key: Named, dtype: torch.dtype) -> Tensor | None:
        """(N, D), what a vision tower sees; `dtype` is the one that was put."""
        cells = self._cells(f"{FEATURES} {key.text}")
        if cells is None:
            return None
        return torch.frombuffer(bytearray(cells[1]), dtype=dtype).view(cells[0])

    def put_features(self, key: Named, features_ND: Tensor) -> None:
        """Keep what a vision tower sees."""
        data = features_ND.contiguous().view(torch.uint8).numpy().tobytes()
        self._put(f"{FEATURES} {key.text}", list(features_ND.shape), data, None)

    def flush(self) -> None:
        """Write what waits into a new file."""
        if not self._waiting:
            return
        import pyarrow as pa

        self._folder.mkdir(parents=True, exist_ok=True)
        names, shapes, data, spread = zip(*self._waiting, strict=True)
        columns = {
            "key": pa.array(names, pa.string()),
            "shape": pa.array(shapes, pa.list_(pa.int32())),
            "data": pa.array(data, pa.large_binary()),
            "spread": pa.array(spread, pa.large_binary()),
        }
        batch = pa.RecordBatch.from_pydict(columns)
        aside = self._folder / f".{uuid.uuid4().hex}.tmp"
        try:
            with aside.open("wb") as file:
                with pa.ipc.new_file(file, batch.schema) as writer:
                    writer.write_batch(batch)
                file.flush()
                os.fsync(file.fileno())
            path = self._folder / f"part-{aside.stem[1:]}.arrow"
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        sync_folder(self._folder)
        self._waiting, self._waiting_bytes = [], 0
        self._waiting_keys.clear()
        self._open(path)

    def _put(self, name: str, shape: list[int], data: bytes, spread: bytes | None) -> None:
        if name in self._found or name in self._waiting_keys:
            return
        self._waiting.append((name, shape, data, spread))
        self._waiting_keys.add(name)
        self._waiting_bytes += len(data) + len(spread or b"")
        if self._waiting_bytes >= _PART_BYTES:
            self.flush()

    def _cells(self, name: str) -> "tuple[list[int], pa.Buffer, pa.Buffer | None] | None":
        if name not in self._found:
            return None
        batch, row = self._found[name]
        spread = batch.column("spread")[row]
        return (
            batch.column("shape")[row].as_py(),
            batch.column("data")[row].as_buffer(),
            spread.as_buffer() if spread.is_valid else None,
        )

    def _open(self, path: Path) -> None:
        import pyarrow as pa

        try:
            with pa.memory_map(str(path)) as source:
                batch = pa.ipc.open_file(source).get_batch(0)
        except (OSError, pa.ArrowInvalid) as error:
            logger.warning("%s is damaged and left out (%s): remove it", path, error)
            return
        self._found |= {name.as_py(): (batch, row) for row, name in enumerate(batch.column("key"))}


def store_folder(config: TrainConfig, encoder: str) -> Path:
    """Where pictures of the configuration's dataset lie, encoded by a network of that name."""
    return _store_root(config) / encoder


def open_store(config: TrainConfig, encoder: Callable[[], str]) -> DiskShelf | None:
    """What `train cache` made, if it did, and if it can be used.

    Args:
        config: Which dataset.
        encoder: Names the network, which takes reading its weights.
    """
    if config.pad_pictures or not _store_root(config).is_dir():
        return None
    shelf = DiskShelf(store_folder(config, encoder()))
    logger.info("%d encoded pictures are on disk", len(shelf))
    return shelf


def _store_root(config: TrainConfig) -> Path:
    if config.latent_store is not None:
        return Path(config.latent_store)
    from datasets import config as settings

    name = loading.source(config.data)
    if Path(name).is_dir():
        folder = Path(name).resolve()
        name = f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
    return Path(settings.HF_DATASETS_CACHE) / "latents" / name.replace("/", "--")


def autoencoder_hash(vae: "AutoencoderKL") -> str:
    """Identifies an autoencoder by its weights and their type."""
    found = hashlib.sha256()
    for name, tensor in sorted(vae.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return found.hexdigest()[:16]


def _array(data: "pa.Buffer", shape: list[int], kind: type[np.generic]) -> np.ndarray:
    return np.frombuffer(data, kind).reshape(shape).copy()  # torch wants memory it may write to
