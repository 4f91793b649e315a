"""Opens a model of the family that a configuration names, or only its encoder of pictures."""

from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch.distributed.device_mesh import DeviceMesh

from . import bagel, blip3o, omnigen2
from .config import TrainConfig
from .data import Rows
from .family import Family
from .store import DiskShelf, store_folder


class Fillable(Protocol):
    """A dataset whose pictures can be encoded beforehand."""

    def fill(self, shelf: DiskShelf) -> int:
        """Encode this process's share of the rows; returns how many rows these are."""


class Encoding(NamedTuple):
    """What `train cache` needs."""

    examples: Fillable
    folder: Path
    """Where encoded pictures go."""


def open_family(
    config: TrainConfig,
    rows: Rows,
    out: Path,
    *,
    device: torch.device,
    mesh: DeviceMesh | None = None,
) -> Family:
    """The base model, or the one that was made in `out/base`, ready for training.

    Raises:
        CheckpointError: files are missing or damaged.
    """
    source = config.base_model or out / "base"
    if config.omnigen2 is not None:
        return omnigen2.open_omnigen2(
            config, rows, source, config.omnigen2, device=device, mesh=mesh
        )
    if config.blip3o is not None:
        return blip3o.open_blip3o(config, rows, source, config.blip3o, device=device, mesh=mesh)
    return bagel.open_family(config, rows, out, device=device, mesh=mesh)


def open_encoding(
    config: TrainConfig, rows: Rows, source: str | Path, device: torch.device
) -> Encoding:
    """The encoder of the base model `source`, and nothing else of it.

    Raises:
        CheckpointError: files are missing or damaged.
    """
    examples: Fillable
    if config.omnigen2 is not None:
        examples, name = omnigen2.open_encoder(config, rows, source, config.omnigen2, device)
    elif config.blip3o is not None:
        examples, name = blip3o.open_encoder(config, rows, source, config.blip3o, device)
    else:
        examples, name = bagel.open_encoder(config, rows, source, device)
    return Encoding(examples, store_folder(config, name))
