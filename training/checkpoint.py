"""Checkpoints: written aside and renamed, checked by hash when read, old ones pruned after.

A checkpoint holds the trained weights, their moving average, the optimiser, and where the order of
samples stands. Random draws are keyed (draws.py), so there is no random state to keep. Processes
that share a model write and read their own rows of the same files, so a run goes on with another
number of processes; only 8-bit moments, which are rounded in blocks of rows, need the same number.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor

from echo4o.errors import Echo4oError
from echo4o.records import JsonValue, sha256_file, sync_folder, write_atomic

from . import streaming
from .optimise import Trained
from .order import Position, Visit
from .streaming import Share, together

logger = logging.getLogger(__name__)

_STATE = "state.json"
_WEIGHTS, _AVERAGE, _MOMENTS = (f"{name}.safetensors" for name in ("weights", "average", "moments"))


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
    refused: dict[str, str] = dataclasses.field(default_factory=dict)
    """Rows that cannot be used, as far as they came up: number and reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """A whole checkpoint on disk."""

    folder: Path
    progress: Progress
    steps: dict[str, int]
    """How often each parameter was moved."""
    writers: int
    """Processes that wrote it."""


def save(folder: Path, progress: Progress, trained: Trained, *, keep: int) -> Path:
    """Write `folder/step-NNNNNNN`, then remove all but the newest `keep`; every process calls this.

    Raises:
        Echo4oError: it could not be written, the disk is full; earlier checkpoints are untouched.
    """
    name = f"step-{progress.step:07d}"
    final, aside = folder / name, folder / f".{name}.tmp"
    rank, world = _ranks()
    files = {_WEIGHTS: trained.weights(), _AVERAGE: trained.average()}
    if not trained.is_8bit:
        files[_MOMENTS] = trained.moments()
    writers = max((streaming.share_of(t).world for t in files[_WEIGHTS].values()), default=1)
    hashes: dict[str, str] = {}

    def make() -> None:
        if rank == 0:
            for left in folder.glob(".step-*.tmp"):  # by a kill
                shutil.rmtree(left)
            aside.mkdir(parents=True)
            for file, tensors in files.items():
                streaming.create(aside / file, tensors)

    def fill() -> None:
        for file, tensors in files.items():
            hashes[file] = streaming.write(aside / file, tensors)
        if trained.is_8bit and rank < writers:
            hashes[_own(rank)] = _save_optimizer(aside / _own(rank), trained)

    def finish() -> None:
        if rank == 0:
            state = dataclasses.asdict(progress)
            state |= {"steps": trained.steps(), "writers": writers}
            state["files"] = {file: [part[file] for part in parts] for file in files}
            state["headers"] = {file: _header_hash(aside / file) for file in files}
            state["own"] = {
                _own(r): part[_own(r)] for r, part in enumerate(parts) if _own(r) in part
            }
            write_atomic(aside / _STATE, json.dumps(state, indent=1))
            # A folder cannot replace a folder that is not empty; the same step is written again
            # only after its older version turned out to be damaged.
            shutil.rmtree(final, ignore_errors=True)
            os.replace(aside, final)
            sync_folder(folder)

    with writing(final, aside if rank == 0 else None):
        together(make)
        together(fill)
        parts = _gather(hashes)[:writers]
        together(finish)
    if rank == 0:
        for old in _folders(folder)[:-keep]:
            shutil.rmtree(old)
    return final


@contextlib.contextmanager
def writing(what: Path, aside: Path | None = None) -> Iterator[None]:
    """Turn what a full disk makes of a save into a sentence, and remove what was begun.

    Raises:
        Echo4oError: the files could not be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError, Echo4oError) as error:
        if isinstance(error, Echo4oError):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise Echo4oError(
            f"{what} could not be written ({reason}); free some space and run the same command "
            f"again, it goes on from the newest checkpoint"
        ) from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def newest(folder: Path) -> Saved | None:
    """The newest checkpoint that is whole; None when there is none at all.

    Damaged ones are passed over with a notice. Every process calls this, each checks a share.

    Raises:
        DamagedCheckpointError: there are checkpoints, and every one is damaged.
    """
    folders = _folders(folder)
    for candidate in reversed(folders):
        saved, error = _examine(candidate)
        errors = [text for text in _gather(error) if text]
        if saved is not None and not errors:
            return saved
        if _ranks().rank == 0:
            logger.warning("%s; going back to the one before", errors[0])
    if folders:
        raise DamagedCheckpointError(
            f"all {len(folders)} checkpoints in {folder} are damaged; remove that folder to start "
            f"over"
        )
    return None


def load(saved: Saved, trained: Trained) -> None:
    """Fill weights, average and optimiser; every process its rows.

    Raises:
        Echo4oError: the checkpoint holds other parameters, or 8-bit moments of another number of
            processes.
    """
    _check_names(saved, trained)
    _read(saved.folder / _WEIGHTS, trained.weights())
    _read(saved.folder / _AVERAGE, trained.average())
    if not trained.is_8bit:
        _read(saved.folder / _MOMENTS, trained.expect_moments(saved.steps))
        return
    rank, world = _ranks()
    shared = max((streaming.share_of(t).world for t in trained.weights().values()), default=1)
    if saved.writers != shared:
        raise Echo4oError(
            f"the checkpoint of step {saved.progress.step} has 8-bit moments of {saved.writers} "
            f"processes, and this run shares the model among {shared}; use as many, or "
            f"optimizer=adamw from the start"
        )
    file = saved.folder / _own(rank if shared > 1 else 0)
    trained.optimizer.load_state_dict(torch.load(file, weights_only=True))


def _read(path: Path, tensors: dict[str, Tensor]) -> None:
    streaming.read(path, tensors, streaming.places(path))


def _examine(folder: Path) -> tuple[Saved | None, str | None]:
    """What a folder says it holds, and what this process found wrong with its share of it."""
    rank, world = _ranks()
    try:
        state = json.loads((folder / _STATE).read_bytes())
        writers: int = state.pop("writers")
        for file, expected in state.pop("headers").items():
            _compare(folder, file, _header_hash(folder / file), expected)
        for file, parts in state.pop("files").items():
            for number in range(rank, len(parts), world):
                found = streaming.digest(folder / file, Share(number, writers))
                _compare(folder, file, found, parts[number])
        for file, expected in state.pop("own").items():
            _compare(folder, file, sha256_file(folder / file), expected)
        steps: dict[str, int] = state.pop("steps")
        state["position"] = _position(state["position"])
        return Saved(folder=folder, progress=Progress(**state), steps=steps, writers=writers), None
    except DamagedCheckpointError as error:
        return None, str(error)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        return None, f"checkpoint {folder.name} cannot be read: {error}"


def _compare(folder: Path, file: str, found: str, expected: str) -> None:
    if found != expected:
        raise DamagedCheckpointError(f"checkpoint {folder.name}: {file} was damaged")


def _header_hash(path: Path) -> str:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return hashlib.sha256(file.read(length)).hexdigest()


def _check_names(saved: Saved, trained: Trained) -> None:
    held = streaming.places(saved.folder / _WEIGHTS)
    shapes = {name: place.shape for name, place in held.items()}
    if shapes != {name: tuple(p.shape) for name, p in trained.parameters.items()}:
        raise Echo4oError(
            f"the checkpoint of step {saved.progress.step} holds other parameters than this "
            f"recipe trains; choose another --out"
        )


def _save_optimizer(path: Path, trained: Trained) -> str:
    torch.save(trained.optimizer.state_dict(), path)
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return sha256_file(path)


def _own(rank: int) -> str:
    return f"optimizer-{rank:05d}.pt"


def _ranks() -> Share:
    return Share(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Share(0, 1)


def _gather(value: Any) -> list[Any]:
    """The value of every process, by rank."""
    if _ranks().world == 1:
        return [value]
    found: list[Any] = [None] * _ranks().world
    dist.all_gather_object(found, value)
    return found


def _position(fields: dict[str, Any]) -> Position:
    waiting = tuple(Visit(*visit) for visit in fields.pop("waiting"))
    return Position(waiting=waiting, **fields)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.is_dir())
