"""Opens a model of the family that a configuration names."""

from pathlib import Path

import torch
from torch.distributed.device_mesh import DeviceMesh

from . import bagel
from .config import TrainConfig
from .data import Rows
from .family import Family
from .omnigen2 import open_omnigen2


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
    if config.omnigen2 is None:
        return bagel.open_family(config, rows, out, device=device, mesh=mesh)
    source = config.base_model or out / "base"
    return open_omnigen2(config, rows, source, config.omnigen2, device=device, mesh=mesh)
