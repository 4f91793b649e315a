"""What a checkpoint holds, read from headers alone: sizes, types, memory, and what is missing."""

from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from ..checkpoint import BYTES, TensorFacts, read_header, read_headers
from . import weights
from .assembly import AUTOENCODER_STEM, load_tokenizer, read_own_config
from .checkpoint import Located, locate
from .configuration import BagelConfig


def inspect(name: str | Path, *, revision: str | None = None) -> dict[str, Any]:
    """Facts about a checkpoint, in the order to print them.

    Raises:
        CheckpointError: files are missing or damaged, or tensors do not fit the configuration.
    """
    located = locate(name, revision=revision)
    main, autoencoder, config = read_facts(located)
    weights.check_model_tensors(main, config, located.folder)
    size, vae_size = _bytes(main), _bytes(autoencoder)
    return {
        "model": str(name),
        "revision": located.revision,
        "layout": located.layout,
        "parameters": _count(main),
        "autoencoder": _count(autoencoder),
        "dtypes": dict(Counter(facts.dtype for facts in main.values())),
        "tensors": len(main),
        "gigabytes": round((size + vae_size) / 1e9, 3),
        "memory bfloat16": _gigabytes(2 * _count(main) + vae_size),
        "memory float32": _gigabytes(4 * _count(main) + vae_size),
        "hidden size": config.hidden_size,
        "layers": config.text_config.num_hidden_layers,
        "largest picture": config.max_latent_size * config.latent_stride,
        "missing": "nothing" if config.visual_und else "vision tower (no pictures as input)",
    }


def read_facts(
    located: Located,
) -> tuple[Mapping[str, TensorFacts], Mapping[str, TensorFacts], BagelConfig]:
    """What the headers say about the main model and the autoencoder, and the configuration.

    Raises:
        CheckpointError: files are missing or damaged; whether the tensors fit is not looked at.
    """
    folder = located.folder
    if located.layout == "bagel":
        main = weights.read_main_headers(folder)
        config = weights.read_config(folder, main, load_tokenizer(folder))
        return main, read_header(folder / weights.AUTOENCODER_FILE), config
    main = read_headers(folder / "model")
    config = read_own_config(folder / "model", main)
    return main, read_headers(folder / "vae", AUTOENCODER_STEM), config


def _count(tensors: Mapping[str, TensorFacts]) -> int:
    return sum(prod(facts.shape) for facts in tensors.values())


def _bytes(tensors: Mapping[str, TensorFacts]) -> int:
    return sum(prod(facts.shape) * BYTES[facts.dtype] for facts in tensors.values())


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
