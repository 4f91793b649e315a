"""RMS norm and rotary embedding with hand-written gradients, and sums and gates that reuse memory.

On a CPU the stock versions run as a dozen passes over memory each; these need three forward and
five backward, and keep fewer tensors. Same numbers up to rounding. Where no gradient is wanted they
work in place and without the bookkeeping of autograd, which counts when a text is written token by
token.
"""

import functools
from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

FEW = 8
"""Up to so many tokens are a few."""
ONEDNN_VALUES = 2**15
"""Below so many inputs the call costs more than it saves."""


class Linear(nn.Linear):
    """`nn.Linear` with faster paths for fp32 on a CPU, where no gradient is wanted.

    PyTorch multiplies fp32 matrices with MKL; oneDNN, which it has too, needs 5 to 8 % less time
    for many tokens on the processors with AVX-512 that were tried. With a few, such as the markers
    of a step, MKL reads the weights twice as fast when they are the left factor. The weights stay
    as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        weight = self.weight
        if (
            torch.is_grad_enabled()
            or x.device.type != "cpu"
            or not x.dtype == weight.dtype == torch.float32
            or type(weight) is not nn.Parameter  # quantised
            or torch.compiler.is_compiling()
        ):
            return super().forward(x)
        if x.dim() == 2 and 1 < len(x) <= FEW:
            x_t = x.contiguous().t()  # the result of another such product is not
            if self.bias is None:
                return (weight @ x_t).t()
            return torch.addmm(self.bias[:, None], weight, x_t).t()
        if x.numel() < ONEDNN_VALUES or not _has_onednn():
            return super().forward(x)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, self.bias, "none", [], "")
        return product


def is_plain(linear: nn.Module) -> bool:
    """Whether a call is the product with its weight and nothing else: no adapter, no hook."""
    if torch.compiler.is_compiling():
        return False
    hooks = linear._forward_hooks or linear._forward_pre_hooks or "forward" in vars(linear)
    return type(linear) is Linear and not hooks


@functools.cache
def _has_onednn() -> bool:
    """Whether oneDNN's product is there and the faster one."""
    fast = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return fast and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


class RmsNorm(nn.RMSNorm):
    """`nn.RMSNorm` with a cheaper path for fp32 on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        if x.device.type != "cpu" or x.dtype != torch.float32:
            return super().forward(x)
        if not torch.is_grad_enabled():
            unit, _ = _unit(x, cast(float, self.eps))
            return unit.mul_(self.weight)
        normed: Tensor = _RmsNorm.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
        return normed


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        unit, inverse = _unit(x, eps)
        ctx.save_for_backward(unit, inverse, weight)
        return unit * weight

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        unit, inverse, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        size = unit.shape[-1]
        product = (grad * unit).view(-1, size)
        along = (product @ weight).view(inverse.shape).div_(-size)
        grad_x = (grad * weight).addcmul_(unit, along).mul_(inverse)
        return grad_x, product.sum(0), None


def _unit(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Rows of mean square 1 as a new tensor, and the factors (..., 1) that made them."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    inverse = torch.addcmul(_number(eps, x.device), length, length, value=1 / x.shape[-1]).rsqrt_()
    return x * inverse, inverse


@functools.cache
def _number(value: float, device: torch.device) -> Tensor:
    """As a tensor: making one costs more than the sum it is needed for."""
    return torch.tensor(value, dtype=torch.float32, device=device)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, heads: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(table)
        return _rotated(heads, table)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        (table,) = ctx.saved_tensors  # type: ignore[attr-defined]
        # Rotating back is rotating by the negative angle.
        rolled = grad.roll(grad.shape[-1] // 2, dims=-1)
        return (grad * table[0]).addcmul_(rolled, table[1], value=-1), None


def _rotated(heads: Tensor, table: Tensor) -> Tensor:
    rolled = heads.roll(heads.shape[-1] // 2, dims=-1)
    return (heads * table[0]).addcmul_(rolled, table[1])


def rotate(heads: Tensor, table: Tensor) -> Tensor:
    """Apply the rotary table (2, ..., 1, D) to heads (..., H, D), half-split as in Qwen2."""
    if not torch.is_grad_enabled():
        return _rotated(heads, table)
    rotated: Tensor = _Rotate.apply(heads, table)  # type: ignore[no-untyped-call]
    return rotated


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up; without gradients `gate` is overwritten."""
    if torch.is_grad_enabled():
        return F.silu(gate) * up
    return F.silu(gate, inplace=True).mul_(up)


def plus(hidden: Tensor, added: Tensor) -> Tensor:
    """The sum; without gradients `added` is overwritten."""
    return hidden + added if torch.is_grad_enabled() else added.add_(hidden)
