"""Autoencoder latents of pictures: moments are computed once and kept, noise is drawn at every use.

Pictures are encoded one size at a time: padding them to a common size, as the authors do, changes
latents (spec 9.1) and is an option for comparisons only. Shape letters: B pictures, C channels, h
and w latent rows and columns.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from echo4o.models.autoencoder import channels_last, tune

from . import draws

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class Moments(NamedTuple):
    """Distribution of a picture's latent, before scaling, float32."""

    mean_Chw: np.ndarray
    std_Chw: np.ndarray


class Encoder:
    """A frozen autoencoder."""

    def __init__(self, vae: "AutoencoderKL", device: torch.device) -> None:
        tune(vae)
        self._vae, self._device = vae, device
        self._shift: float = vae.config.shift_factor or 0.0
        self._scale: float = vae.config.scaling_factor

    @torch.no_grad()
    def moments(self, pixels: Sequence[Tensor]) -> list[Moments]:
        """Encode pictures (3, H, W) in [-1, 1] of one size together."""
        return self._encode(channels_last(torch.stack(list(pixels))))

    def _encode(self, pixels_BCHW: Tensor) -> list[Moments]:
        found = self._vae.encode(pixels_BCHW.to(self._device, self._vae.dtype)).latent_dist
        means = found.mean.float().cpu().contiguous().numpy()
        stds = found.std.float().cpu().contiguous().numpy()
        # Copies: a part of a batch would keep all of it in memory.
        return [Moments(m.copy(), s.copy()) for m, s in zip(means, stds, strict=True)]

    @torch.no_grad()
    def padded_moments(self, pixels: Sequence[Tensor]) -> list[Moments]:
        """Encode pictures of any size as one batch, padded with grey, as the authors do."""
        height = max(picture.shape[1] for picture in pixels)
        width = max(picture.shape[2] for picture in pixels)
        batch = [F.pad(p, (0, width - p.shape[2], 0, height - p.shape[1])) for p in pixels]
        # Not channels last: that costs digits where a picture is even.
        found = self._encode(torch.stack(batch))
        cell = height // found[0].mean_Chw.shape[1]
        return [
            Moments(*(part[:, : p.shape[1] // cell, : p.shape[2] // cell] for part in moments))
            for moments, p in zip(found, pixels, strict=True)
        ]

    def sample(self, moments: Moments, *key: int | str) -> Tensor:
        """A latent (C, h, w), shifted and scaled, with noise that depends on the key only."""
        noise = torch.from_numpy(draws.normals(tuple(moments.mean_Chw.shape), *key))
        mean, std = map(torch.from_numpy, moments)
        latent = torch.addcmul(mean, std, noise)
        return (latent - self._shift) * self._scale


def normalised(pixels_HWC: np.ndarray) -> Tensor:
    """uint8 pixels -> (3, H, W) in [-1, 1], as autoencoder and vision tower want them."""
    return (torch.from_numpy(pixels_HWC).permute(2, 0, 1).float() / 255 - 0.5) / 0.5
