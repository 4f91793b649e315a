"""The training loop, read downwards: set up, resume, step after step, save.

It knows no model (family.py says what a batch and a loss are) and decides no order (order.py).
"""

import logging
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch.nn import Parameter
from tqdm import tqdm

from echo4o.errors import Echo4oError
from echo4o.records import RECORD_NAME

from .bagel import open_family
from .config import TrainConfig
from .data import Rows, load_rows
from .family import Batch, Family
from .feed import Feed
from .loss import Counts, weighted
from .optimise import MovingAverage, learning_rate, make_optimizer, sum_gradients
from .order import Order, Packer, Source
from .processes import StopSignal, make_accelerator, rank_and_world, sum_over_processes
from .results import StepFacts, Trace, is_finished, save_pictures, save_result
from .resume import State, resume, save_state

logger = logging.getLogger(__name__)


class Result(NamedTuple):
    """How a call of `train` ended."""

    step: int
    """Optimiser steps done, over all calls."""
    finished: bool
    """False when it was told to stop before the last step."""


def train(config: TrainConfig, out: Path) -> Result:
    """Train until the last step, or until SIGTERM; go on from the newest checkpoint in `out`.

    Raises:
        Echo4oError: no usable rows, other settings than those of the checkpoints, a loss that is
            not a number, processes that cannot share a step equally.
    """
    # ---- 1. processes, data, model -----------------------------------------------------------
    accelerator = make_accelerator(config, out)
    main = accelerator.is_main_process
    rows = load_rows(config)
    if is_finished(config, rows, out):
        logger.info("%s is finished; choose another --out to train again", out)
        return Result(config.steps, True)
    if main:
        # A record without its model is no result: a record must mean finished, also to scripts.
        (out / RECORD_NAME).unlink(missing_ok=True)
    with accelerator.main_process_first():
        family = open_family(config, rows, out, device=accelerator.device)
    usable = set(family.prepare())
    rows.refuse_if_none(len(usable))

    # ---- 2. what is trained, how, in which order; where it stood -----------------------------
    parameters = _trained(family, config)
    state = State(
        family=family,
        parameters=parameters,
        optimizer=make_optimizer(parameters, config),
        average=MovingAverage(parameters, config.ema_decay),
        feed=_feed(config, family, rows, usable),
    )
    resume(state, config, rows, out)
    trace = Trace(out, after_step=state.step, write=main)

    # ---- 3. the loop -------------------------------------------------------------------------
    family.model.train()
    bar = tqdm(total=config.steps, initial=state.step, desc="train", disable=not main)
    tokens, clock = 0, time.monotonic()
    with StopSignal() as stop, bar:
        while state.step < config.steps:
            facts = _forward_backward(state, config, accelerator, stop=stop.received)
            rate = learning_rate(state.step, config)
            _update(state, rate)
            state.step += 1

            # The trace holds nothing that depends on the clock: equal runs write equal files.
            trace.add(state.step, facts, rate)
            accelerator.log({"loss": facts.loss, "grad_norm": facts.grad_norm, "lr": rate})
            tokens += facts.tokens
            bar.update()
            if main and state.step % config.log_every == 0:
                pace = tokens / (time.monotonic() - clock)
                bar.write(_console_line(state.step, facts, rate, pace))
                tokens, clock = 0, time.monotonic()

            # Once in a while: pictures, a checkpoint.
            last = state.step == config.steps
            if main and config.sample_every and (state.step % config.sample_every == 0 or last):
                save_pictures(state, config, out)
            if state.step % config.checkpoint_every == 0 or last or facts.stop:
                trace.sync()
                save_state(state, config, rows, out, write=main)
            if facts.stop and not last:
                logger.info("told to stop: step %d of %d is saved", state.step, config.steps)
                return Result(state.step, False)

    # ---- 4. the result -----------------------------------------------------------------------
    if main:
        save_result(state, config, rows, out)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return Result(state.step, True)


def _trained(family: Family, config: TrainConfig) -> dict[str, Parameter]:
    """Parameters by name, without the frozen groups; those get no gradient."""
    trained = {}
    for group, members in family.groups().items():
        for name, parameter in members.items():
            parameter.requires_grad_(group not in config.freeze)
            if parameter.requires_grad:
                trained[name] = parameter
    return trained


def _feed(config: TrainConfig, family: Family, rows: Rows, usable: set[int]) -> Feed[Any]:
    weights = [weight for _, weight in config.mixture if weight > 0]
    sources = [
        Source([row for row in numbers if row in usable], weight)
        for numbers, weight in zip(rows.sources(), weights, strict=True)
    ]
    packer = Packer(
        Order(sources, seed=config.seed),
        family.length,
        samples=config.samples_per_pack,
        budget=config.tokens_per_pack,
        lookahead=config.lookahead,
    )
    rank, world = rank_and_world()
    return Feed(
        packer,
        family.load,
        packs_per_step=config.packs_per_step,
        rank=rank,
        world=world,
        workers=0 if family.all_ready else config.workers,
    )


def _forward_backward(
    state: State, config: TrainConfig, accelerator: Accelerator, *, stop: bool
) -> StepFacts:
    """Gradients of the next packs, summed over them and over processes, and clipped.

    Raises:
        Echo4oError: the loss or a gradient is not a number.
    """
    collated = [state.family.collate(pack) for pack in state.feed.next()]
    batches = [batch for batch in collated if batch is not None]
    local = [sum(b.counts.mse for b in batches), sum(b.counts.ce for b in batches)]
    local += [sum(b.tokens for b in batches), sum(len(b.ids) for b in batches), int(stop)]
    mse_count, ce_count, tokens, samples, stops = sum_over_processes(accelerator, local)
    counts = Counts(mse=int(mse_count), ce=int(ce_count))

    mse, ce = 0.0, 0.0
    for batch in batches:
        with accelerator.autocast():
            sums = batch.losses()
        part = weighted(sums, counts, mse_weight=config.mse_weight, ce_weight=config.ce_weight)
        part.backward()  # type: ignore[no-untyped-call]
        mse += 0.0 if sums.mse is None else sums.mse.item()
        ce += 0.0 if sums.ce is None else sums.ce.item()
    sum_gradients(state.parameters)
    norm = torch.nn.utils.clip_grad_norm_(
        state.parameters.values(), config.max_grad_norm, foreach=True
    ).item()
    mse, ce = sum_over_processes(accelerator, [mse, ce])
    mse, ce = mse / max(counts.mse, 1), ce / max(counts.ce, 1)
    loss = config.mse_weight * mse + config.ce_weight * ce
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise Echo4oError(_diverged(state, loss, norm, batches))
    return StepFacts(loss, mse, ce, norm, int(tokens), int(samples), stops > 0)


def _update(state: State, rate: float) -> None:
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.average.update()


def _diverged(state: State, loss: float, norm: float, batches: list[Batch]) -> str:
    ids = [name for batch in batches for name in batch.ids]
    more = f" and {len(ids) - 8} more" if len(ids) > 8 else ""
    return (
        f"step {state.step + 1}: the loss is {loss} and the gradient norm {norm} (rows "
        f"{', '.join(ids[:8])}{more}). Nothing was saved after step {state.saved_step}; lower "
        f"`learning_rate` or raise `warmup_steps`, and use another --out"
    )


def _console_line(step: int, facts: StepFacts, rate: float, pace: float) -> str:
    return (
        f"step {step:>6}  loss {facts.loss:.4f}  grad {facts.grad_norm:.3f}  lr {rate:.2e}  "
        f"{pace:,.0f} tokens/s"
    )
