"""The autoencoder of diffusers, faster on a CPU. Its parameters stay as they are.

At 256 x 256 it spends as much time on moving pixels as on multiplying them, so what saves a pass
over them counts.
"""

from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional as F

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


class Norm(nn.GroupNorm):
    """A group norm that keeps its digits where a picture is even, and goes through a kernel.

    PyTorch's norm of channels-last tensors (2.13) does not: latents of a picture of one colour,
    about 3 large, were 1 to 3 off. So such tensors are put into the other order for it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, height, width) -> (B, C, height, width)."""
        return self.normalised(x, activated=False)

    def normalised(self, x: Tensor, *, activated: bool) -> Tensor:
        """The norm, then SiLU if `activated`."""
        weight, bias = self.weight, self.bias
        if native.can_normalise(x, weight, bias):
            return native.normalise(x, weight, bias, self.num_groups, self.eps, activated=activated)
        made = super().forward(x.contiguous() if x.device.type == "cpu" else x)
        return F.silu(made, inplace=not torch.is_grad_enabled()) if activated else made


class ResidualBlock(ResnetBlock2D):
    """The block of an autoencoder; its sum overwrites a summand and is not divided by 1."""

    def forward(self, input_tensor: Tensor, temb: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        """(B, in, height, width) -> (B, out, height, width)."""
        if torch.is_grad_enabled() or self.training or temb is not None:
            made: Tensor = super().forward(input_tensor, temb, *args, **kwargs)
            return made
        hidden = self.conv1(self.norm1.normalised(input_tensor, activated=True))
        hidden = self.conv2(self.norm2.normalised(hidden, activated=True))
        if self.conv_shortcut is not None:
            input_tensor = self.conv_shortcut(input_tensor)
        return hidden.add_(input_tensor)


def tune(autoencoder: nn.Module) -> None:
    """Let activations and sums overwrite what nobody else reads, and take the classes above."""
    for part in autoencoder.modules():
        if isinstance(part, nn.SiLU):
            part.inplace = True
        elif type(part) is nn.Conv2d and _has(part, _CONVOLUTION):
            part.__class__ = Convolution
        elif type(part) is nn.GroupNorm and part.affine:
            part.__class__ = Norm
        elif type(part) is ResnetBlock2D and _has(part, _BLOCK) and _has_silu(part):
            part.__class__ = ResidualBlock


def _has_silu(part: ResnetBlock2D) -> bool:
    return isinstance(part.nonlinearity, nn.SiLU)


def _has(part: nn.Module, values: dict[str, Any]) -> bool:
    return all(getattr(part, name) == value for name, value in values.items())


def channels_last(pictures: Tensor) -> Tensor:
    """(B, C, height, width) in the order of memory that the kernels need, where there are any.

    A copy, because one picture may be in that order with a step that convolutions take for another
    order.
    """
    if pictures.device.type != "cpu" or native.kernels() is None:
        return pictures
    return pictures.clone(memory_format=torch.channels_last)
