"""Loading and saving the components of a pipeline, in our layout and the authors'.

Our layout is a diffusers folder: one folder per component, `model_index.json`, and two one-line
files for people who load it through diffusers with `trust_remote_code=True`.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from transformers import Qwen2Tokenizer

from ...errors import Echo4oError
from ..checkpoint import (
    CheckpointError,
    TensorFacts,
    load_checked,
    read_headers,
    read_json,
    refusing_nonsense,
)
from ..kinds import OURS, finish_folder
from . import weights
from .checkpoint import Located
from .configuration import BagelConfig
from .modeling import BagelForUnifiedGeneration
from .reading import read_model

logger = logging.getLogger(__name__)

DEFAULT_SHIFT = 3.0
AUTOENCODER_STEM = "diffusion_pytorch_model"


class Components(NamedTuple):
    """What a pipeline is made of."""

    model: BagelForUnifiedGeneration
    vae: AutoencoderKL
    scheduler: FlowMatchEulerDiscreteScheduler
    tokenizer: Qwen2Tokenizer


def default_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """The Euler scheduler with the published time shift."""
    return FlowMatchEulerDiscreteScheduler(shift=DEFAULT_SHIFT)


def load_components(
    located: Located,
    *,
    dtype: torch.dtype | None = None,
    device_map: str | None = None,
    attn_implementation: str | None = None,
    quantization_config: Any = None,
) -> Components:
    """Load everything from a folder found by `checkpoint.locate`.

    Raises:
        CheckpointError: files or tensors are missing, damaged or do not fit.
    """
    kwargs: dict[str, Any] = {"device_map": _placement(device_map)}
    if dtype is not None:
        kwargs["dtype"] = dtype
    if attn_implementation is not None:
        kwargs["attn_implementation"] = attn_implementation
    if quantization_config is not None:
        kwargs["quantization_config"] = _wrapped(quantization_config)
    load = _load_bagel if located.layout == "bagel" else _load_echo4o
    parts = load(located, kwargs)
    if device_map is not None:
        parts.vae.to(parts.model.device)
    parts.model.eval()
    return parts


def _wrapped(quantization_config: Any) -> Any:
    """A bare configuration of torchao in the form that transformers takes."""
    if type(quantization_config).__module__.startswith("torchao."):
        from transformers import TorchAoConfig

        return TorchAoConfig(quantization_config)
    return quantization_config


def _placement(device_map: str | None) -> str | None:
    """Our words for placement -> transformers'."""
    known = {None: None, "cpu": None, "cuda": "cuda", "balanced": "balanced", "auto": "balanced"}
    if device_map not in known:
        words = ", ".join(repr(word) for word in known if word)
        raise ValueError(f"`device_map` must be one of {words}, got {device_map!r}")
    if device_map == "cuda" and not torch.cuda.is_available():
        raise Echo4oError(
            'device_map="cuda" needs a CUDA device and none is visible; leave it out to use the CPU'
        )
    return known[device_map] if torch.cuda.is_available() else None


def _load_bagel(located: Located, kwargs: dict[str, Any]) -> Components:
    vae, scheduler, tokenizer = load_rest(located)
    model = weights.load_model(located.folder, tokenizer, **kwargs)
    return Components(model, vae, scheduler, tokenizer)


def _load_echo4o(located: Located, kwargs: dict[str, Any]) -> Components:
    folder = located.folder / "model"
    tensors = read_headers(folder)
    config = read_own_config(folder, tensors)
    weights.check_model_tensors(tensors, config, folder)
    weights.say_what_is_missing(config, folder)
    rest = load_rest(located)
    kwargs.setdefault("dtype", weights.main_dtype(tensors))
    return Components(read_model(tensors, config, **kwargs), *rest)


def read_own_config(folder: Path, tensors: Mapping[str, TensorFacts]) -> BagelConfig:
    """The configuration in our layout; without its tensors there is no vision tower."""
    values = read_json(folder / "config.json")
    if not weights.has_vision(tensors):
        values["visual_und"] = False
    return BagelConfig.from_dict(values)


def load_rest(
    located: Located,
) -> tuple[AutoencoderKL, FlowMatchEulerDiscreteScheduler, Qwen2Tokenizer]:
    """Everything but the main model.

    Raises:
        CheckpointError: files are missing or damaged.
    """
    folder = located.folder
    if located.layout == "bagel":
        tokenizer = load_tokenizer(folder)
        return weights.load_autoencoder(folder), default_scheduler(), tokenizer
    read_headers(folder / "vae", AUTOENCODER_STEM)
    vae = load_checked(AutoencoderKL, folder / "vae", torch_dtype=torch.float32)
    with refusing_nonsense(folder / "scheduler"):
        scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
    return vae, scheduler, load_tokenizer(folder / "tokenizer")


def load_tokenizer(folder: Path) -> Qwen2Tokenizer:
    """The Qwen2 tokenizer of a folder.

    Raises:
        CheckpointError: its files are missing or damaged.
    """
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise CheckpointError(f"{folder} has neither tokenizer.json nor vocab.json and merges.txt")
    read_json(folder / "tokenizer_config.json")
    try:
        return Qwen2Tokenizer.from_pretrained(folder)
    except Exception as error:  # the library that reads it has no better class
        raise CheckpointError(
            f"the tokenizer in {folder} cannot be read ({error}); download it again"
        ) from error


def save_bagel(folder: Path, parts: Components) -> None:
    """Write the authors' layout into an existing folder; its marker file comes last."""
    weights.save_model(folder, parts.model)
    save_bagel_files(folder, parts)


def save_bagel_files(folder: Path, parts: Components) -> None:
    """The same without the main model's weights."""
    weights.save_autoencoder(folder, parts.vae)
    parts.tokenizer.save_pretrained(folder)
    # Other engines read the two files of the slow tokenizer.
    parts.tokenizer.backend_tokenizer.model.save(str(folder))
    weights.write_config(folder, parts.model.config, parts.vae)


def finish_echo4o(folder: Path) -> None:
    """Make a folder that diffusers has written loadable by diffusers with trust."""
    finish_folder(folder, OURS, BagelForUnifiedGeneration, "modeling_echo4o_bagel")
