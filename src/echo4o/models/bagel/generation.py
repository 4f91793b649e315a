"""Inference on the model: contexts are encoded once, then read by denoising and text decoding.

Shape letters: R rows (one per picture and guidance branch), N latent tokens, P values per token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .cache import ContextCache
from .decoder import Pass, additive
from .layout import RowLayout
from .modeling import BagelForUnifiedGeneration
from .packing import PackedBatch, Sample, TextSegment, grid_position_ids, pack


@dataclass(frozen=True, slots=True)
class Context:
    """The first tokens of one row of a cache."""

    cache: ContextCache
    row: int
    tokens: int
    position: int
    """Rotary position of what comes next."""

    def same_as(self, other: "Context") -> bool:
        """Whether both are the same tokens of the same row."""
        return self.cache is other.cache and (self.row, self.tokens) == (other.row, other.tokens)


def encode_contexts(
    model: BagelForUnifiedGeneration, samples: Sequence[Sample]
) -> tuple[list[Context], PackedBatch]:
    """Run samples through the model in one packed forward and keep their keys and values."""
    batch = pack(samples, model.config).to(model.device)
    cache = ContextCache(model.config.text_config.num_hidden_layers, batch.layout.length)
    model(batch, cache=cache)
    contexts = [
        Context(cache, row, length, position)
        for row, (length, position) in enumerate(
            zip(batch.sample_lens, batch.next_positions, strict=True)
        )
    ]
    return contexts, batch


def prefix(context: Context, batch: PackedBatch, segments: int) -> Context:
    """The part of an encoded sample that its first segments make up."""
    lens = batch.split_lens[context.row][:segments]
    modes = batch.attention_modes[context.row][:segments]
    steps = (length if mode == "causal" else 1 for length, mode in zip(lens, modes, strict=True))
    return Context(context.cache, context.row, sum(lens), sum(steps))


def extend_context(
    model: BagelForUnifiedGeneration, context: Context, text: TextSegment
) -> Context:
    """A copy of a context with one more text behind it."""
    batch = pack([[text]], model.config).to(model.device)
    cache = ContextCache.gather([(context.cache, context.row, context.tokens)], batch.num_tokens)
    model(batch, cache=cache, position_offset=context.position)
    length = batch.num_tokens
    return Context(cache, 0, context.tokens + length, context.position + length)


@dataclass(frozen=True, slots=True)
class Target:
    """What all denoising steps of some rows share: context, positions, markers, mask."""

    cache: ContextCache
    layout: RowLayout
    markers: Tensor
    """(R * 2, C) embedded opening and closing marker of every row."""
    places: Tensor
    """(N, C) latent position rows."""
    rotary: Tensor
    mask: Tensor | None

    def first_rows(self, rows: int) -> "Target":
        """The same for the first rows only; nothing is copied."""
        if rows == self.layout.rows:
            return self
        cache = self.cache.first_rows(rows)
        return Target(
            cache=cache,
            layout=replace(self.layout, rows=rows),
            markers=self.markers[: rows * 2],
            places=self.places,
            rotary=self.rotary[:, :rows],
            mask=additive(cache.mask(self.layout.length), self.markers.dtype),
        )


def prepare_target(
    model: BagelForUnifiedGeneration, contexts: Sequence[Context], rows: int, columns: int
) -> Target:
    """Get ready to denoise one picture of rows x columns tokens behind each context."""
    config, count = model.config, len(contexts)
    layout = RowLayout(rows=count, und=2, gen=rows * columns)
    cache = ContextCache.gather([(c.cache, c.row, c.tokens) for c in contexts], layout.length)
    ids = torch.tensor(
        [config.vision_start_token_id, config.vision_end_token_id], device=model.device
    )
    markers = model.get_input_embeddings()(ids).repeat(count, 1)
    positions = torch.tensor([c.position for c in contexts], device=markers.device)
    grid = grid_position_ids(
        rows, columns, config.max_latent_size, interpolate=config.interpolate_pos
    )
    table = model.latent_pos_embed
    return Target(
        cache=cache,
        layout=layout,
        markers=markers,
        places=table(grid.to(table.pos_embed.device)),
        rotary=model.rotary(positions[:, None], markers.dtype),
        mask=additive(cache.mask(layout.length), markers.dtype),
    )


def predict_velocity(
    model: BagelForUnifiedGeneration, latents_RNP: Tensor, time: float, target: Target
) -> Tensor:
    """Velocity (R, N, P) in fp32 at flow time `time`; the keys of the step are not kept."""
    times = torch.full((1,), time, device=latents_RNP.device)
    hidden = model.vae2llm(latents_RNP.to(model.dtype)) + model.time_embedder(times)
    gen = (hidden + target.places).flatten(0, 1)
    shared = Pass(layout=target.layout, rotary=target.rotary, mask=target.mask, cache=target.cache)
    _, gen = model.language_model.model(target.markers, gen, shared)
    velocity: Tensor = model.llm2vae(gen).float()
    return velocity.view(latents_RNP.shape)


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
    source = (context.cache, context.row, context.tokens)
    cache = ContextCache.gather([source], max_new_tokens)
    layout, nothing = RowLayout(rows=1, und=1, gen=0), torch.empty(0, model.config.hidden_size)
    token = model.config.bos_token_id
    for step in range(max_new_tokens):
        ids = torch.tensor([token], device=model.device)
        und = model.get_input_embeddings()(ids)
        position = torch.tensor([[context.position + step]], device=und.device)
        shared = Pass(
            layout=layout, rotary=model.rotary(position, und.dtype), mask=None, cache=cache
        )
        hidden, _ = model.language_model.model(und, nothing.to(und), shared)
        cache.commit(torch.ones(1, 1, dtype=torch.bool, device=und.device))
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
