"""`echo4o train cache`: encodes the pictures of a recipe's dataset once, for all later runs.

Of the base model it needs the autoencoder and the sizes; the weights are not read.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator

from echo4o.errors import Echo4oError
from echo4o.models.bagel.assembly import load_rest
from echo4o.models.bagel.checkpoint import locate

from .config import TrainConfig
from .data import load_rows
from .examples import Examples
from .latents import Encoder
from .opening import read_main
from .processes import gather_objects
from .sizes import sizes_of
from .store import DiskShelf, store_folder
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
        located = locate(source, revision=config.base_revision)
    vae, _, tokenizer = load_rest(located)
    _, model, _ = read_main(located, tokenizer)
    folder = store_folder(config, vae)
    examples = Examples(
        rows,
        tokenizer,
        Encoder(vae.to(accelerator.device), accelerator.device),
        sizes_of(config, model),
        memory=0,
        shelf=None,
        padded=False,
    )
    total = sum(gather_objects(examples.fill(DiskShelf(folder))))
    rows.refuse_if_none(total)
    return Filled(total, len(rows) - total, folder)
