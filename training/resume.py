"""The state of a run in memory, and how it is saved to and taken up from checkpoints."""

import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from echo4o.errors import Echo4oError

from . import checkpoint
from .checkpoint import Progress
from .config import TrainConfig, differences
from .data import Rows
from .family import Batch, Family
from .feed import Feed
from .optimise import Trained
from .processes import gather_objects

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class State:
    """Everything that changes while training."""

    family: Family
    trained: Trained
    feed: Feed[Any]
    spare: Batch | None = None
    """The last pack of this process."""
    step: int = 0
    """Optimiser steps done."""
    saved_step: int = 0
    """The newest checkpoint's."""
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    """When the first call began, UTC."""
    earlier_seconds: float = 0.0
    """Time of earlier calls."""
    began: float = field(default_factory=time.monotonic)
    """Clock at the start of this call."""

    @property
    def seconds(self) -> float:
        """Time trained so far, over all calls."""
        return self.earlier_seconds + time.monotonic() - self.began


def resume(state: State, config: TrainConfig, rows: Rows, out: Path) -> None:
    """Take up the newest whole checkpoint in `out`, if there is one.

    Raises:
        Echo4oError: it was made with other settings or rows, and `resume_force` is not set.
    """
    saved = checkpoint.newest(out / "checkpoints")
    if saved is None:
        return
    _refuse_others(saved.progress, config, rows)
    checkpoint.load(saved, state.trained)
    state.feed.position = saved.progress.position
    for number, reason in saved.progress.refused.items():
        rows.skip(int(number), reason)
    state.step = state.saved_step = saved.progress.step
    state.started, state.earlier_seconds = saved.progress.started, saved.progress.seconds
    logger.info("going on after step %d of %d", state.step, config.steps)


def save_state(state: State, config: TrainConfig, rows: Rows, out: Path) -> None:
    """Write a checkpoint; every process calls this."""
    share_refused(rows)
    progress = Progress(
        step=state.step,
        position=state.feed.position,
        config=config.to_dict(),
        data=rows.digest,
        started=state.started,
        seconds=state.seconds,
        refused={str(number): reason for number, reason in rows.refused.items()},
    )
    checkpoint.save(out / "checkpoints", progress, state.trained, keep=config.keep_checkpoints)
    state.saved_step = state.step


def share_refused(rows: Rows) -> None:
    """Let every process know of all rows that any of them could not use."""
    for refused in gather_objects(rows.refused):
        for number, reason in refused.items():
            rows.skip(number, reason)


def _refuse_others(progress: Progress, config: TrainConfig, rows: Rows) -> None:
    changed = differences(progress.config, config)
    if progress.data != rows.digest:
        changed.append("the rows of the dataset")
    if not changed:
        return
    if config.resume_force:
        logger.warning("going on with changes: %s", "; ".join(changed))
        return
    raise Echo4oError(
        f"the checkpoint of step {progress.step} was made with other settings ({'; '.join(changed)}"
        f"); choose another --out, or go on with --force"
    )
