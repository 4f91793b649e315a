"""OmniGen2's sampling: time grids, guidance with references, and the Euler loop.

Time runs from 0 (noise) to 1 (picture), against diffusers' sigmas: sigma = 1 - time. The model
predicts data minus noise, so the scheduler gets its negative.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...sampler import sigma_grid
from .transformer import OmniGen2Transformer2DModel, View

TimeRule = Literal["by_tokens", "as_sampling", "constant"]

_SHIFT_SIDE = 40
"""Latent side at which the time grid is uniform (specification, section 1.3)."""
_MU_LOW, _MU_HIGH = 0.5, 1.15
_TOKENS_LOW, _TOKENS_HIGH = 256, 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class DoubleGuidance:
    """How strongly text and references pull."""

    text_scale: float = 4.0
    """Weight of the text; up to 1 switches all guidance off."""
    image_scale: float = 1.0
    """Weight of the references; up to 1 is off, and then the pass without text has none."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Guidance acts at step i of N where low <= i / N <= high."""

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        for name in ("text_scale", "image_scale"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(
                    f"`{name}` must be a finite number from 0, got {getattr(self, name)}"
                )
        if len(self.interval) != 2 or not 0 <= self.interval[0] <= self.interval[1] <= 1:
            raise ValueError(
                f"`interval` must be two numbers 0 <= low <= high <= 1, got {self.interval}"
            )

    def scales(self, step: int, steps: int, *, references: bool) -> tuple[float, float]:
        """Text and image scale at a step; 1 stands for off."""
        low, high = self.interval
        if self.text_scale <= 1 or not low <= step / steps <= high:
            return 1.0, 1.0
        return self.text_scale, max(self.image_scale, 1.0) if references else 1.0


class Conditions(NamedTuple):
    """What one picture is made from, encoded once."""

    caption: Tensor
    """(L, text size): states of the prompt."""
    negative: Tensor
    """The same of the negative prompt."""
    references: list[Tensor]
    """Latents (C, H, W)."""


def sampling_times(num_steps: int, latent_size: tuple[int, int]) -> Tensor:
    """Times of `num_steps` steps from 0 (noise) on, for a latent height and width; fp32.

    The model multiplies them by 1000, so that an error of 1e-7 would already show: they are
    computed in the released way (even times in fp32, shifted in fp64), not from sigmas.

    Raises:
        ValueError: no step.
    """
    sigma_grid(num_steps)  # refuses what is no number of steps
    times, shift = (torch.arange(num_steps) / num_steps).double(), _shift(latent_size)
    return (times / (shift - shift * times + times)).float()


def training_times(
    draws: Tensor, latent_size: tuple[int, int], rule: TimeRule = "by_tokens"
) -> Tensor:
    """Standard normal draws -> times of training (specification, section 1.7).

    The logistic of a draw is moved towards noise: "by_tokens" by exp(mu) with mu linear in the
    number of tokens (0.5 at 256, 1.15 at 4,096), as released; "as_sampling" by the shift of
    `sampling_times`; "constant" by exp(1.15).
    """
    tokens = (latent_size[0] // 2) * (latent_size[1] // 2)
    slope = (_MU_HIGH - _MU_LOW) / (_TOKENS_HIGH - _TOKENS_LOW)
    shift = {
        "by_tokens": math.exp(_MU_LOW + slope * (tokens - _TOKENS_LOW)),
        "as_sampling": _shift(latent_size),
        "constant": math.exp(_MU_HIGH),
    }[rule]
    times = torch.sigmoid(draws)
    return times / (shift - shift * times + times)


def _shift(latent_size: tuple[int, int]) -> float:
    return math.sqrt(math.prod(latent_size)) / _SHIFT_SIDE


def guided_velocities(
    transformer: OmniGen2Transformer2DModel,
    latents: Tensor,
    time: Tensor,
    conditions: Sequence[Conditions],
    scales: Sequence[tuple[float, float]],
) -> Tensor:
    """Guided velocities (B, C, H, W); all passes of all pictures are one batch.

    Args:
        transformer: the model.
        latents: (B, C, H, W).
        time: scalar in [0, 1].
        conditions: one per picture.
        scales: per picture the text and image scale, 1 for off.
    """
    captions: list[Tensor] = []
    views: list[View] = []
    for number, (own, (text, image)) in enumerate(zip(conditions, scales, strict=True)):
        captions.append(own.caption)
        views.append(View(number, len(captions) - 1))
        if text > 1:
            captions.append(own.negative)
            views.append(View(number, len(captions) - 1, references=False))
        if image > 1:
            views.append(View(number, len(captions) - 1))
    lengths = torch.tensor([len(one) for one in captions], device=latents.device)
    states = pad_sequence(captions, batch_first=True)
    velocities = transformer(
        list(latents),
        time.expand(len(latents)),
        states,
        torch.arange(states.shape[1], device=latents.device) < lengths[:, None],
        [own.references for own in conditions],
        views,
    )
    found = iter(velocities)
    guided = []
    for text, image in scales:
        full = next(found)
        empty = next(found) if text > 1 else None
        without_text = next(found) if image > 1 else None
        if empty is None:
            guided.append(full)
        elif without_text is None:
            guided.append(empty + text * (full - empty))
        else:
            guided.append(empty + image * (without_text - empty) + text * (full - without_text))
    return torch.stack(guided)


def denoise(
    transformer: OmniGen2Transformer2DModel,
    scheduler: FlowMatchEulerDiscreteScheduler,
    latents: Tensor,
    conditions: Sequence[Conditions],
    guidance: DoubleGuidance,
    num_steps: int,
    step_end: Callable[[int, Tensor, Tensor], Tensor] = lambda step, time, x: x,
) -> Tensor:
    """Euler steps from noise (B, C, H, W) to latents."""
    times = sampling_times(num_steps, (latents.shape[-2], latents.shape[-1]))
    scheduler.set_shift(1.0)  # the times are shifted already
    scheduler.set_timesteps(sigmas=(1 - times).tolist(), device=latents.device)
    for step, (time, timestep) in enumerate(zip(times, scheduler.timesteps, strict=True)):
        scales = [
            guidance.scales(step, num_steps, references=bool(own.references)) for own in conditions
        ]
        velocity = guided_velocities(transformer, latents, time.to(latents), conditions, scales)
        latents = scheduler.step(-velocity, timestep, latents, return_dict=False)[0]
        latents = step_end(step, timestep, latents)
    return latents
