"""Offloading, refused in clear words where there is nothing to offload from."""

import torch
from diffusers import DiffusionPipeline

from ...errors import Echo4oError


class OffloadMixin(DiffusionPipeline):
    """diffusers' two ways to keep weights in host memory until they are needed."""

    def enable_model_cpu_offload(
        self, gpu_id: int | None = None, device: torch.device | str | None = None
    ) -> None:
        """Bring whole parts to the accelerator and take them back.

        Raises:
            Echo4oError: there is no accelerator.
        """
        _need_accelerator(device)
        super().enable_model_cpu_offload(gpu_id, device)

    def enable_sequential_cpu_offload(
        self, gpu_id: int | None = None, device: torch.device | str | None = None
    ) -> None:
        """Bring layer after layer to the accelerator; slow, with very little memory.

        Raises:
            Echo4oError: there is no accelerator, or `device` is the CPU.
        """
        _need_accelerator(None if device is not None and _is_cpu(device) else device)
        super().enable_sequential_cpu_offload(gpu_id, device)


def _is_cpu(device: torch.device | str) -> bool:
    return torch.device(device).type == "cpu"


def _need_accelerator(device: torch.device | str | None) -> None:
    if device is None and not torch.accelerator.is_available():
        raise Echo4oError(
            "offloading brings weights from host memory to an accelerator, and none is visible; "
            "leave it out: on the CPU the weights lie in host memory anyway"
        )
