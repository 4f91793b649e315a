"""Checkpoints: written aside and renamed, checked by hash when read, old ones pruned after.

A checkpoint holds the trained weights, their moving average, the optimiser, and where the order of
samples stands. Random draws are keyed (draws.py), so there is no random state to keep.
"""

import contextlib
import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from echo4o.errors import Echo4oError
from echo4o.records import JsonValue, sha256_file, sync_folder, write_atomic

from .order import Position, Visit

logger = logging.getLogger(__name__)

_STATE = "state.json"
_WEIGHTS, _AVERAGE, _OPTIMIZER = "weights.safetensors", "average.safetensors", "optimizer.pt"


class DamagedCheckpointError(Echo4oError):
    """A checkpoint is incomplete or does not have the content it was written with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What a checkpoint knows besides tensors."""

    step: int
    """Optimiser steps done."""
    position: Position
    """Where the order of samples stands."""
    config: dict[str, JsonValue]
    """Settings of the run that wrote it."""
    data: str
    """Digest of the dataset's rows."""
    started: str
    """When the run began, ISO 8601, UTC."""
    seconds: float
    """Time trained so far, over all calls."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A complete state of training."""

    progress: Progress
    weights: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    optimizer: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write `folder/step-NNNNNNN`, then remove all but the newest `keep`.

    Raises:
        OSError, Echo4oError: the disk is full; earlier checkpoints are untouched.
    """
    name = f"step-{checkpoint.progress.step:07d}"
    final, aside = folder / name, folder / f".{name}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        with writing(final):
            _write(aside, checkpoint)
        # A folder cannot replace a folder that is not empty; the same step is written again only
        # after its older version turned out to be damaged.
        shutil.rmtree(final, ignore_errors=True)
        os.replace(aside, final)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    sync_folder(folder)
    for old in _folders(folder)[:-keep]:
        shutil.rmtree(old)
    return final


@contextlib.contextmanager
def writing(what: Path) -> Iterator[None]:
    """Turn what safetensors and torch raise when a disk is full into a sentence.

    Raises:
        Echo4oError: the files could not be written.
    """
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        raise Echo4oError(
            f"{what} could not be written ({error}); free some space and run the same command "
            f"again, it goes on from the newest checkpoint"
        ) from error


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    save_file({k: v.contiguous() for k, v in checkpoint.weights.items()}, folder / _WEIGHTS)
    save_file({k: v.contiguous() for k, v in checkpoint.average.items()}, folder / _AVERAGE)
    torch.save(checkpoint.optimizer, folder / _OPTIMIZER)
    names = (_WEIGHTS, _AVERAGE, _OPTIMIZER)
    for name in names:
        with (folder / name).open("rb+") as file:
            os.fsync(file.fileno())
    state = dataclasses.asdict(checkpoint.progress)
    state["files"] = {name: sha256_file(folder / name) for name in names}
    write_atomic(folder / _STATE, json.dumps(state, indent=1))


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; None when there is none at all.

    Damaged ones are passed over with a notice.

    Raises:
        DamagedCheckpointError: there are checkpoints, and every one is damaged.
    """
    folders = _folders(folder)
    for candidate in reversed(folders):
        try:
            return _read(candidate)
        except DamagedCheckpointError as error:
            logger.warning("%s; going back to the one before", error)
    if folders:
        raise DamagedCheckpointError(
            f"all {len(folders)} checkpoints in {folder} are damaged; remove that folder to start "
            f"over"
        )
    return None


def _read(folder: Path) -> Checkpoint:
    try:
        state = json.loads((folder / _STATE).read_bytes())
        for name, expected in state.pop("files").items():
            if sha256_file(folder / name) != expected:
                raise DamagedCheckpointError(f"checkpoint {folder.name}: {name} was damaged")
        state["position"] = _position(state["position"])
        progress = Progress(**state)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(f"checkpoint {folder.name} cannot be read: {error}") from None
    return Checkpoint(
        progress=progress,
        weights=load_file(folder / _WEIGHTS),
        average=load_file(folder / _AVERAGE),
        optimizer=torch.load(folder / _OPTIMIZER, weights_only=True),
    )


def _position(fields: dict[str, Any]) -> Position:
    waiting = tuple(Visit(*visit) for visit in fields.pop("waiting"))
    return Position(waiting=waiting, **fields)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.is_dir())
