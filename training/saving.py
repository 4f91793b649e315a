"""Writes the trained pipeline, whole and complete, with memory for a few million numbers only.

Not diffusers' own saving: that wants every weight whole, in one process, in the type it has.
"""

import copy
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers import AutoencoderKL
from torch import Tensor

from echo4o.errors import Echo4oError
from echo4o.models.bagel import weights
from echo4o.models.bagel.assembly import Components, finish_echo4o, save_bagel_files
from echo4o.models.bagel.checkpoint import LayoutName
from echo4o.models.bagel.modeling import BagelForUnifiedGeneration
from echo4o.models.bagel.pipeline import Echo4oPipeline

from .streaming import together, write_model


def check_layout(layout: LayoutName, vae: AutoencoderKL) -> None:
    """Refuse what could not be read again, before it is trained.

    Raises:
        Echo4oError: the authors' files do not say how this autoencoder normalises.
    """
    if layout == "bagel" and vae.config.norm_num_groups != 32:
        raise Echo4oError(
            f"`layout` = bagel is for FLUX autoencoders, which normalise in 32 groups; this one "
            f"has {vae.config.norm_num_groups}. Set layout=echo4o"
        )


def save_pipeline(
    folder: Path, pipeline: Echo4oPipeline, *, layout: LayoutName, dtype: torch.dtype
) -> None:
    """Write a pipeline whose model may be shared; every process calls this.

    Args:
        folder: To be filled; all processes see it.
        pipeline: Frozen parts and the vision tower included.
        layout: Our files, or the authors'.
        dtype: Type of the model's weights; the autoencoder stays float32.

    Raises:
        OSError, Echo4oError: there is no room for it.
    """
    model = pipeline.model
    state: dict[str, Tensor] = model.state_dict()
    inner = folder / "model" if layout == "echo4o" else folder
    first = not dist.is_initialized() or dist.get_rank() == 0

    def make() -> None:
        if first:
            inner.mkdir(parents=True, exist_ok=True)

    def finish() -> None:
        if not first:
            return
        if layout == "bagel":
            parts = (model, pipeline.vae, pipeline.scheduler, pipeline.tokenizer)
            save_bagel_files(folder, Components(*parts))
            return
        config = copy.deepcopy(model.config)
        config.architectures, config.dtype = [BagelForUnifiedGeneration.__name__], dtype
        config.save_pretrained(inner)
        pipeline.vae.save_pretrained(folder / "vae")
        pipeline.scheduler.save_pretrained(folder / "scheduler")
        pipeline.tokenizer.save_pretrained(folder / "tokenizer")
        pipeline.save_config(folder)
        finish_echo4o(folder)

    together(make)
    one_file = layout == "bagel"
    stem = Path(weights.MAIN_FILE).stem if one_file else "model"
    write_model(inner, stem, state, dtype, one_file=one_file)
    together(finish)
