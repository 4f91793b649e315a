"""What a recipe will need, computed from sizes alone: no weights and no rows are read.

Memory is an estimate for GPUs that compute in bfloat16: what is kept between steps is counted,
activations are estimated from what each layer keeps for its backward pass.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from echo4o.models.bagel.checkpoint import locate
from echo4o.models.bagel.configuration import BagelConfig
from echo4o.models.bagel.modeling import BagelForUnifiedGeneration
from echo4o.models.blip3o import Blip3oTransformer
from echo4o.models.blip3o.transformer import RELEASED as RELEASED_BLIP3O
from echo4o.models.omnigen2 import OmniGen2Transformer2DModel
from echo4o.models.omnigen2.transformer import RELEASED
from echo4o.models.parts import MODEL_FOLDER

from .adapters import add_adapters
from .blip3o import parameter_group as blip3o_group
from .blip3o_tiny import transformer_sizes as blip3o_sizes
from .config import TrainConfig
from .encoded_family import add_adapters as add_attention_adapters
from .groups import parameter_group
from .omnigen2 import parameter_group as omnigen2_group
from .omnigen2_tiny import transformer_sizes
from .opening import read_main
from .parts import TinyBlip3o, TinyOmniGen2, TinySizes
from .tiny import model_config

DEVICES = (1, 8, 16)
RATE = 1000.0
"""Tokens per second and device for the time estimate, unless one is given."""
_GIB = 2**30
_MOMENTS = {"adamw": 8.0, "adamw_8bit": 2.06}
"""Bytes of both moments per trained parameter; 8-bit ones have a scale for 256 of them."""
_FROZEN = {"none": 2.0, "int8": 1.0, "nf4": 0.52}
"""Bytes of a frozen parameter in bfloat16 and in the types that adapters allow."""
_AUTOENCODER = 335_000_000 + 3_000_000_000
"""Bytes of the FLUX autoencoder in float32, and of encoding one picture of 1,024 px (estimated)."""
_KEPT_PER_LAYER = 17.0
"""Widths that a layer of one token keeps for its backward pass when nothing is recomputed."""


class Needs(NamedTuple):
    """Sizes of a run."""

    parameters: dict[str, int]
    """By group."""
    trained: int
    frozen: int
    layer: int
    """Parameters of one decoder layer."""
    rest: int
    """Parameters outside the decoder's layers; a shared model is gathered by layers and this."""
    layers: int
    hidden_size: int
    intermediate_size: int
    tokens_per_step: int | None
    """Upper limit; None when the recipe fixes samples, not tokens."""


class Memory(NamedTuple):
    """Bytes of one device."""

    weights: float
    training: float
    """Gradients, moments and moving average."""
    gathered: float
    """Weights of others that are put together for a while."""
    activations: float

    @property
    def total(self) -> float:
        """All of it, and the autoencoder."""
        return sum(self) + _AUTOENCODER


class _Empty(NamedTuple):
    """A model without memory, and what the estimate needs to know of it."""

    model: nn.Module
    group_of: Callable[[str], str | None]
    layers_in: str
    """How the names of parameters in its layers begin."""
    layers: int
    hidden_size: int
    intermediate_size: int


def needs(config: TrainConfig) -> Needs:
    """Count parameters on the meta device."""
    with torch.device("meta"):
        empty = {"bagel": _bagel, "omnigen2": _omnigen2, "blip3o": _blip3o}[config.family](config)
    counts: Counter[str] = Counter()
    trained = in_layers = 0
    for name, parameter in empty.model.named_parameters():
        if (group := empty.group_of(name)) is not None:
            counts[group] += parameter.numel()
            in_layers += parameter.numel() * name.startswith(empty.layers_in)
            if group not in config.freeze and (config.lora is None or ".lora_" in name):
                trained += parameter.numel()
    budget = config.tokens_per_pack
    return Needs(
        parameters=dict(counts),
        trained=trained,
        frozen=counts.total() - trained,
        layer=in_layers // empty.layers,
        rest=counts.total() - in_layers,
        layers=empty.layers,
        hidden_size=empty.hidden_size,
        intermediate_size=empty.intermediate_size,
        tokens_per_step=None if budget is None else budget * config.packs_per_step,
    )


def memory(found: Needs, config: TrainConfig, devices: int) -> Memory:
    """What one of several devices holds, at most."""
    shared = devices if config.shard != "none" and config.lora is None else 1
    frozen = _FROZEN["none" if config.lora is None else config.lora.quantize]
    # What lies outside the experts is never quantised.
    plain = min(found.rest, found.frozen)
    weights = (4 * found.trained + frozen * (found.frozen - plain) + 2.0 * plain) / shared
    training = found.trained * (4 + _MOMENTS[config.optimizer] + 4) / shared
    # Two layers, as the next one is fetched while one computes; their gradients in float32.
    gathered = 0.0 if shared == 1 else 2.0 * (2 * found.layer + found.rest) + 4.0 * found.layer
    tokens, width = config.tokens_per_pack or 0, found.hidden_size
    one_layer = 2.0 * tokens * (_KEPT_PER_LAYER * width + 3 * found.intermediate_size)
    activations = found.layers * one_layer
    if config.gradient_checkpointing:
        activations = found.layers * 2.0 * tokens * width + one_layer
    return Memory(weights, training, gathered, activations)


def _bagel(config: TrainConfig) -> _Empty:
    if isinstance(config.tiny, TinySizes):
        sizes = model_config(config.tiny, config.tiny.vocab_size)
    elif config.base_model and Path(config.base_model).is_dir():
        _, sizes, _ = read_main(locate(config.base_model))
    else:
        sizes = BagelConfig()
    model, text = BagelForUnifiedGeneration(sizes), sizes.text_config
    if config.lora is not None:
        add_adapters(model, config.lora, config.seed)
    rest = (text.num_hidden_layers, text.hidden_size, text.intermediate_size)
    return _Empty(model, parameter_group, "language_model.model.layers.", *rest)


def _omnigen2(config: TrainConfig) -> _Empty:
    if isinstance(config.tiny, TinyOmniGen2):
        sizes = transformer_sizes(config.tiny, latent_channels=16)
    elif config.base_model and (path := Path(config.base_model) / MODEL_FOLDER).is_dir():
        sizes = OmniGen2Transformer2DModel.load_config(path)
    else:
        sizes = RELEASED
    model = OmniGen2Transformer2DModel.from_config(sizes)
    if config.lora is not None:
        add_attention_adapters(model, config.lora, config.seed)
    mlp = model.layers[0].feed_forward.linear_1.out_features
    rest = (model.config.num_layers, model.config.hidden_size, mlp)
    return _Empty(model, omnigen2_group, "layers.", *rest)


def _blip3o(config: TrainConfig) -> _Empty:
    if isinstance(config.tiny, TinyBlip3o):
        sizes = blip3o_sizes(config.tiny)
    elif config.base_model and (path := Path(config.base_model) / MODEL_FOLDER).is_dir():
        sizes = Blip3oTransformer.load_config(path)
    else:
        released = next((name for name in RELEASED_BLIP3O if name in str(config.base_model)), "8B")
        sizes = RELEASED_BLIP3O[released]
    model = Blip3oTransformer.from_config(sizes)
    if config.lora is not None:
        add_attention_adapters(model, config.lora, config.seed)
    mlp = model.layers[0].feed_forward.linear_1.out_features
    rest = (model.config.num_layers, model.config.hidden_size, mlp)
    return _Empty(model, blip3o_group, "dit.layers.", *rest)


def plan_lines(config: TrainConfig, rate: float = RATE) -> list[str]:
    """The needs of a recipe as text, one figure a line.

    Args:
        config: The recipe.
        rate: Tokens per second and device.
    """
    found = needs(config)
    optimiser = found.trained * _MOMENTS[config.optimizer]
    base = config.base_model or "random weights from the seed"
    lines = [
        f"recipe {config.recipe}: {config.steps:,} steps from {base}",
        f"parameters: {found.trained + found.frozen:,}, of them trained {found.trained:,}",
        *(f"  {group:<11}{count:>16,}" for group, count in sorted(found.parameters.items())),
        f"optimiser: {optimiser / _GIB:,.2f} GiB ({config.optimizer}, two moments)",
    ]
    if found.tokens_per_step is None:
        samples = (config.samples_per_pack or 0) * config.packs_per_step
        lines.append(f"a step: {samples} samples; a run: {samples * config.steps:,} samples")
        lines += _feature_lines(config)
        return [*lines, f"shared by 1 to {config.packs_per_step} processes"]
    total = found.tokens_per_step * config.steps
    lines.append(f"a step: at most {found.tokens_per_step:,} tokens; a run: {total:,} tokens")
    lines.append("estimated GiB of each device, in bfloat16 (autoencoder included in the sum):")
    lines.append("  devices  weights  training  gathered  activations    sum    time")
    lines += [_row(found, config, devices, total / rate) for devices in DEVICES]
    lines.append(f"time at {rate:,.0f} tokens/s and device (give --rate what yours do)")
    return [*lines, f"shared by 1 to {config.packs_per_step} devices: packs_per_step"]


def _feature_lines(config: TrainConfig) -> list[str]:
    """What `train cache` leaves on disk of pictures that a vision tower sees."""
    if config.blip3o is None:
        return []
    with torch.device("meta"):
        model = _blip3o(config).model
    assert isinstance(model, Blip3oTransformer)
    values = model.config.grid**2 * model.config.feature_channels
    return [f"features: {values:,} values a picture, {2 * values / 1000:,.0f} kB in bfloat16"]


def _row(found: Needs, config: TrainConfig, devices: int, seconds: float) -> str:
    bytes_ = memory(found, config, devices)
    widths = zip(bytes_, (9, 10, 10, 13), strict=True)
    columns = [f"{part / _GIB:>{width}.1f}" for part, width in widths]
    hours = f"{seconds / devices / 3600:,.0f} hours"
    fits = config.packs_per_step % devices == 0
    note = "" if fits else f"  (needs packs_per_step={devices} or a multiple)"
    return f"  {devices:>7}{''.join(columns)}{bytes_.total / _GIB:>7.1f}  {hours}{note}"
