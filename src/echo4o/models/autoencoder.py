"""The autoencoder of diffusers, faster on a CPU. Its parameters stay as they are.

At 256 x 256 it spends as much time on moving pixels as on multiplying them, so what saves a pass
over them counts.
"""

from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from . import native

_CONVOLUTION = {
    "kernel_size": (3, 3),
    "stride": (1, 1),
    "padding": (1, 1),
    "dilation": (1, 1),
    "groups": 1,
    "padding_mode": "zeros",
}
_BLOCK = {
    "time_emb_proj": None,
    "upsample": None,
    "downsample": None,
    "output_scale_factor": 1,
}


class Convolution(nn.Conv2d):
    """A 3 x 3 convolution that goes through `native.convolve` where that is for it."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, height, width) -> (B, out, height, width)."""
        if self.bias is not None and native.can_convolve(x, self.weight, self.bias):
            return native.convolve(x, self.weight, self.bias)
        return super().forward(x)


class ResidualBlock(ResnetBlock2D):
    """The block of an autoencoder; its sum overwrites a summand and is not divided by 1."""

    def forward(self, input_tensor: Tensor, temb: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        """(B, in, height, width) -> (B, out, height, width)."""
        if torch.is_grad_enabled() or self.training or temb is not None:
            made: Tensor = super().forward(input_tensor, temb, *args, **kwargs)
            return made
        hidden = self.conv1(self.nonlinearity(self.norm1(input_tensor)))
        hidden = self.conv2(self.nonlinearity(self.norm2(hidden)))
        if self.conv_shortcut is not None:
            input_tensor = self.conv_shortcut(input_tensor)
        return hidden.add_(input_tensor)


def tune(autoencoder: nn.Module) -> None:
    """Let activations and sums overwrite what nobody else reads, and take `Convolution`."""
    for part in autoencoder.modules():
        if isinstance(part, nn.SiLU):
            part.inplace = True
        elif type(part) is nn.Conv2d and _has(part, _CONVOLUTION):
            part.__class__ = Convolution
        elif type(part) is ResnetBlock2D and _has(part, _BLOCK):
            part.__class__ = ResidualBlock


def _has(part: nn.Module, values: dict[str, Any]) -> bool:
    return all(getattr(part, name) == value for name, value in values.items())


def channels_last(pictures: Tensor) -> Tensor:
    """(B, C, height, width) in the order of memory that convolutions on a CPU need.

    Else oneDNN reorders every input and output; the autoencoder takes a seventh less time so. A
    copy, because one picture may be in that order with steps that convolutions take for another.
    """
    if pictures.device.type != "cpu":
        return pictures
    return pictures.clone(memory_format=torch.channels_last)
