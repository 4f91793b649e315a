"""Attention for fp32 on processors with AVX-512, a third less time than PyTorch's: opt in.

`attn_implementation="native"` compiles `native_attention.cpp` with the machine's C++ compiler when
it is first used, which takes a second; nothing is kept on disk. It is for what a picture costs:
many queries that see all keys. Masks, gradients, a few queries and other types, devices or head
sizes go to PyTorch's attention, so that a model on a GPU is as fast as without it.
"""

import ctypes
import functools
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import Echo4oError

NAME = "native"
MANY_ROWS = 64
"""Fewer queries that share keys, over all their heads, are not worth reordering the keys."""
WIDTH, PANEL = 16, 48
"""Values of a register, and keys that are reordered together: as in the C++ file."""
_NUMBER, _POINTER = ctypes.c_int64, ctypes.c_void_p


def native_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: object,
) -> tuple[Tensor, None]:
    """(S, H, L, D) queries over (S, K, keys, D) -> (S, L, H, D), as transformers calls it.

    Raises:
        Echo4oError: the processor or the compiler that is needed is not there.
    """
    rows = query.shape[1] // key.shape[1] * query.shape[2]
    if (
        attention_mask is None
        and rows >= MANY_ROWS
        and not torch.is_grad_enabled()
        and query.device.type == "cpu"
        and query.dtype == key.dtype == value.dtype == torch.float32
        and query.shape[-1] % WIDTH == 0
    ):
        return torch.ops.echo4o.attend(query, key, value, scaling), None
    mixed = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return mixed.transpose(1, 2), None


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """(S, H, L, D) queries over (S, K, keys, D), of equal types -> (S, L, H, D)."""
    samples, heads, queries, head_size = query.shape
    kv_heads, keys = key.shape[1:3]
    run = compiled(head_size)
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
    mixed = query.new_empty(samples, queries, heads, head_size)
    panels = query.new_empty(kv_heads * -(-keys // PANEL) * PANEL * head_size)
    views = [(x.data_ptr(), x.stride()) for x in (query, key, value, mixed.transpose(1, 2))]
    sizes = (heads, kv_heads, queries, keys)
    for sample in range(samples):
        given = [n for start, (step, *by, _) in views for n in (start + 4 * sample * step, *by)]
        run(*given, panels.data_ptr(), *sizes, scale, torch.get_num_threads())
    return mixed


def _shaped(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    samples, heads, queries, head_size = query.shape
    return query.new_empty(samples, queries, heads, head_size)


# An operator, so that compilers and counters of work know it; `custom_op` takes 0.2 ms a call.
_NAME = "echo4o::attend"
torch.library.define(_NAME, "(Tensor query, Tensor key, Tensor value, float scale) -> Tensor")
torch.library.impl(_NAME, "CPU", attend)
torch.library.register_fake(_NAME, _shaped)


def missing() -> str | None:
    """What this machine lacks to run it."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return "a processor with AVX-512"
    if not _compiler():
        return "a C++ compiler: install g++, or name one in the variable CXX"
    return None


def _compiler() -> list[str]:
    """Its command."""
    if named := os.environ.get("CXX"):
        return shlex.split(named)
    return [found for name in ("g++", "clang++") if (found := shutil.which(name))][:1]


@functools.cache
def compiled(head_size: int) -> Any:
    """The function for heads of this size; it lives as long as the process."""
    if lacking := missing():
        raise Echo4oError(f'attn_implementation="{NAME}" needs {lacking}, or use "sdpa"')
    source = Path(__file__).with_suffix(".cpp")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "attention.so"
        flags = ["-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", f"-DHEAD={head_size}"]
        command = [*_compiler(), "-std=c++17", *flags, str(source), "-o", str(library)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            raise Echo4oError(
                f'attn_implementation="{NAME}" could not be compiled with {command[0]}: '
                f'{said.strip()[:300]}; name another compiler in CXX, or use "sdpa"'
            ) from error
        function = ctypes.CDLL(str(library)).attend
    views: list[Any] = [_POINTER, _NUMBER, _NUMBER] * 4
    function.argtypes = [*views, _POINTER, *[_NUMBER] * 4, ctypes.c_float, ctypes.c_int]
    function.restype = None
    return function
