"""Flow matching as pure functions: time grid, guidance and its renormalisation (no model here).

Time runs from 1 (noise) to 0 (picture); the path is x_t = (1 - t) * x0 + t * noise and the model
predicts the velocity noise - x0. Shapes: B pictures, N tokens, C values per token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Renorm = Literal["global", "channel", "text_channel", "none"]
_EPSILON = 1e-8


@dataclass(frozen=True, kw_only=True, slots=True)
class Guidance:
    """How the predictions with and without a condition are combined."""

    text_scale: float = 4.0
    """Weight of the text against the context without it; up to 1 switches all guidance off."""
    image_scale: float = 1.0
    """Weight of the pictures against the context without them; up to 1 is off."""
    interval: tuple[float, float] = (0.4, 1.0)
    """Guidance acts where low < t <= high, in shifted time."""
    renorm: Renorm = "global"
    """What the length of the guided velocity is limited to: that of the conditional one, over the
    whole picture ("global"), per token ("channel"), per token before the picture guidance
    ("text_channel"), or nothing ("none")."""
    renorm_min: float = 0.0
    """Lower limit of the shrinking factor, 0 to 1."""

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        for name in ("text_scale", "image_scale"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"`{name}` must be a finite number from 0, got {value}")
        if len(self.interval) != 2 or not 0 <= self.interval[0] <= self.interval[1] <= 1:
            raise ValueError(
                f"`interval` must be two times 0 <= low <= high <= 1, got {self.interval}"
            )
        if self.renorm not in get_args(Renorm):
            raise ValueError(f"`renorm` must be one of {get_args(Renorm)}, got {self.renorm!r}")
        if not 0 <= self.renorm_min <= 1:
            raise ValueError(f"`renorm_min` must be from 0 to 1, got {self.renorm_min}")

    def branches(self, time: float) -> tuple[bool, bool]:
        """Whether the contexts (without text, without pictures) matter at this time.

        Without text guidance the picture guidance has no effect either (specification, section 6).
        """
        # In the type that times have: 0.4 is not above 0.4 for being stored in 32 bits.
        low, high, time = torch.tensor([*self.interval, time], dtype=torch.float32).tolist()
        text = self.text_scale > 1 and low < time <= high
        return text, text and self.image_scale > 1

    def combine(self, cond: Tensor, text: Tensor | None, image: Tensor | None) -> Tensor:
        """The guided velocity (B, N, C); None stands for a branch that was not run."""
        if text is None:
            return cond
        guided = text + self.text_scale * (cond - text)
        if self.renorm == "text_channel":
            guided = self._limit(guided, cond)
        if image is not None:
            guided = image + self.image_scale * (guided - image)
        return guided if self.renorm == "text_channel" else self._limit(guided, cond)

    def _limit(self, guided: Tensor, cond: Tensor) -> Tensor:
        """Shrink `guided` to the length of `cond`, per picture or per token."""
        if self.renorm == "none":
            return guided
        axes = (-2, -1) if self.renorm == "global" else (-1,)
        length = torch.linalg.vector_norm(guided, dim=axes, keepdim=True)
        wanted = torch.linalg.vector_norm(cond, dim=axes, keepdim=True)
        return guided * (wanted / (length + _EPSILON)).clamp(min=self.renorm_min, max=1.0)


def shift_times(times: Tensor, shift: float) -> Tensor:
    """Move times in [0, 1] towards the noise end: shift * t / (1 + (shift - 1) * t)."""
    return shift * times / (1 + (shift - 1) * times)


def sigma_grid(num_steps: int) -> list[float]:
    """Unshifted times of `num_steps` denoising steps, from 1 down; the step after the last is 0.

    What `FlowMatchEulerDiscreteScheduler(shift=...).set_timesteps(sigmas=...)` takes.

    Raises:
        ValueError: no step.
    """
    if not isinstance(num_steps, int):
        raise ValueError(f"`num_inference_steps` must be a whole number, got {num_steps!r}")
    if num_steps < 1:
        raise ValueError(f"`num_inference_steps` must be at least 1, got {num_steps}")
    grid: list[float] = torch.linspace(1, 0, num_steps + 1)[:-1].tolist()
    return grid


def noised(clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """The point of the flow path at `times`, which broadcast against the last axis."""
    return (1 - times) * clean + times * noise


def initial_noise(
    shape: tuple[int, ...],
    generators: Sequence[torch.Generator | None],
    device: torch.device | str = "cpu",
) -> Tensor:
    """Standard normal noise (B, *shape), one generator per picture.

    Each picture draws alone, so that a seed gives the same picture in every batch.
    """
    draws = [
        torch.randn(shape, generator=g, device=g.device if g is not None else "cpu")
        for g in generators
    ]
    return torch.stack([draw.to(device) for draw in draws])
