"""Small pictures of what a picture will be, while it is still being made."""

import io
import math
import time
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch.nn import functional as F

from echo4o.models.bagel.packing import unpatchify

if TYPE_CHECKING:
    from echo4o import Echo4oPipeline

LATENT_SIDE = 32
"""Longest side in latents that is decoded: 256 pixels, a sixteenth of the work at 1024."""
JPEG_QUALITY = 80


class Previews:
    """Looks at one picture's latents; decodes them small, now and then."""

    def __init__(
        self, pipeline: "Echo4oPipeline", height: int, width: int, *, every: float
    ) -> None:
        stride = pipeline.model.config.latent_stride
        self._pipeline, self._grid = pipeline, (height // stride, width // stride)
        self._every, self._last = every, -math.inf
        self._before: torch.Tensor | None = None

    def look(self, step: int, latents_BNP: torch.Tensor) -> bytes | None:
        """A JPEG when one is due; `step` is the one that has just been done, from 0.

        Two neighbouring states show the direction; followed to the end, it leads to a picture
        without noise long before the steps do.
        """
        before, self._before = self._before, latents_BNP
        now = time.monotonic()
        if before is None or now - self._last < self._every:
            return None
        self._last = now
        sigmas = self._pipeline.scheduler.sigmas
        start, end = float(sigmas[step]), float(sigmas[step + 1])
        clean = latents_BNP - end * (latents_BNP - before) / (end - start)
        return self._decode(clean[:1])

    @torch.no_grad()
    def _decode(self, latents_BNP: torch.Tensor) -> bytes:
        pipeline, vae = self._pipeline, self._pipeline.vae
        latent = unpatchify(latents_BNP, *self._grid, pipeline.model.config.latent_patch_size)
        latent = latent.to(vae.device, vae.dtype)
        shrink = math.ceil(max(latent.shape[-2:]) / LATENT_SIDE)
        if shrink > 1:
            latent = F.avg_pool2d(latent, shrink)
        pixels = vae.decode(latent / vae.config.scaling_factor + vae.config.shift_factor).sample[0]
        levels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        buffer = io.BytesIO()
        picture = Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())
        picture.save(buffer, format="JPEG", quality=JPEG_QUALITY)
        return buffer.getvalue()
