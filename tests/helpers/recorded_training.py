"""Recorded training cases: packing, losses, gradients and optimiser steps against ours."""

import math

import recorded
import torch
from recorded import Case
from torch import Tensor

from echo4o.models.bagel.packing import pack
from echo4o.sampler import shift_times

LIMIT = 1e-4
"""Absolute for values, relative for losses and gradients."""


def close(ours: Tensor, theirs: Tensor, limit: float = LIMIT) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max().item() <= limit


def relative(ours: float, theirs: float, limit: float = LIMIT) -> None:
    assert math.isclose(ours, theirs, rel_tol=limit, abs_tol=1e-6), (ours, theirs)


def check_training(case: Case) -> None:
    samples, padded = recorded.build_samples(case)
    close(padded, case.tensors["in.padded_images"], 0)
    close(recorded.encode_padded(case, padded), case.tensors["padded_latent"])
    batch = pack(samples, case.pipe.model.config)
    check_packing(case, batch)
    model = case.pipe.model
    raw = case.tensors["in.packed_timesteps"][batch.noised_rows]
    first = torch.cat((torch.tensor([True]), raw.diff() != 0))
    times = shift_times(raw[first].sigmoid(), case.request.get("timestep_shift", 1.0))
    run = {
        "timesteps": times,
        "noise": case.tensors["noise.1"],
        "freeze_und": case.request.get("freeze_und", False),
    }
    output = model(batch, **run, return_hidden=True)
    close(output.mse, case.tensors["mse"])
    close(output.ce, case.tensors["ce"])
    close(output.last_hidden_state, case.tensors["last_hidden_state"])
    total = total_loss(case, output)
    losses = case.result["loss"]
    relative(output.mse.mean(-1).mean().item(), losses["mse"])
    relative(output.ce.mean().item(), losses["ce"])
    relative(total.item(), losses["total"])
    weights = batch.ce_weights
    relative(((output.ce * weights).sum() / weights.sum()).item(), losses["ce_reweighted"])
    model.zero_grad(set_to_none=True)
    total.backward()
    check_gradients(case)
    if "opt_trace" in case.result:
        check_optimiser(case, batch, run)
    model.zero_grad(set_to_none=True)


def total_loss(case: Case, output) -> Tensor:
    mse_weight = case.request.get("mse_weight", 1.0)
    ce_weight = case.request.get("ce_weight", 1.0)
    return mse_weight * output.mse.mean(-1).mean() + ce_weight * output.ce.mean()


def check_packing(case: Case, batch) -> None:
    named = {
        "packed_text_ids": batch.text_ids,
        "packed_text_indexes": batch.text_index,
        "packed_position_ids": batch.position_ids,
        "packed_vae_token_indexes": batch.latent_index,
        "packed_latent_position_ids": batch.latent_position_ids,
        "packed_vit_token_indexes": batch.vit_index,
        "packed_vit_position_ids": batch.vit_position_ids,
        "mse_loss_indexes": batch.mse_index,
        "ce_loss_indexes": batch.ce_index,
        "packed_label_ids": batch.ce_labels,
    }
    for name, ours in named.items():
        assert torch.equal(ours, case.tensors[f"in.{name}"]), name
    close(batch.vit_patches, case.tensors["in.packed_vit_tokens"], 0)
    close(batch.ce_weights, case.tensors["in.ce_loss_weights"], 1e-6)
    assert batch.vit_lens == case.tensors["in.vit_token_seqlens"].tolist()
    assert batch.sample_lens == case.result["sample_lens"]
    assert batch.num_tokens == case.result["sequence_length"]
    for number, facts in enumerate(case.result["splits"]):
        assert batch.split_lens[number] == facts["split_lens"]
        assert batch.attention_modes[number] == facts["attn_modes"]
    # The recorded flexible mask has the same segments and one more that pads.
    flex = {
        "flex_split_lens": batch.split_lens,
        "flex_attn_modes": batch.attention_modes,
        "flex_sample_lens": [[length] for length in batch.sample_lens],
    }
    for name, ours in flex.items():
        assert [one for sample in ours for one in sample] == case.result[name][:-1], name
    shapes = case.result["patchified_vae_latent_shapes"]
    assert batch.latent_lens == [rows * columns for rows, columns in shapes]
    allowed = torch.zeros(batch.num_tokens, batch.num_tokens, dtype=torch.bool)
    start = 0
    for length, mask in zip(batch.sample_lens, batch.layout.mask()[:, 0], strict=True):
        allowed[start : start + length, start : start + length] = mask[:length, :length]
        start += length
    assert torch.equal(allowed, case.tensors["attention_allowed"].bool())


def check_gradients(case: Case) -> None:
    gradients = {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in case.pipe.model.named_parameters()
    }
    norms = case.result["grad_norm"]
    assert norms.keys() == gradients.keys()
    for name, norm in norms.items():
        ours = gradients[name].norm().item()
        # A key bias of the vision tower moves no softmax: its gradient is rounding noise.
        limit = 1e-4 if name.endswith("k_proj.bias") and "vit_model" in name else 1e-6
        assert math.isclose(ours, norm, rel_tol=LIMIT, abs_tol=limit), (name, ours, norm)
    total = torch.stack([g.norm() for g in gradients.values()]).norm().item()
    relative(total, case.result["total_grad_norm"])
    for name, theirs in case.tensors.below("grad.").items():
        assert (gradients[name] - theirs).norm() <= LIMIT * theirs.norm() + 1e-7, name


def check_optimiser(case: Case, batch, run: dict) -> None:
    """Some AdamW steps with warm-up, clipping and EMA on the fixed batch."""
    model, options = case.pipe.model, case.request["opt"]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parameters = dict(model.named_parameters())
    average = {name: p.detach().clone() for name, p in parameters.items()}
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=options["lr"], betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0
    )
    for step, facts in enumerate(case.result["opt_trace"]):
        optimiser.zero_grad()
        optimiser.param_groups[0]["lr"] = options["lr"] * min(1.0, step / options["warmup"])
        assert optimiser.param_groups[0]["lr"] == facts["lr_used"]
        loss = total_loss(case, model(batch, **run))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        relative(loss.item(), facts["loss"])
        relative(norm.item(), facts["total_norm"], 1e-3)
        for name, p in parameters.items():
            average[name].lerp_(p.detach(), 1 - options["ema"])
    for prefix, ours in (("after.", parameters), ("ema_after.", average)):
        for name, theirs in case.tensors.below(prefix).items():
            off = (ours[name] - theirs).abs() > options["lr"] * 0.05
            assert off.float().mean() <= 1e-3, name
    model.load_state_dict(before)
