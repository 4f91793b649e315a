"""What a recipe will need, computed from sizes alone: no weights and no rows are read."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch

from echo4o.models.bagel.configuration import BagelConfig
from echo4o.models.bagel.modeling import BagelForUnifiedGeneration

from .adapters import add_adapters
from .bagel import parameter_group
from .config import TrainConfig
from .tiny import model_config

_GIB = 2**30
_BYTES_TRAINED = 4 + 4 + 8 + 4
"""Per trained parameter: float32 weight, gradient, two AdamW moments, moving average."""
_BYTES_FROZEN = 4
_RATE = 1000
"""Tokens per second for the time estimate; scale it by what a device really does."""


class Needs(NamedTuple):
    """Sizes of a run."""

    parameters: dict[str, int]
    """By group."""
    trained: int
    frozen: int
    state_bytes: int
    """Weights, gradients, optimiser and moving average in one process, nothing sharded."""
    tokens_per_step: int | None
    """Upper limit; None when the recipe fixes samples, not tokens."""


def needs(config: TrainConfig) -> Needs:
    """Count parameters on the meta device and what they cost."""
    with torch.device("meta"):
        model = BagelForUnifiedGeneration(_sizes(config))
        if config.lora is not None:
            add_adapters(model, config.lora, config.seed)
    counts: Counter[str] = Counter()
    trained = 0
    for name, parameter in model.named_parameters():
        if (group := parameter_group(name)) is not None:
            counts[group] += parameter.numel()
            if group not in config.freeze and (config.lora is None or ".lora_" in name):
                trained += parameter.numel()
    frozen = counts.total() - trained
    budget = config.tokens_per_pack
    return Needs(
        parameters=dict(counts),
        trained=trained,
        frozen=frozen,
        state_bytes=trained * _BYTES_TRAINED + frozen * _BYTES_FROZEN,
        tokens_per_step=None if budget is None else budget * config.packs_per_step,
    )


def _sizes(config: TrainConfig) -> BagelConfig:
    if config.tiny is not None:
        return model_config(config.tiny, config.tiny.vocab_size)
    if config.base_model and Path(config.base_model).is_dir():
        loaded: BagelConfig = BagelConfig.from_pretrained(config.base_model)
        return loaded
    return BagelConfig()


def plan_lines(config: TrainConfig) -> list[str]:
    """The needs of a recipe as text, one figure a line."""
    found = needs(config)
    optimiser = found.trained * 8
    base = config.base_model or "random weights from the seed"
    lines = [
        f"recipe {config.recipe}: {config.steps:,} steps from {base}",
        f"parameters: {found.trained + found.frozen:,}, of them trained {found.trained:,}",
        *(f"  {group:<11}{count:>16,}" for group, count in sorted(found.parameters.items())),
        f"optimiser: {optimiser / _GIB:,.2f} GiB (AdamW, two float32 moments)",
        f"weights, gradients, optimiser and moving average: {found.state_bytes / _GIB:,.2f} GiB "
        f"in one process, float32, activations not counted",
    ]
    if found.tokens_per_step is None:
        samples = (config.samples_per_pack or 0) * config.packs_per_step
        lines.append(f"a step: {samples} samples; a run: {samples * config.steps:,} samples")
    else:
        total = found.tokens_per_step * config.steps
        lines.append(f"a step: at most {found.tokens_per_step:,} tokens; a run: {total:,} tokens")
        lines.append(f"time: {total / _RATE / 3600:,.0f} hours at {_RATE:,} tokens/s over all")
    return [*lines, f"shared by 1 to {config.packs_per_step} processes"]
