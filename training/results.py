"""What a run leaves behind: the loss trace, pictures along the way, the model and its record."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from echo4o.errors import Echo4oError
from echo4o.launch import is_first_rank
from echo4o.models.pictures import PictureRecord, encode_png
from echo4o.records import (
    Input,
    RunRecord,
    refuse_foreign,
    sha256_file,
    sync_folder,
    write_atomic,
)

from .checkpoint import writing
from .config import TrainConfig, differences
from .data import Rows
from .resume import State, share_refused
from .sharding import is_sharded, whole
from .streaming import together

_TRACE = "loss.jsonl"
_LAST_STEPS = 100


class StepFacts(NamedTuple):
    """What one optimiser step gave, over all its packs and processes."""

    loss: float
    mse: float
    ce: float
    grad_norm: float
    """Before clipping."""
    tokens: int
    samples: int
    stop: bool
    """Some process was told to stop."""
    flops: float
    """Operations of forward and backward."""
    by_subset: dict[str, tuple[float, float]]
    """Per subset the sum of its tokens' losses, and the number of these tokens."""


class Trace:
    """`loss.jsonl`, one line a step; a resumed run goes on where its checkpoint was."""

    def __init__(self, out: Path, *, after_step: int, write: bool) -> None:
        self._path = out / _TRACE
        self._write = write
        if write:
            kept = [line for line in _lines(self._path) if json.loads(line)["step"] <= after_step]
            write_atomic(self._path, "".join(kept))

    def add(self, step: int, facts: StepFacts, rate: float) -> None:
        """Append the figures of a step."""
        if not self._write:
            return
        line = {"step": step, "loss": facts.loss, "mse": facts.mse, "ce": facts.ce, "lr": rate}
        line |= {"grad_norm": facts.grad_norm, "tokens": facts.tokens, "samples": facts.samples}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def sync(self) -> None:
        """Make what was added survive a power cut."""
        if self._write:
            with self._path.open("a") as file:
                os.fsync(file.fileno())


def trace_lines(out: Path) -> list[dict[str, float]]:
    """The figures of all steps so far."""
    return [json.loads(line) for line in _lines(out / _TRACE)]


def _lines(path: Path) -> Iterator[str]:
    """Whole lines of a trace; the last one may have been cut off by a kill."""
    if path.exists():
        with path.open() as file:
            yield from (line for line in file if line.endswith("\n"))


def is_finished(config: TrainConfig, rows: Rows, out: Path) -> bool:
    """Whether `out` holds the finished result of this very run.

    Raises:
        Echo4oError: it holds the result of another run, or of something else.
    """
    refuse_foreign(out, "train")
    if not all((out / name).exists() for name in ("record.json", *config.artefacts)):
        return False
    record = RunRecord.load(out)
    changed = differences(record.parameters, config)
    if record.inputs[0].sha256 != rows.digest:
        changed.append("the rows of the dataset")
    if not changed:
        return True
    if config.resume_force:
        return False
    raise Echo4oError(
        f"{out} holds a finished run with other settings ({'; '.join(changed)}); choose another "
        f"--out"
    )


@contextlib.contextmanager
def shown(state: State, config: TrainConfig) -> Iterator[None]:
    """The model has the weights that are saved inside, and is in evaluation mode."""
    weights = state.trained.averaged() if config.save_weights == "ema" else nullcontext()
    with weights:
        state.family.model.eval()
        try:
            yield
        finally:
            state.family.model.train()


def save_pictures(state: State, config: TrainConfig, out: Path) -> Path | None:
    """Draw the fixed prompts, side by side: `samples/step-NNNNNNN.png`; returns the file.

    Where processes share the model all of them draw, else only the first.
    """
    first, model = is_first_rank(), state.family.model
    if not config.sample_prompts or not (first or is_sharded(model)):
        return None
    with shown(state, config), whole(model):
        pictures = state.family.pictures(config.sample_prompts)
    if not first:
        return None
    width = sum(picture.width for picture in pictures)
    sheet = Image.new("RGB", (width, max(picture.height for picture in pictures)))
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width
    record = PictureRecord(
        prompt=" | ".join(config.sample_prompts),
        model=f"{config.recipe}, step {state.step}",
        parameters={"steps": config.sample_steps, "guidance": config.sample_guidance},
    )
    data = encode_png(sheet, record)
    path = out / "samples" / f"step-{state.step:07d}.png"
    write_atomic(path, data)
    return path


def save_result(state: State, config: TrainConfig, rows: Rows, out: Path) -> None:
    """Write model or adapter, then the record; the record means finished. Every process calls this.

    Raises:
        Echo4oError: they could not be written, the disk is full.
    """
    share_refused(rows)
    with shown(state, config):
        for artefact in config.artefacts:
            _save_folder(state, artefact, out)
    if not is_first_rank():
        return
    write_atomic(out / "config.json", json.dumps(config.to_dict(), indent=2) + "\n")
    found = (path for name in config.artefacts for path in sorted((out / name).rglob("*")))
    files = [path for path in found if path.is_file()] + [out / _TRACE]
    _record(state, config, rows, out, out, files).save(out)


def save_copy(state: State, config: TrainConfig, rows: Rows, out: Path, folder: Path) -> RunRecord:
    """Write the weights as they are now into `folder`; every process calls this.

    Raises:
        Echo4oError: they could not be written, the disk is full.
    """
    artefact = config.artefacts[0]
    share_refused(rows)
    with shown(state, config), writing(folder, None):
        if is_first_rank() or artefact == "model":
            state.family.save(artefact, folder)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return _record(state, config, rows, out, folder, files if is_first_rank() else [])


def _record(
    state: State, config: TrainConfig, rows: Rows, out: Path, home: Path, files: list[Path]
) -> RunRecord:
    base = config.base_model or "base"
    name = Path(base).resolve().name if Path(base).is_dir() else base
    return RunRecord(
        name=config.recipe,
        command=f"echo4o train run {config.recipe}",
        inputs=(
            rows.source,
            Input(kind="model", id=name, revision=config.base_revision),
        ),
        parameters=config.to_dict(),
        seed=config.seed,
        metrics={
            **_trace_metrics(out / _TRACE),
            "epochs": state.feed.epochs,
            "fill_rate": state.feed.fill_rate,
            "parameters_trained": sum(p.numel() for p in state.trained.parameters.values()),
            "rows": len(rows),
            "rows_skipped": dict(rows.skipped),
            "samples_without_place": state.feed.position.skipped,
        },
        files={path.relative_to(home).as_posix(): sha256_file(path) for path in files},
        started=state.started,
        seconds=state.seconds,
    )


def _save_folder(state: State, artefact: str, out: Path) -> None:
    aside, final = out / f".{artefact}.tmp", out / artefact
    first = is_first_rank()

    def clear() -> None:
        if first:
            shutil.rmtree(aside, ignore_errors=True)

    def show() -> None:
        if first:
            shutil.rmtree(final, ignore_errors=True)
            os.replace(aside, final)
            sync_folder(out)

    with writing(final, aside if first else None):
        together(clear)
        if first or artefact == "model":
            state.family.save(artefact, aside)
        together(show)


def _trace_metrics(path: Path) -> dict[str, int | float | None]:
    lines = [json.loads(line) for line in _lines(path)]
    last = [line["loss"] for line in lines[-_LAST_STEPS:]]
    return {
        "steps": len(lines),
        "samples": sum(line["samples"] for line in lines),
        "tokens": sum(line["tokens"] for line in lines),
        "first_loss": lines[0]["loss"] if lines else None,
        "last_loss": sum(last) / len(last) if last else None,
    }
