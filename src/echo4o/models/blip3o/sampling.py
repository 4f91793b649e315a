"""BLIP3-o's two stages as functions: features by flow matching, then a picture by diffusion.

Shape letters: B pictures, N feature tokens, D feature channels, Q queries, H text size.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DConditionModel,
)
from torch import Tensor

from ...sampler import sigma_grid
from ..devices import working_device
from .transformer import Blip3oTransformer

Advance = Callable[[], Any]


def denoise_features(
    transformer: Blip3oTransformer,
    scheduler: FlowMatchEulerDiscreteScheduler,
    noise: Tensor,
    condition: Tensor,
    *,
    num_steps: int,
    scale: float,
    advance: Advance = lambda: None,
) -> Tensor:
    """Euler steps from noise (B, N, D) to features in float32.

    Args:
        transformer: the model.
        scheduler: its configured shift is used.
        noise: (B, N, D).
        condition: (B, Q, H); guidance leads away from zeros in its place.
        num_steps: denoising steps.
        scale: of the guidance; up to 1 is off, and then a step costs half.
        advance: called after each step.
    """
    scheduler.set_timesteps(sigmas=sigma_grid(num_steps), device=noise.device)
    features, count, guided = noise.float(), len(noise), scale > 1
    if guided:
        condition = torch.cat([condition, torch.zeros_like(condition)])
    for sigma, timestep in zip(scheduler.sigmas, scheduler.timesteps, strict=False):
        seen = torch.cat([features, features]) if guided else features
        velocity = transformer(seen, sigma.to(seen).expand(len(seen)), condition).float()
        if guided:
            without = velocity[count:]
            velocity = without + scale * (velocity[:count] - without)
        features = scheduler.step(velocity, timestep, features, return_dict=False)[0]
        advance()
    return features


def denoise_latents(
    unet: UNet2DConditionModel,
    scheduler: EulerDiscreteScheduler,
    noise: Tensor,
    features: Tensor,
    negative: Tensor | None,
    *,
    side: int,
    num_steps: int,
    scale: float,
    advance: Advance = lambda: None,
) -> Tensor:
    """Euler steps from noise (B, C, rows, columns) to the autoencoder's latents.

    Args:
        unet: SDXL's, which reads features in the place of a text.
        scheduler: as saved with it.
        noise: standard normal.
        features: (B, N, D).
        negative: the same, which guidance leads away from; None is no guidance.
        side: pixels of the picture, which the UNet is told.
        num_steps: denoising steps.
        scale: of the guidance.
        advance: called after each step.
    """
    scheduler.set_timesteps(num_steps, device=noise.device)
    latents, count = noise.float() * scheduler.init_noise_sigma, len(noise)
    seen = (features if negative is None else torch.cat([features, negative])).to(unet.dtype)
    sizes = torch.tensor([side, side, 0, 0, side, side], device=noise.device)
    added = {
        "text_embeds": seen.mean(dim=1),
        "time_ids": sizes.to(unet.dtype).expand(len(seen), -1),
    }
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, timestep).to(unet.dtype)
        both = scaled if negative is None else torch.cat([scaled, scaled])
        noise_found = unet(
            both, timestep, encoder_hidden_states=seen, added_cond_kwargs=added
        ).sample.float()
        if negative is not None:
            without = noise_found[count:]
            noise_found = without + scale * (noise_found[:count] - without)
        latents = scheduler.step(noise_found, timestep, latents, return_dict=False)[0]
        advance()
    return latents


def decode_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Latents -> pixels (B, 3, height, width), about [-1, 1]; one by one, for the memory's sake."""
    config = vae.config
    scaled = latents / config.scaling_factor + (config.shift_factor or 0.0)
    inputs = scaled.to(working_device(vae), vae.dtype)
    return torch.cat([vae.decode(one[None]).sample.float() for one in inputs])
