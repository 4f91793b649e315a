"""The training loop, read downwards: set up, resume, step after step, save.

It knows no model (family.py says what a batch and a loss are) and decides no order (order.py).
"""

import logging
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch.nn import Parameter

from echo4o.errors import Echo4oError
from echo4o.launch import is_first_rank
from echo4o.owner import sole_owner
from echo4o.records import RECORD_NAME

from .config import TrainConfig
from .data import Rows, load_rows, pinned
from .families import open_family
from .family import Family
from .feed import Feed
from .loss import Counts, weighted
from .optimise import Trained, learning_rate
from .order import Order, Packer, Source
from .processes import (
    StopSignal,
    make_accelerator,
    rank_and_world,
    start_trackers,
    sum_over_processes,
)
from .pushing import Pusher
from .results import StepFacts, is_finished, save_copy, save_pictures, save_result
from .resume import State, resume, save_state
from .sharding import is_sharded, make_mesh
from .tiny import make_base
from .watching import Watch

logger = logging.getLogger(__name__)

PATIENCE_S = 10.0
"""For the workers of a killed run, which hold its folder until they notice."""


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
            not a number, processes that cannot share a step equally, another run in `out`.
    """
    # ---- 1. processes, data, model -----------------------------------------------------------
    accelerator = make_accelerator(config, out)
    config, rows = pinned(config), load_rows(config)
    busy = f"another run trains into {out}; wait for it, or choose another --out"
    alone = sole_owner(out, busy, patience_s=PATIENCE_S) if is_first_rank() else nullcontext()
    with alone:
        return _train(config, rows, accelerator, out)


def _train(config: TrainConfig, rows: Rows, accelerator: Accelerator, out: Path) -> Result:
    main = accelerator.is_main_process
    if is_finished(config, rows, out):
        logger.info("%s is finished; choose another --out to train again", out)
        Pusher(config, out).finish()
        return Result(config.steps, True)
    if main:
        # A record without its model is no result: a record must mean finished, also to scripts.
        (out / RECORD_NAME).unlink(missing_ok=True)
    mesh = make_mesh(config, accelerator)
    if config.base_model is None:
        with accelerator.main_process_first():
            make_base(config, rows, out / "base")
    family = open_family(config, rows, out, device=accelerator.device, mesh=mesh)
    usable = set(family.prepare())
    rows.refuse_if_none(len(usable))

    # ---- 2. what is trained, how, in which order; where it stood -----------------------------
    state = State(
        family=family,
        trained=Trained(_trained(family, config), config),
        feed=_feed(config, family, rows, usable),
    )
    resume(state, config, rows, out)
    start_trackers(accelerator, config, out, state.started)
    watch = Watch(config, accelerator, out, after_step=state.step)
    pusher = Pusher(config, out)

    # ---- 3. the loop -------------------------------------------------------------------------
    family.model.train()
    with StopSignal() as stop, closing(watch):
        while state.step < config.steps:
            facts, ids = _forward_backward(state, config, accelerator, stop=stop.received)
            watch.check(state.step + 1, facts, ids, state.saved_step)
            rate = learning_rate(state.step, config)
            state.trained.step(rate)
            state.step += 1
            watch.step(state.step, facts, rate)

            # Once in a while: pictures, a checkpoint.
            last = state.step == config.steps
            if config.sample_every and (state.step % config.sample_every == 0 or last):
                drawn = save_pictures(state, config, out)
                if drawn is not None:
                    watch.picture(state.step, drawn)
            if state.step % config.checkpoint_every == 0 or last or facts.stop:
                watch.sync()
                save_state(state, config, rows, out)
            if pusher.is_due(state.step):
                pusher.offer(state.step, lambda to: save_copy(state, config, rows, out, to))
            if facts.stop and not last:
                logger.info("told to stop: step %d of %d is saved", state.step, config.steps)
                return Result(state.step, False)

    # ---- 4. the result -----------------------------------------------------------------------
    save_result(state, config, rows, out)
    if main and rows.refused:
        logger.warning("left out: %s", rows.skipped_in_words())
    accelerator.wait_for_everyone()
    accelerator.end_training()
    pusher.finish()
    return Result(state.step, True)


def _keep_in_step(state: State, accelerator: Accelerator) -> None:
    """Take part in a forward and backward that the others need this process for, for nothing.

    Raises:
        Echo4oError: there was no pack yet that could stand in.
    """
    if state.spare is None:
        raise Echo4oError(
            "the first pack of this process has no usable row, and the processes share the model; "
            "remove unusable rows, or set shard=none"
        )
    with accelerator.autocast():
        sums = state.spare.losses()
    for loss in (sums.mse, sums.ce):
        if loss is not None:
            (0.0 * loss).backward()  # type: ignore[no-untyped-call]
            return


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
    parts = [part for part in config.mixture if part[1] > 0]
    sources = []
    for (name, weight), numbers, blocks in zip(parts, rows.sources(), rows.blocks(), strict=True):
        found = sum(row in usable for row in numbers)
        if not round(weight * found):
            raise Echo4oError(
                f"an epoch shows no row of {name!r}: {found} of {len(numbers)} can be used, and "
                f"its weight in `mixture` is {weight:g}; raise it or take {name!r} out"
            )
        # With those that cannot be used: the order must not lean on when that is found out.
        sources.append(Source(numbers, weight, blocks))

    def length(row: int) -> int | None:
        tokens, budget = family.length(row), config.tokens_per_pack
        if tokens is not None and budget is not None and tokens > budget:
            rows.skip(row, "longer than `tokens_per_pack`")
        return tokens

    packer = Packer(
        Order(sources, seed=config.seed),
        length,
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
) -> tuple[StepFacts, list[str]]:
    """Gradients of the next packs, summed over them and over processes, and clipped.

    Also returns the ids of the rows that this process has in the step.
    """
    collated = [state.family.collate(pack) for pack in state.feed.next()]
    batches = [batch for batch in collated if batch is not None]
    ids = [name for batch in batches for name in batch.ids]
    local: list[float] = [sum(b.counts.mse for b in batches), sum(b.counts.ce for b in batches)]
    local += [sum(b.tokens for b in batches), len(ids), int(stop)]
    local += [sum(b.flops for b in batches)]
    mse_count, ce_count, tokens, samples, stops, flops = sum_over_processes(accelerator, local)
    counts = Counts(mse=int(mse_count), ce=int(ce_count))

    mse, ce = 0.0, 0.0
    subsets = state.family.subsets
    shares = torch.zeros(2, len(subsets), dtype=torch.float64, device=accelerator.device)
    for batch in batches:
        with accelerator.autocast():
            sums = batch.losses()
        part = weighted(sums, counts, mse_weight=config.mse_weight, ce_weight=config.ce_weight)
        part.backward()  # type: ignore[no-untyped-call]
        mse += 0.0 if sums.mse is None else sums.mse.item()
        ce += 0.0 if sums.ce is None else sums.ce.item()
        shares += sums.by_subset
        state.spare = batch
    if is_sharded(state.family.model):
        for _ in range(len(collated) - len(batches)):
            _keep_in_step(state, accelerator)
    norm = state.trained.clip(config.max_grad_norm)
    mse, ce, *flat = sum_over_processes(accelerator, [mse, ce, *shares.flatten().tolist()])
    mse, ce = mse / max(counts.mse, 1), ce / max(counts.ce, 1)
    facts = StepFacts(
        loss=config.mse_weight * mse + config.ce_weight * ce,
        mse=mse,
        ce=ce,
        grad_norm=norm,
        tokens=int(tokens),
        samples=int(samples),
        stop=stops > 0,
        flops=flops,
        by_subset={
            name: (flat[place], flat[len(subsets) + place]) for place, name in enumerate(subsets)
        },
    )
    return facts, ids
