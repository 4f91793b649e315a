"""Packing and layouts: what dropout, padding and bad sizes do; gradients of our own functions."""

import pytest
import torch

from echo4o.models.bagel import layout as packed_layout
from echo4o.models.bagel.configuration import BagelConfig
from echo4o.models.bagel.functional import RmsNorm, rotate
from echo4o.models.bagel.modeling import BagelForUnifiedGeneration
from echo4o.models.bagel.packing import (
    TextSegment,
    VaeSegment,
    VitSegment,
    pack,
    patchify,
    unpatchify,
)

CONFIG = BagelConfig.tiny(
    hidden_size=16,
    intermediate_size=24,
    num_attention_heads=2,
    num_key_value_heads=1,
    num_hidden_layers=2,
    vocab_size=64,
    vision_hidden_size=16,
    vision_intermediate_size=24,
    vision_num_attention_heads=2,
    bos_token_id=1,
    eos_token_id=2,
    vision_start_token_id=3,
    vision_end_token_id=4,
)


def picture(rows: int = 4, columns: int = 4, *, noised: bool = False, **more) -> VaeSegment:
    seed = torch.Generator().manual_seed(rows * columns)
    return VaeSegment(torch.randn(16, rows, columns, generator=seed), noised=noised, **more)


def pixels(**more) -> VitSegment:
    return VitSegment(torch.zeros(3, 28, 14), **more)


def test_patches_come_back():
    latent = torch.randn(16, 4, 6)
    tokens = patchify(latent, 2)
    assert torch.equal(unpatchify(tokens[None], 2, 3, 2)[0], latent)
    assert torch.equal(tokens[0], latent[:, :2, :2].permute(1, 2, 0).flatten())


def test_dropped_pictures_keep_their_position_and_dropped_texts_do_not():
    kept = pack([[pixels(), TextSegment([9]), picture(noised=True)]], CONFIG)
    no_picture = pack([[pixels(dropped=True), TextSegment([9]), picture(noised=True)]], CONFIG)
    no_text = pack([[pixels(), TextSegment([9], dropped=True), picture(noised=True)]], CONFIG)
    assert kept.position_ids.tolist() == [0] * 4 + [1, 2, 3] + [4] * 6
    assert no_picture.position_ids.tolist() == [1, 2, 3] + [4] * 6
    assert no_text.position_ids.tolist() == [0] * 4 + [1] * 6


def test_a_noised_picture_and_its_clean_copy_share_a_position():
    batch = pack([[picture(noised=True), picture(), TextSegment([9])]], CONFIG)
    assert batch.position_ids.tolist() == [0] * 12 + [1, 2, 3]
    assert batch.next_positions == [4]
    assert batch.latent_image.tolist() == [1] * 4 + [0] * 4


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ([], "no tokens"),
        ([TextSegment([5], dropped=True)], "no tokens"),
        ([VaeSegment(torch.zeros(16, 3, 4), noised=True)], "multiples of 2"),
        ([VitSegment(torch.zeros(3, 14, 15))], "multiples of 14"),
        ([VaeSegment(torch.zeros(16, 18, 2), noised=True)], "exceeds the position table of 8 x 8"),
    ],
)
def test_samples_that_do_not_fit_are_refused(sample, said):
    with pytest.raises(ValueError, match=said):
        pack([sample], CONFIG)
    with pytest.raises(ValueError, match="the list of samples is empty"):
        pack([], CONFIG)


def losses(model, samples, seed: int = 0):
    batch = pack(samples, CONFIG)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch.latents.shape, generator=generator)
    times = torch.rand(batch.num_noised, generator=generator)
    return batch, noise, times


def test_a_pack_gives_every_sample_what_it_gets_alone():
    """Padding, masks and gathers must not leak between samples, forward or backward."""
    torch.manual_seed(0)
    model = BagelForUnifiedGeneration(CONFIG)
    torch.nn.init.normal_(model.llm2vae.weight)
    samples = [
        [TextSegment([5, 6, 7]), picture(noised=True)],
        [picture(2, 4), pixels(), TextSegment([8] * 9, loss=True), picture(4, 2, noised=True)],
        [pixels(), TextSegment([9], loss=True)],
    ]
    batch, noise, times = losses(model, samples)
    whole = model(batch, timesteps=times, noise=noise)
    (whole.mse.sum() + whole.ce.sum()).backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    mse, ce, start, image = [], [], 0, 0
    for sample in samples:
        alone = pack([sample], CONFIG)
        end, last = start + len(alone.latents), image + alone.num_noised
        output = model(alone, timesteps=times[image:last], noise=noise[start:end])
        parts = [part for part in (output.mse, output.ce) if part is not None]
        sum(part.sum() for part in parts).backward()
        mse += [] if output.mse is None else [output.mse]
        ce += [] if output.ce is None else [output.ce]
        start, image = end, last
    torch.testing.assert_close(whole.mse, torch.cat(mse), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(whole.ce, torch.cat(ce), rtol=1e-5, atol=1e-5)
    for name, gradient in together.items():
        ours = dict(model.named_parameters())[name].grad
        torch.testing.assert_close(gradient, ours, rtol=1e-4, atol=1e-4, msg=name)


MIXED = [
    [TextSegment([5, 6, 7]), *[picture(noised=True)] * 2, TextSegment([9] * 4, loss=True)],
    [picture(2, 4), pixels(), TextSegment([8] * 9), picture(4, 2, noised=True)],
    [picture(noised=True), pixels(), TextSegment([9], loss=True)],
]


@pytest.mark.parametrize("context", [0, 3])
def test_spans_see_what_the_mask_allows(context):
    layout = pack(MIXED, CONFIG).layout
    mask, start = layout.mask()[:, 0], 0
    for row, spans in enumerate(layout.spans([context] * len(MIXED))):
        length = sum(end - start for start, end, _, _ in spans)
        seen = torch.zeros(length, context + length, dtype=torch.bool)
        for span in spans:
            for first, last in span.keys:
                seen[span.start - start : span.end - start, first:last] = True
            if span.causal:
                own = slice(span.start - start, span.end - start)
                seen[own, context:][:, own] = seen[own, context:][:, own].tril()
        assert seen[:, :context].all()
        assert torch.equal(seen[:, context:], mask[row, :length, :length])
        start += length


@pytest.mark.parametrize("samples", [MIXED, MIXED[1:2], [[TextSegment([5] * 6, loss=True)]]])
def test_attention_by_span_gives_what_the_dense_mask_gives(samples, monkeypatch):
    torch.manual_seed(0)
    model = BagelForUnifiedGeneration(CONFIG)
    torch.nn.init.normal_(model.llm2vae.weight)
    batch, noise, times = losses(model, samples)

    def results(pairs_per_call, **more):
        monkeypatch.setattr(packed_layout, "PAIRS_PER_CALL", pairs_per_call)
        model.zero_grad()
        output = model(batch, timesteps=times, noise=noise, **more)
        parts = [part for part in (output.mse, output.ce) if part is not None]
        sum(part.sum() for part in parts).backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        return [*parts, *gradients] + [output.last_hidden_state] * bool(more)

    for more in ({}, {"return_hidden": True}):
        dense, by_span = results(10**9, **more), results(-(10**9), **more)
        assert len(dense) == len(by_span)
        for a, b in zip(dense, by_span, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pairs_per_call", [10**9, -(10**9)])
def test_the_last_layer_finishes_only_what_carries_a_loss(pairs_per_call, monkeypatch):
    monkeypatch.setattr(packed_layout, "PAIRS_PER_CALL", pairs_per_call)
    model = BagelForUnifiedGeneration(CONFIG)
    batch, noise, times = losses(model, MIXED)
    rows, last = [], model.language_model.model.layers[-1]
    for part in (last.mlp, last.mlp_moe_gen):
        part.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    model(batch, timesteps=times, noise=noise)
    assert rows == [len(batch.ce_rows), len(batch.noised_rows)]


def test_checkpointing_changes_no_gradient():
    torch.manual_seed(0)
    model = BagelForUnifiedGeneration(CONFIG).train()
    torch.nn.init.normal_(model.llm2vae.weight)
    batch, noise, times = losses(model, [[TextSegment([5, 6, 7]), picture(noised=True)]])

    def gradient() -> torch.Tensor:
        model.zero_grad()
        model(batch, timesteps=times, noise=noise).mse.sum().backward()
        return model.language_model.model.layers[0].mlp.up_proj.weight.grad.clone()

    plain = gradient()
    model.gradient_checkpointing_enable()
    assert torch.equal(gradient(), plain)


def test_targets_without_noise_or_time_are_refused():
    model = BagelForUnifiedGeneration(CONFIG)
    batch, noise, times = losses(model, [[TextSegment([5]), picture(noised=True)]])
    with pytest.raises(ValueError, match="`timesteps` and `noise` must be given"):
        model(batch)
    with pytest.raises(ValueError, match=r"`timesteps` must have the shape \(1,\)"):
        model(batch, timesteps=times[:0], noise=noise)


def test_our_gradients_equal_finite_differences():
    torch.manual_seed(0)
    norm = RmsNorm(6, eps=1e-6)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 4, 6, requires_grad=True)
    ours = norm(x)
    stock = torch.nn.functional.rms_norm(x, (6,), norm.weight, 1e-6)
    torch.testing.assert_close(ours, stock)
    seed = torch.randn_like(ours)
    for made, wanted in zip(
        torch.autograd.grad(ours, (x, norm.weight), seed),
        torch.autograd.grad(stock, (x, norm.weight), seed),
        strict=True,
    ):
        torch.testing.assert_close(made, wanted)
    heads = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    angles = torch.randn(2, 3, 1, 2, dtype=torch.float64)
    cos, sin = angles.cos(), angles.sin()
    table = torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)))
    assert torch.autograd.gradcheck(lambda h: rotate(h, table), (heads,))
