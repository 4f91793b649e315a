"""What a picture costs, in fp32 on processors with AVX-512, faster than PyTorch computes it.

`native.cpp` is compiled by the machine's C++ compiler when it is first needed, which takes a
second, and kept in the user's cache. It is for what a picture costs: many tokens, no masks, no
gradients. Where it cannot be had (another processor, no compiler, `ECHO4O_NATIVE=0`), and for
everything else, PyTorch computes; results are the same up to rounding.

Each kernel is an operator of PyTorch, so that counters and profilers of work see it.
"""

import ctypes
import functools
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

SWITCH = "ECHO4O_NATIVE"
FEW = 64
"""Fewer rows are not worth reordering what they are multiplied with."""
WIDTH, PAIR, PANEL, LARGEST_HEAD, TILES, CHUNK = 16, 32, 48, 256, 32, 1024
"""Values of a register and of two, keys that are reordered together, values of a head, tiles of a
convolution that are worked on together, pixels that are summed together: as in the C++ file."""
LARGEST_WIDTH = 1024
"""Of the weights of a gate: wider panels do not fit into the second cache."""
FLAGS = "-O3 -std=c++17 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -fopenmp -shared -fPIC"
_N, _P = ctypes.c_int64, ctypes.c_void_p
_ARGUMENTS: dict[str, list[Any]] = {
    "attend": [*[_P, _N, _N] * 4, _P, *[_N] * 5, ctypes.c_float, ctypes.c_int],
    "convolve": [*[_P] * 5, *[_N] * 4, ctypes.c_int],
    "normalise": [*[_P] * 5, *[_N] * 3, ctypes.c_float, ctypes.c_int, ctypes.c_int],
    "gated": [_P, _N, *[_P] * 4, *[_N] * 3, ctypes.c_int],
}


def serves(*tensors: Tensor) -> bool:
    """Whether these may go through a kernel now: fp32 on the CPU, no gradients, no compiler."""
    return (
        not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and all(_is_plain(x) for x in tensors)
        and kernels() is not None
    )


def _is_plain(x: Tensor) -> bool:
    """Numbers in memory, not quantised or sharded ones."""
    is_fp32 = x.device.type == "cpu" and x.dtype == torch.float32
    return is_fp32 and type(x) in (Tensor, nn.Parameter)


def can_attend(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether `attend` is for this: (S, H, L, D) queries over (S, K, keys, D)."""
    rows, size = query.shape[1] // key.shape[1] * query.shape[2], query.shape[3]
    fits = size % WIDTH == 0 and size <= LARGEST_HEAD
    return rows >= FEW and fits and serves(query, key, value)


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attention without a mask: (S, H, L, D) over (S, K, keys, D) -> (S, L, H, D)."""
    mixed: Tensor = torch.ops.echo4o.attend(query, key, value, scale)
    return mixed


def can_gate(x: Tensor, gate: Tensor, up: Tensor) -> bool:
    """Whether `gated` is for this: (T, C) tokens, both weights (inner size, C)."""
    inner, width = gate.shape
    fits = inner % WIDTH == 0 and width % WIDTH == 0 and width <= LARGEST_WIDTH
    return len(x) >= FEW and fits and serves(x, gate, up)


def gated(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """silu(x gate^T) * (x up^T): (T, C) tokens -> (T, inner size)."""
    inner: Tensor = torch.ops.echo4o.gated(x, gate, up)
    return inner


def can_convolve(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether `convolve` is for this: (B, in, height, width), channels last; (out, in, 3, 3)."""
    out, channels = weight.shape[:2]
    fits = channels % WIDTH == 0 and out % PAIR == 0
    return fits and is_channels_last(x) and serves(x, weight, bias)


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of a pixel are next to each other, and its pixels in each picture."""
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """3 x 3 convolution with a border of zeros: (B, in, ...) -> (B, out, ...), channels last.

    By Winograd's minimal filtering (Lavin and Gray, arXiv 1509.09308): 16 products for 4 pixels,
    which are 36 by the definition.
    """
    made: Tensor = torch.ops.echo4o.convolve(x, weight, bias)
    return made


def can_normalise(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether `normalise` is for this: (B, C, height, width), channels last; (C,)."""
    return x.shape[1] % WIDTH == 0 and is_channels_last(x) and serves(x, weight, bias)


def normalise(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, *, activated: bool
) -> Tensor:
    """Group norm, then SiLU if `activated`: (B, C, height, width), channels last.

    The variance is that of the distances from one pixel, so that even pictures keep their digits.
    """
    made: Tensor = torch.ops.echo4o.normalise(x, weight, bias, groups, eps, activated)
    return made


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    samples, heads, queries, size = query.shape
    kv_heads, keys = key.shape[1:3]
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
    mixed = query.new_empty(samples, queries, heads, size)
    panels = query.new_empty(kv_heads * -(-keys // PANEL) * PANEL * size)
    views = [(x.data_ptr(), x.stride()) for x in (query, key, value, mixed.transpose(1, 2))]
    sizes = (heads, kv_heads, queries, keys, size)
    for sample in range(samples):
        given = [n for start, (step, *by, _) in views for n in (start + 4 * sample * step, *by)]
        _run("attend", *given, panels.data_ptr(), *sizes, scale)
    return mixed


def _gated(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    x, gate, up = x.contiguous(), gate.contiguous(), up.contiguous()
    inner, width = gate.shape
    out, panels = x.new_empty(len(x), inner), x.new_empty(torch.get_num_threads() * PAIR * width)
    places = [t.data_ptr() for t in (gate, up, out, panels)]
    _run("gated", x.data_ptr(), width, *places, len(x), width, inner)
    return out


@functools.cache
def _winograd() -> Tensor:
    """(9, 16): a filter g -> G g G^T."""
    g = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    return torch.kron(g, g).t().contiguous()


def _convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out, channels = weight.shape[:2]
    height, width = x.shape[2:]
    filters = (weight.flatten(2) @ _winograd()).permute(2, 1, 0).contiguous()
    bias = bias.contiguous()
    made = torch.empty(
        (len(x), out, height, width), dtype=x.dtype, memory_format=torch.channels_last
    )
    scratch = x.new_empty(torch.get_num_threads() * 16 * TILES * (channels + out))
    rest = (filters.data_ptr(), bias.data_ptr())
    for before, after in zip(x, made, strict=True):
        places = (before.data_ptr(), *rest, after.data_ptr(), scratch.data_ptr())
        _run("convolve", *places, height, width, channels, out)
    return made


def _normalise(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, activated: bool
) -> Tensor:
    weight, bias = weight.contiguous(), bias.contiguous()
    made, channels, pixels = torch.empty_like(x), x.shape[1], x.shape[2] * x.shape[3]
    sums = x.new_empty((-(-pixels // CHUNK) + 1) * 2 * channels, dtype=torch.float64)
    rest = (weight.data_ptr(), bias.data_ptr())
    for before, after in zip(x, made, strict=True):
        places = (before.data_ptr(), *rest, after.data_ptr(), sums.data_ptr())
        _run("normalise", *places, pixels, channels, groups, eps, activated)
    return made


def _run(name: str, *arguments: Any) -> None:
    library = kernels()
    assert library is not None
    getattr(library, name)(*arguments, torch.get_num_threads())


for _name, _function, _signature in (
    ("attend", _attend, "(Tensor query, Tensor key, Tensor value, float scale) -> Tensor"),
    ("convolve", _convolve, "(Tensor x, Tensor weight, Tensor bias) -> Tensor"),
    (
        "normalise",
        _normalise,
        "(Tensor x, Tensor weight, Tensor bias, int groups, float eps, bool activated) -> Tensor",
    ),
    ("gated", _gated, "(Tensor x, Tensor gate, Tensor up) -> Tensor"),
):
    # Not `custom_op`: that takes 0.2 ms a call.
    torch.library.define(f"echo4o::{_name}", _signature)
    torch.library.impl(f"echo4o::{_name}", "CPU", _function)


def missing() -> str | None:
    """What this machine lacks, in words, or None."""
    if os.environ.get(SWITCH) == "0":
        return f"a value of {SWITCH} that is not 0"
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
def kernels() -> ctypes.CDLL | None:
    """The compiled functions, or None where they cannot be had, which is said once."""
    if lacking := missing():
        logger.info("the CPU kernels need %s; PyTorch's are used", lacking)
        return None
    try:
        library = _load(_compiler())
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip()[:300]
        logger.warning("the CPU kernels could not be compiled, PyTorch's are used: %s", said)
        return None
    for name, types in _ARGUMENTS.items():
        getattr(library, name).argtypes, getattr(library, name).restype = types, None
    return library


def _load(compiler: list[str]) -> ctypes.CDLL:
    """Compile, unless that was done before; a library is named by what it was made of."""
    source = Path(__file__).with_suffix(".cpp")
    command = [*compiler, *FLAGS.split(), str(source)]
    made_of = shlex.join(command[:-1]).encode() + source.read_bytes()
    name = f"native-{hashlib.sha256(made_of).hexdigest()[:16]}.so"
    kept = _cache()
    if kept is not None and (kept / name).is_file():
        return ctypes.CDLL(str(kept / name))
    with tempfile.TemporaryDirectory(dir=kept, prefix=".") as scratch:
        library = Path(scratch, name)
        made = [*command, "-o", str(library)]
        subprocess.run(made, check=True, capture_output=True, text=True)
        if kept is not None:
            library = library.replace(kept / name)
        return ctypes.CDLL(str(library))


def _cache() -> Path | None:
    """A folder that only the user may write to, or None where there is none."""
    try:
        home = os.environ.get("XDG_CACHE_HOME")
        folder = (Path(home) if home else Path.home() / ".cache") / "echo4o"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        is_ours = os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid()
    except (OSError, RuntimeError):
        return None
    return folder if is_ours else None
