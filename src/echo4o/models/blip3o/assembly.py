"""Finding, loading and saving BLIP3-o: our folder of parts; weights.py reads the released one."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DConditionModel,
)

from .. import parts
from ..checkpoint import (
    CheckpointError,
    TensorFacts,
    read_headers,
    read_json,
    refusing_nonsense,
)
from ..kinds import INDEX, finish_folder
from ..parts import MODEL_FOLDER, WEIGHTS, Located
from . import weights
from .transformer import Blip3oTransformer

DECODER = "unet"
"""The folder of the UNet, which a model with a direct decoder lacks; its scheduler has another."""
_SETTINGS = ("picture_side", "decoder_steps", "decoder_guidance_scale")


def locate(
    name: str | Path, *, revision: str | None = None, cache_dir: str | Path | None = None
) -> Located:
    """A local folder or a Hub id -> the folder and its layout.

    Raises:
        CheckpointError: it is neither, or a part is missing.
    """
    released = weights.DECODER_FOLDER
    return parts.find(name, "BLIP3-o", released=released, revision=revision, cache_dir=cache_dir)


def load_parts(located: Located, *, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Everything that a pipeline is made of, by the names of its arguments.

    Raises:
        CheckpointError: files or tensors are missing, damaged or do not fit.
    """
    folder = located.folder
    if located.layout == "released":
        with refusing_nonsense(folder):
            return weights.load_parts(folder, dtype=dtype)
    index = read_json(folder / INDEX)
    has_unet = (folder / DECODER).is_dir()
    if has_unet != (index.get(DECODER) not in (None, [None, None])):
        raise CheckpointError(
            f"{INDEX} of {folder} does not agree with the folders there about {DECODER}; "
            "the checkpoint is incomplete: copy or download it again"
        )
    loaded = {name: index[name] for name in _SETTINGS if name in index}
    loaded |= parts.load(folder, Blip3oTransformer, dtype)
    loaded["scheduler"] = FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
    if has_unet:
        loaded["unet"] = parts.load_model(UNet2DConditionModel, folder / DECODER, dtype)
        loaded["decoder_scheduler"] = EulerDiscreteScheduler.from_pretrained(
            folder / "decoder_scheduler"
        )
    return loaded


def read_parts(located: Located) -> dict[str, dict[str, TensorFacts]]:
    """What the headers say about each part, under our names.

    Raises:
        CheckpointError: files or tensors are missing, damaged or do not fit.
    """
    folder = located.folder
    if located.layout == "released":
        with refusing_nonsense(folder):
            return weights.read_parts(folder)
    found = parts.read(folder, Blip3oTransformer)
    if (folder / DECODER).is_dir():
        found[DECODER] = read_headers(folder / DECODER, WEIGHTS[MODEL_FOLDER])
    return found


def finish(folder: Path) -> None:
    """Make a folder that diffusers has written loadable by diffusers with trust."""
    finish_folder(folder, "Blip3oPipeline", Blip3oTransformer, "transformer_blip3o")
