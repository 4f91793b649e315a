"""Where a module computes, which is not always where its weights lie."""

import torch
from torch import nn


def working_device(module: nn.Module) -> torch.device:
    """Where inputs belong: accelerate may keep weights elsewhere and bring them when needed."""
    for part in module.modules():
        place = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if place is not None:
            return torch.device(place)
    return next(module.parameters()).device
