"""Inference on the model: contexts are encoded once, then read by denoising and text decoding.

Shape letters: B pictures, R rows (B per guidance branch), N latent tokens, P values per token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..devices import working_device
from .attention import Pass, spans_of
from .cache import Context, ContextCache
from .layout import RowLayout
from .modeling import BagelForUnifiedGeneration
from .packing import PackedBatch, Sample, TextSegment, grid_position_ids, pack


def encode_contexts(
    model: BagelForUnifiedGeneration, samples: Sequence[Sample]
) -> tuple[list[Context], PackedBatch]:
    """Run samples through the model in one packed forward and keep their keys and values."""
    batch = pack(samples, model.config).to(working_device(model))
    cache = ContextCache(model.config.text_config.num_hidden_layers, batch.sample_lens)
    model(batch, cache=cache)
    contexts = [
        Context(cache, row, length, position)
        for row, (length, position) in enumerate(
            zip(batch.sample_lens, batch.next_positions, strict=True)
        )
    ]
    return contexts, batch


def prefix(context: Context, batch: PackedBatch, sample: int, segments: int) -> Context:
    """The part of an encoded sample that its first segments make up."""
    lens = batch.split_lens[sample][:segments]
    modes = batch.attention_modes[sample][:segments]
    steps = (length if mode == "causal" else 1 for length, mode in zip(lens, modes, strict=True))
    return Context(context.cache, context.row, sum(lens), sum(steps))


def extend_context(
    model: BagelForUnifiedGeneration, context: Context, text: TextSegment
) -> Context:
    """A copy of a context with one more text behind it."""
    batch = pack([[text]], model.config).to(working_device(model))
    cache = ContextCache.behind([context], batch.num_tokens)
    model(batch, cache=cache, position_offset=context.position)
    length = batch.num_tokens
    return Context(cache, 0, context.tokens + length, context.position + length)


@dataclass(frozen=True, slots=True)
class Target:
    """What all denoising steps of some rows share: contexts, positions, markers."""

    cache: ContextCache
    layout: RowLayout
    markers: Tensor
    """(R * 2, C) embedded opening and closing marker of every row."""
    places: Tensor
    """(N, C) latent position rows."""
    rotary: Tensor

    def first_rows(self, rows: int) -> "Target":
        """The same for the first rows only; nothing is copied."""
        if rows == self.layout.rows:
            return self
        return Target(
            cache=self.cache.first_rows(rows),
            layout=replace(self.layout, rows=rows),
            markers=self.markers[: rows * 2],
            places=self.places,
            rotary=self.rotary[:, :rows],
        )


def prepare_target(
    model: BagelForUnifiedGeneration, contexts: Sequence[Context], rows: int, columns: int
) -> Target:
    """Get ready to denoise one picture of rows x columns tokens behind each context."""
    config, count = model.config, len(contexts)
    layout = RowLayout(rows=count, und=2, gen=rows * columns)
    ids = torch.tensor(
        [config.vision_start_token_id, config.vision_end_token_id], device=working_device(model)
    )
    markers = model.get_input_embeddings()(ids).repeat(count, 1)
    positions = torch.tensor([c.position for c in contexts], device=markers.device)
    grid = grid_position_ids(
        rows, columns, config.max_latent_size, interpolate=config.interpolate_pos
    )
    return Target(
        cache=ContextCache.behind(contexts, layout.length),
        layout=layout,
        markers=markers,
        places=model.latent_pos_embed(grid.to(markers.device)),
        rotary=model.rotary(positions[:, None], markers.dtype),
    )


def predict_velocity(
    model: BagelForUnifiedGeneration, latents_BNP: Tensor, time: float, target: Target
) -> Tensor:
    """Velocity (R, N, P) in fp32 at flow time `time`; the keys of the step are not kept.

    Rows are ordered by branch: what a picture looks like now is embedded once for all of them.
    """
    times = torch.full((1,), time, device=latents_BNP.device)
    hidden = model.vae2llm(latents_BNP.to(model.dtype))
    # With the model spread over devices, its parts may answer from different ones.
    hidden = hidden + (
        model.time_embedder(times).to(hidden.device) + target.places.to(hidden.device)
    )
    branches = target.layout.rows // len(latents_BNP)
    gen = hidden.repeat(branches, 1, 1).flatten(0, 1)
    shared = Pass(
        layout=target.layout,
        rotary=target.rotary,
        spans=spans_of(target.layout, gen.dtype, contexts=target.cache.lengths()),
        cache=target.cache,
        und_read=False,
        gen_repeats=branches,
    )
    _, gen = model.language_model.model(target.markers, gen, shared)
    velocity: Tensor = model.llm2vae(gen).float()
    return velocity.view(target.layout.rows, *latents_BNP.shape[1:])


def decode_tokens(
    model: BagelForUnifiedGeneration,
    context: Context,
    *,
    max_new_tokens: int,
    do_sample: bool = False,
    temperature: float = 0.3,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Write a text behind a context: yields each new token with the logits (V,) it came from.

    Starts from the opening token and ends after `max_new_tokens` or with the closing token, which
    is yielded too. The context itself stays as it is.
    """
    cache = ContextCache.behind([context], max_new_tokens)
    layout = RowLayout(rows=1, und=1, gen=0)
    device = working_device(model)
    nothing = torch.empty(0, model.config.hidden_size, dtype=model.dtype, device=device)
    positions = torch.arange(max_new_tokens, device=device) + context.position
    rotary = model.rotary(positions[None], model.dtype)
    token = model.config.bos_token_id
    for step in range(max_new_tokens):
        und = model.get_input_embeddings()(torch.tensor([token], device=device))
        shared = Pass(
            layout=layout,
            rotary=rotary[:, :, step : step + 1],
            spans=spans_of(layout, und.dtype, contexts=cache.lengths()),
            cache=cache,
            gen_read=False,
        )
        hidden, _ = model.language_model.model(und, nothing, shared)
        cache.commit([1])
        logits = model.language_model.lm_head(hidden)[0].float()
        token = _choose(logits, do_sample, temperature, generator)
        yield token, logits
        if token == model.config.eos_token_id:
            return


def _choose(
    logits: Tensor, do_sample: bool, temperature: float, generator: torch.Generator | None
) -> int:
    if not do_sample:
        return int(logits.argmax())
    weights = F.softmax(logits / temperature, dim=-1)
    if generator is not None:
        weights = weights.to(generator.device)
    return int(torch.multinomial(weights, 1, generator=generator))
