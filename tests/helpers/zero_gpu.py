"""Runs a Space's app with the real `spaces` package in ZeroGPU mode, on a machine without a GPU.

Everything is that package's own - its stand-in for CUDA while the app is imported, its forked
worker, its messages to the device service - except the last step: weights that the worker would
move to the GPU stay where they are. Started as a program: SPACE_FOLDER.
"""

import runpy
import sys
from collections.abc import Callable

import torch

# What a build of torch for CPUs lacks and the package looks at.
torch.version.cuda = torch.version.cuda or "12.8"
if not hasattr(torch._C, "_cuda_init"):
    torch._C._cuda_init = lambda: None
    torch.cuda._is_in_bad_fork = bool
import spaces.zero.torch as zero  # noqa: E402
from spaces.zero.torch import patching  # noqa: E402


def stay(callback: Callable[[int], object] | None = None) -> None:
    """What `move` does, without a GPU: every stand-in gets its own numbers."""
    for stand_in, original in patching.cuda_aliases.items():
        if original is not None:
            stand_in.data = torch.Tensor(original)


zero.pack = lambda: zero.size()
zero.init = lambda _uuid: None
zero.move = stay
sys.path.insert(0, sys.argv[1])
runpy.run_path(f"{sys.argv[1]}/app.py", run_name="__main__")
