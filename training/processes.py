"""One process or many: the accelerator, shares of packs, sums, and the signal to stop."""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self, TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType, parse_flag_from_env

from echo4o.errors import Echo4oError

from .config import TrainConfig

T = TypeVar("T")


def make_accelerator(config: TrainConfig, out: Path) -> Accelerator:
    """Processes, device and precision of a run.

    Raises:
        Echo4oError: the packs of a step cannot be shared equally, there are fewer devices than
            processes, or a tracker is not there.
    """
    _check_devices()
    _check_trackers(config.trackers)
    accelerator = Accelerator(
        # Unless it is told, accelerate gives several processes without a GPU no barriers.
        cpu=not torch.accelerator.is_available(),
        mixed_precision="bf16" if computes_in_bf16(config) else "no",
        log_with=list(config.trackers) or None,
        project_dir=out,
    )
    if config.packs_per_step % accelerator.num_processes:
        raise Echo4oError(
            f"`packs_per_step` = {config.packs_per_step} cannot be shared by "
            f"{accelerator.num_processes} processes; set it to a multiple of that"
        )
    return accelerator


def start_trackers(accelerator: Accelerator, config: TrainConfig, out: Path, started: str) -> None:
    """Begin the run in its trackers; only when nothing can be refused any more.

    `started` is when it began, over all calls: trackio knows by it that one goes on.
    """
    if "trackio" in config.trackers:
        # Read when trackio is imported; its figures stay with the run.
        os.environ.setdefault("TRACKIO_DIR", str(out.resolve() / "trackio"))
    if config.trackers:
        accelerator.init_trackers(
            "echo4o",
            config={"settings": json.dumps(config.to_dict())},
            init_kwargs={"trackio": {"name": f"{config.recipe} {started}", "resume": "allow"}},
        )


def _check_trackers(names: Sequence[str]) -> None:
    installed = [str(tracker) for tracker in get_available_trackers()]
    for name in names:
        if name not in LoggerType.list():
            known = ", ".join(LoggerType.list())
            raise Echo4oError(f"`trackers` has {name!r}; accelerate knows {known}")
        if name not in (*installed, "all"):
            raise Echo4oError(
                f"`trackers` has {name!r}, which is not installed: pip install {name}"
            )


def computes_in_bf16(config: TrainConfig) -> bool:
    """Whether matrices are multiplied in bfloat16."""
    return config.precision == "bf16" or (config.precision == "auto" and _has_gpu())


def _has_gpu() -> bool:
    return torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU")


def _check_devices() -> None:
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    devices = torch.cuda.device_count()
    if _has_gpu() and processes > devices:
        raise Echo4oError(
            f"{processes} processes need a GPU each and this machine has {devices}; start at most "
            f"{devices}, or set ACCELERATE_USE_CPU=true"
        )


def sum_over_processes(accelerator: Accelerator, values: Sequence[float]) -> list[float]:
    """Add each number over all processes, in float64."""
    if accelerator.num_processes == 1:
        return list(values)
    numbers = torch.tensor(values, dtype=torch.float64, device=accelerator.device)
    summed: list[float] = accelerator.reduce(numbers, reduction="sum").tolist()
    return summed


def rank_and_world() -> tuple[int, int]:
    """This process's number, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def gather_objects(mine: T) -> list[T]:
    """What every process has, in order of ranks."""
    _, world = rank_and_world()
    if world == 1:
        return [mine]
    found: list[T | None] = [None] * world
    dist.all_gather_object(found, mine)
    return cast(list[T], found)


class StopSignal:
    """While it is open, SIGTERM is noted instead of ending the process."""

    def __init__(self) -> None:
        self.received = False
        self._before = signal.getsignal(signal.SIGTERM)

    def __enter__(self) -> Self:
        signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True
