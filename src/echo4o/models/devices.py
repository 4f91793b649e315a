"""Where a module computes, which is not always where its weights lie; and memory on a CPU."""

import ctypes
import functools
import platform

import torch
from torch import nn

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""As in malloc.h."""


def working_device(module: nn.Module) -> torch.device:
    """Where inputs belong: accelerate may keep weights elsewhere and bring them when needed."""
    for part in module.modules():
        place = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if place is not None:
            return torch.device(place)
    return next(module.parameters()).device


@functools.cache
def keep_freed_memory() -> None:
    """Let glibc keep up to 256 MiB that is free, instead of asking the kernel again.

    Fresh pages cost 2 us each, which was a third of the autoencoder's time on a picture of
    256 x 256. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(M_TRIM_THRESHOLD, 256 * 2**20)
