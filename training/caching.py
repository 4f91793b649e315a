"""`echo4o train cache`: encodes the pictures of a recipe's dataset once, for all later runs."""

from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator

from .bagel import open_family
from .config import TrainConfig
from .data import load_rows
from .processes import gather_objects


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
        Echo4oError: no usable rows.
    """
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    rows = load_rows(config)
    with accelerator.main_process_first():
        family = open_family(config, rows, out, device=accelerator.device)
    done, folder = family.fill_store()
    total = sum(gather_objects(done))
    rows.refuse_if_none(total)
    return Filled(total, len(rows) - total, folder)
