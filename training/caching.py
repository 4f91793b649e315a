"""`echo4o train cache`: encodes the pictures of a recipe's dataset once, for all later runs.

Of the base model it needs what encodes pictures (autoencoder or vision tower) and the sizes.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator

from echo4o.errors import Echo4oError

from .config import TrainConfig
from .data import load_rows, pinned
from .families import open_encoding
from .processes import gather_objects
from .store import DiskShelf
from .tiny import make_base


class Filled(NamedTuple):
    """What a call of `fill_store` found or made."""

    rows: int
    """Rows whose pictures are on disk now."""
    skipped: int
    """Rows that cannot be used."""
    folder: Path


def fill_store(config: TrainConfig, out: Path) -> Filled:
    """Encode what is not on disk yet; several processes share the rows.

    The folder `out` gets the base model of a recipe that makes one, where `train` looks for it.

    Raises:
        Echo4oError: no usable rows, or settings under which nothing is taken from disk.
    """
    if config.pad_pictures:
        raise Echo4oError("padded pictures are encoded anew in every pack: set pad_pictures=false")
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    rows = load_rows(config)
    with accelerator.main_process_first():
        source = config.base_model or make_base(config, rows, out / "base")
    examples, folder = open_encoding(pinned(config), rows, source, accelerator.device)
    total = sum(gather_objects(examples.fill(DiskShelf(folder))))
    rows.refuse_if_none(total)
    return Filled(total, len(rows) - total, folder)
