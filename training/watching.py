"""What a run says while it goes - trace, console, trackers - and when it must stop.

The trace holds nothing that depends on the clock: equal runs write equal files.
"""

import logging
import math
import resource
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from tqdm import tqdm

from echo4o.errors import Echo4oError

from .config import TrainConfig
from .processes import gather_objects
from .results import StepFacts, Trace, trace_lines
from .work import peak_flops

logger = logging.getLogger(__name__)

_WINDOW = 50
"""Steps that say what a usual loss is."""


class _Interval(NamedTuple):
    """Sums since the last console line."""

    since: float
    tokens: int = 0
    flops: float = 0.0
    capacity: int = 0
    subsets: Mapping[str, tuple[float, float]] = {}

    def plus(self, facts: StepFacts, capacity: int) -> "_Interval":
        subsets = dict(self.subsets)
        for name, (total, count) in facts.by_subset.items():
            before = subsets.get(name, (0.0, 0.0))
            subsets[name] = (before[0] + total, before[1] + count)
        return _Interval(
            self.since,
            self.tokens + facts.tokens,
            self.flops + facts.flops,
            self.capacity + capacity,
            subsets,
        )


class Watch:
    """Follows a run step by step.

    Args:
        config: The run.
        accelerator: Its processes and trackers.
        out: Its folder.
        after_step: Steps that are done already.
    """

    def __init__(
        self, config: TrainConfig, accelerator: Accelerator, out: Path, after_step: int
    ) -> None:
        self._config, self._accelerator = config, accelerator
        self._main = accelerator.is_main_process
        self._trace = Trace(out, after_step=after_step, write=self._main)
        accelerator.wait_for_everyone()
        # All processes judge a loss alike, also where only the first one sees the trace.
        usual = gather_objects(
            [line["loss"] for line in trace_lines(out) if line["samples"]][-_WINDOW:]
        )[0]
        self._usual: deque[float] = deque(usual, maxlen=_WINDOW)
        self._bar = tqdm(
            total=config.steps, initial=after_step, desc="train", disable=not self._main
        )
        self._peak = 0.0
        if self._main:
            self._peak = peak_flops(accelerator.device) * accelerator.num_processes
        self._now = _Interval(time.monotonic())

    def check(self, step: int, facts: StepFacts, ids: Sequence[str], saved_step: int) -> None:
        """Stop a run that has gone wrong, before the weights are touched.

        Raises:
            Echo4oError: loss or gradient is no number, or the loss is far above the usual.
        """
        reason = None
        if not (math.isfinite(facts.loss) and math.isfinite(facts.grad_norm)):
            reason = f"the loss is {facts.loss} and the gradient norm {facts.grad_norm}"
        elif len(self._usual) == _WINDOW and self._config.stop_above:
            usual = sum(self._usual) / _WINDOW
            if facts.loss > self._config.stop_above * usual:
                reason = (
                    f"the loss is {facts.loss:.4g}, more than `stop_above` = "
                    f"{self._config.stop_above:g} times its mean of {usual:.4g} over the last "
                    f"{_WINDOW} steps"
                )
        if reason is not None:
            rows = [name for part in gather_objects(list(ids)) for name in part]
            more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
            saved = f"step-{saved_step:07d}" if saved_step else "none"
            raise Echo4oError(
                f"step {step}: {reason} (rows {', '.join(rows[:8])}{more}). The last good "
                f"checkpoint is {saved}; lower `learning_rate` or raise `warmup_steps`, and use "
                f"another --out"
            )

    def step(self, step: int, facts: StepFacts, rate: float) -> None:
        """Note a finished step; every so often say how it goes."""
        if facts.samples:
            self._usual.append(facts.loss)
        self._trace.add(step, facts, rate)
        budget = self._config.tokens_per_pack
        capacity = 0 if budget is None else budget * self._config.packs_per_step
        self._now = self._now.plus(facts, capacity)
        self._bar.update()
        figures = {"loss": facts.loss, "grad_norm": facts.grad_norm, "lr": rate}
        if step % self._config.log_every == 0:
            figures |= self._spoken(step, figures)
        self._accelerator.log(figures, step=step)

    def picture(self, step: int, path: Path) -> None:
        """Put the drawn prompts into the trackers that take pictures."""
        if not self._main:
            return
        for tracker in self._accelerator.trackers:
            if tracker.name == "trackio":
                import trackio

                tracker.tracker.log({"samples": trackio.Image(str(path))}, step=step)
            elif tracker.name in ("wandb", "tensorboard", "aim", "clearml", "comet_ml"):
                import numpy as np
                from PIL import Image

                tracker.log_images({"samples": np.asarray(Image.open(path))[None]}, step=step)

    def sync(self) -> None:
        """Make the trace survive a power cut."""
        self._trace.sync()

    def close(self) -> None:
        """End the progress bar."""
        self._bar.close()

    def _spoken(self, step: int, figures: Mapping[str, float]) -> dict[str, float]:
        """Print a line; returns what it adds to the step's own figures."""
        now, self._now = self._now, _Interval(time.monotonic())
        if not self._main:
            return {}
        seconds = time.monotonic() - now.since
        added = {"tokens_per_second": now.tokens / seconds, "memory_gib": _memory() / 2**30}
        added["share_of_peak"] = now.flops / seconds / self._peak
        if now.capacity:
            added["fill_rate"] = now.tokens / now.capacity
        losses = {name: total / count for name, (total, count) in now.subsets.items() if count}
        added |= {f"loss/{name}": loss for name, loss in losses.items()}
        self._bar.write(_line(step, figures, added, losses))
        return added


def _line(
    step: int,
    figures: Mapping[str, float],
    added: Mapping[str, float],
    losses: Mapping[str, float],
) -> str:
    parts = [
        f"step {step:>6}",
        f"loss {figures['loss']:.4f}",
        " ".join(f"{name} {loss:.3f}" for name, loss in sorted(losses.items())),
        f"grad {figures['grad_norm']:.3f}",
        f"lr {figures['lr']:.2e}",
        f"{added['tokens_per_second']:,.0f} tokens/s",
        f"{added['share_of_peak']:.1%} of peak",
    ]
    if "fill_rate" in added:
        parts.append(f"{added['fill_rate']:.0%} full")
    return "  ".join(part for part in [*parts, f"{added['memory_gib']:.2f} GiB"] if part)


def _memory() -> int:
    """The most bytes this process held: on its GPU, else on the host."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
