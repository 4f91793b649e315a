"""Opens the base model for training with the memory it ends up with, and no more.

The model is made without memory, divided among processes where they share it, and every process
then reads its own rows straight from the files into place.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import Qwen2Tokenizer

from echo4o.models.bagel import weights
from echo4o.models.bagel.assembly import load_rest, load_tokenizer, read_own_config
from echo4o.models.bagel.checkpoint import Located, locate
from echo4o.models.bagel.configuration import BagelConfig
from echo4o.models.bagel.modeling import BagelForUnifiedGeneration
from echo4o.models.bagel.pipeline import Echo4oPipeline
from echo4o.models.checkpoint import TensorFacts, read_headers

from . import sharding, streaming


class Where(NamedTuple):
    """On what a model is opened."""

    device: torch.device
    mesh: DeviceMesh | None
    """Processes that share it; None: each holds all of it."""
    bf16: bool
    """Frozen parameters are kept, and shared ones gathered, in bfloat16."""


def attention_for(device: torch.device) -> str:
    """Attention of packed training: on a GPU the kernel that skips what no token may see."""
    return "flex_attention" if device.type == "cuda" else "sdpa"


def use_attention(model: BagelForUnifiedGeneration, name: str) -> None:
    """Choose the decoder's attention; the vision tower has its own."""
    model.config.text_config._attn_implementation = name


def open_pipeline(
    source: str | Path, revision: str | None, where: Where, is_frozen: Callable[[str], bool]
) -> Echo4oPipeline:
    """A pipeline whose model is trained: float32, and what is frozen in the type it computes in.

    Args:
        source: Folder or Hub id, in either layout.
        revision: Commit, branch or tag of a Hub id.
        where: Device and processes.
        is_frozen: Whether the parameter of a name gets no gradient.

    Raises:
        CheckpointError: files are missing or damaged.
    """
    located = locate(source, revision=revision)
    vae, scheduler, tokenizer = load_rest(located)
    folder, config, tensors = read_main(located, tokenizer)
    weights.check_model_tensors(tensors, config, folder)
    weights.say_what_is_missing(config, folder)
    model = empty_model(config, where, is_frozen)
    fill(model, tensors)
    pipeline = Echo4oPipeline(model, vae.to(where.device), scheduler, tokenizer)
    pipeline.source_id, pipeline.source_revision = str(source), located.revision
    return pipeline


def read_main(
    located: Located, tokenizer: Qwen2Tokenizer | None = None
) -> tuple[Path, BagelConfig, dict[str, TensorFacts]]:
    """Folder, configuration and tensors of the main model, without the tensors' values.

    Raises:
        CheckpointError: files are missing or damaged.
    """
    if located.layout == "bagel":
        tokenizer = tokenizer or load_tokenizer(located.folder)
        tensors = weights.read_main_headers(located.folder)
        config = weights.read_config(located.folder, tensors, tokenizer)
        return located.folder, config, tensors
    folder = located.folder / "model"
    tensors = read_headers(folder)
    return folder, read_own_config(folder, tensors), tensors


def empty_model(
    config: BagelConfig, where: Where, is_frozen: Callable[[str], bool]
) -> BagelForUnifiedGeneration:
    """A model with memory but without values, divided where processes share it."""
    with torch.device("meta"):
        model = BagelForUnifiedGeneration(config)
    for name, parameter in model.named_parameters():
        trained = not is_frozen(name)
        if where.bf16 and not trained:
            parameter.data = parameter.data.to(torch.bfloat16)
        parameter.requires_grad_(trained)
    if where.mesh is not None:
        layers = model.language_model.model.layers
        sharding.shard(model, layers, where.mesh, bf16=where.bf16)
    model.to_empty(device=where.device)
    return model.eval()


def fill(model: nn.Module, tensors: dict[str, TensorFacts]) -> None:
    """Read the weights that headers announce into a model, each process its own rows."""
    state = model.state_dict()
    for file in sorted({facts.file for facts in tensors.values()}):
        mine = {name: state[name] for name, facts in tensors.items() if facts.file == file}
        streaming.read(file, mine, streaming.places(file))
