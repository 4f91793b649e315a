"""Weights, gradients and everything that follows them shared by processes (FSDP2 `fully_shard`).

The same path on GPUs and on a CPU (gloo): accelerate gives the processes and the device, but its
own preparation ignores FSDP2 without a GPU, and wants a whole copy of the weights to start from.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from echo4o.errors import Echo4oError

from .config import TrainConfig


def make_mesh(config: TrainConfig, accelerator: Accelerator) -> DeviceMesh | None:
    """The processes that share the model; None when each holds all of it.

    Raises:
        Echo4oError: sharding was asked for, and this version of torch or this recipe cannot do it.
    """
    device = accelerator.device.type
    if config.shard == "none" or accelerator.num_processes == 1:
        return None
    if config.shard == "auto" and (device == "cpu" or config.lora is not None):
        return None
    if config.lora is not None:
        raise Echo4oError("adapters are trained with the whole base on every device: shard=none")
    if not callable(getattr(FSDPModule, "set_reduce_scatter_unused_params", None)):
        raise Echo4oError(
            f"sharing a model needs a newer torch than {torch.__version__}; install the tested "
            f"one (constraints.txt) or set shard=none"
        )
    return init_device_mesh(device, (accelerator.num_processes,))


def shard(
    model: nn.Module,
    layers: nn.ModuleList,
    mesh: DeviceMesh,
    *,
    bf16: bool,
    apart: frozenset[nn.Parameter] = frozenset(),
) -> None:
    """Divide a model's parameters by rows; each layer is put together while it is needed.

    Only layers that every process runs in every forward may be in `layers`: they are gathered one
    by one. Everything else (embeddings, heads, vision tower) is gathered with the whole model, but
    for what is `apart`: small parameters that are used outside of the forward, whole everywhere.
    """
    # It warns of in-place operations on what a layer returns; recording gradients, we have none.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,  # flow times and noise stay float32
    )
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy, ignored_params=set(apart))
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # Every pack's loss is already its share of the step, so gradients are added up.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
            # A process whose pack has no picture must still send (zero) gradients of the tower.
            module.set_reduce_scatter_unused_params(True)


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """What is not in layers is put together meanwhile, for calls of a part of the model."""
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` was called on it."""
    return isinstance(model, FSDPModule)
