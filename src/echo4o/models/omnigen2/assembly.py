"""Finding, loading and saving OmniGen2's five folders; the released and our layout are one."""

from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from .. import parts
from ..checkpoint import TensorFacts
from ..kinds import finish_folder
from ..parts import Located
from .transformer import OmniGen2Transformer2DModel


def locate(
    name: str | Path, *, revision: str | None = None, cache_dir: str | Path | None = None
) -> Located:
    """A local folder or a Hub id -> the folder.

    Raises:
        CheckpointError: it is neither, or a part is missing.
    """
    return parts.find(name, "OmniGen2", revision=revision, cache_dir=cache_dir)


def load_parts(located: Located, *, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Everything that a pipeline is made of, by the names of its arguments.

    The released `model_index.json` names a scheduler that no library has; this one does the same.

    Raises:
        CheckpointError: files or tensors are missing, damaged or do not fit.
    """
    loaded = parts.load(located.folder, OmniGen2Transformer2DModel, dtype)
    return loaded | {"scheduler": FlowMatchEulerDiscreteScheduler()}


def read_parts(located: Located) -> dict[str, dict[str, TensorFacts]]:
    """What the headers say about each part.

    Raises:
        CheckpointError: files or tensors are missing, damaged or do not fit.
    """
    return parts.read(located.folder, OmniGen2Transformer2DModel)


def finish(folder: Path) -> None:
    """Make a folder that diffusers has written loadable by diffusers with trust."""
    finish_folder(folder, "OmniGen2Pipeline", OmniGen2Transformer2DModel, "transformer_omnigen2")
