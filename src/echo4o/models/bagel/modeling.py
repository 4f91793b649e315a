"""BAGEL as a transformers model: one packed forward for training, and the parts of inference.

Shape letters: T tokens of a pack, N latent tokens, M noised ones, K supervised text tokens,
R rows of a step, C hidden size, P values per latent token.
"""

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from ...sampler import noised
from .attention import Pass, Rows, attention_name, dense_mask, spans_of
from .cache import ContextCache
from .configuration import BagelConfig
from .decoder import BagelLanguageModel
from .embeddings import Connector, PositionTable, TimeEmbedder, rotary_table
from .packing import PackedBatch
from .vision import VisionTower


@dataclass
class BagelOutput(ModelOutput):
    """What one packed forward gives; nothing is reduced."""

    mse: Tensor | None = None
    """(M, P) squared velocity errors of the noised tokens."""
    ce: Tensor | None = None
    """(K,) cross-entropy of the supervised text tokens."""
    last_hidden_state: Tensor | None = None
    """(T, C) final-normed hidden states in sequence order, when asked for."""


class BagelForUnifiedGeneration(PreTrainedModel):
    """Decoder with two experts, vision tower, and the layers that join pictures to it.

    Parameter names are those of the published checkpoint.
    """

    config_class = BagelConfig
    config: BagelConfig
    base_model_prefix = ""
    main_input_name = "batch"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["BagelDecoderLayer", "BagelVisionLayer"]

    def __init__(self, config: BagelConfig) -> None:
        super().__init__(config)
        hidden, latent = config.hidden_size, config.latent_dim
        self.language_model = BagelLanguageModel(config.text_config)
        self.time_embedder = TimeEmbedder(hidden)
        self.vae2llm = nn.Linear(latent, hidden)
        self.llm2vae = nn.Linear(hidden, latent)
        self.latent_pos_embed = PositionTable(config.max_latent_size, hidden)
        self.vit_model: VisionTower | None = None
        if config.visual_und:
            side = config.vit_max_num_patch_per_side
            self.vit_model = VisionTower(config.vision_config, side)
            self.connector = Connector(config.vision_config.hidden_size, hidden)
            self.vit_pos_embed = PositionTable(side, hidden)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Random weights as for training from scratch; the velocity head starts at zero."""
        if module is self.llm2vae:
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, PositionTable):
            module.reset()
        else:
            super()._init_weights(module)

    def get_input_embeddings(self) -> nn.Module:
        """The shared word embedding."""
        return self.language_model.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embedding."""
        self.language_model.model.embed_tokens = cast(nn.Embedding, value)

    def get_output_embeddings(self) -> nn.Module:
        """The word prediction layer, not tied to the embedding."""
        return self.language_model.lm_head

    def forward(
        self,
        batch: PackedBatch,
        *,
        timesteps: Tensor | None = None,
        noise: Tensor | None = None,
        freeze_und: bool = False,
        cache: ContextCache | None = None,
        position_offset: int = 0,
        return_hidden: bool = False,
    ) -> BagelOutput:
        """One packed forward (specification, section 9.1).

        Args:
            batch: what `packing.pack` returns, on this model's device.
            timesteps: (number of noised pictures,) flow times in [0, 1], after sigmoid and shift:
                `sampler.shift_times(torch.sigmoid(torch.randn(n)), shift)`. Needed with targets.
            noise: (N, P) standard normal noise for all latent tokens, references included (theirs
                has no effect). Needed with targets.
            freeze_und: the understanding expert, the vision tower and the embeddings get no
                gradient, and none flows through them; `lm_head` still learns.
            cache: context in front of every sample; the new keys and values are kept in it.
            position_offset: first rotary position, when there is a context.
            return_hidden: also return `last_hidden_state`; without it, work that no loss needs is
                left out.

        Raises:
            ValueError: the batch has targets but `timesteps` or `noise` are missing or misshapen.
        """
        times = self._token_times(batch, timesteps, noise)
        latents = batch.latents if noise is None else noised(batch.latents, noise, times[:, None])
        gen = self._embed_latents(batch, latents, timesteps)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not freeze_und):
            und = self._embed_und(batch)
        und_read = True if return_hidden else _rows(batch.ce_rows, batch.layout.num_und)
        gen_read = True if return_hidden else _rows(batch.noised_rows, len(batch.latents))
        shared = replace(
            self._share(batch, und.dtype, cache, position_offset, read_all=return_hidden),
            freeze_und=freeze_und,
            und_read=und_read,
            gen_read=gen_read,
        )
        und, gen = self.language_model.model(und, gen, shared)
        if cache is not None:
            cache.commit(batch.sample_lens)
        hidden = None
        if return_hidden:
            hidden = torch.cat((und, gen))[batch.layout.sequence_rows]
            und, gen = und[batch.ce_rows], gen[batch.noised_rows]
        return BagelOutput(
            mse=self._velocity_error(batch, gen, noise),
            ce=self._text_loss(batch, und),
            last_hidden_state=hidden,
        )

    def _token_times(
        self, batch: PackedBatch, timesteps: Tensor | None, noise: Tensor | None
    ) -> Tensor:
        """(N,) flow time of every latent token, 0 for clean ones."""
        if batch.num_noised == 0:
            return torch.zeros(len(batch.latents), device=batch.latents.device)
        if timesteps is None or noise is None:
            raise ValueError(
                f"the batch has {batch.num_noised} target pictures: "
                "`timesteps` and `noise` must be given"
            )
        if timesteps.shape != (batch.num_noised,) or noise.shape != batch.latents.shape:
            raise ValueError(
                f"`timesteps` must have the shape ({batch.num_noised},) and `noise` "
                f"{tuple(batch.latents.shape)}, got {tuple(timesteps.shape)} and "
                f"{tuple(noise.shape)}"
            )
        return _with_zero(timesteps)[batch.latent_image]

    def _embed_latents(
        self, batch: PackedBatch, latents: Tensor, timesteps: Tensor | None
    ) -> Tensor:
        """Latent tokens with time and position (N, C)."""
        if not len(latents):
            return latents.new_empty(0, self.config.hidden_size, dtype=self.dtype)
        times = latents.new_zeros(1) if timesteps is None else _with_zero(timesteps)
        time_rows = F.embedding(batch.latent_image, self.time_embedder(times))
        hidden = self.vae2llm(latents.to(self.dtype)) + time_rows
        return cast(Tensor, hidden + self.latent_pos_embed(batch.latent_position_ids))

    def _embed_und(self, batch: PackedBatch) -> Tensor:
        """Words, markers and vision tokens."""
        words: Tensor = self.language_model.model.embed_tokens(batch.text_ids)
        if not batch.vit_lens:
            return words
        if self.vit_model is None:
            raise ValueError(
                "this model has no vision tower: it was loaded from a checkpoint for generation; "
                "pictures for understanding or as references need the full checkpoint"
            )
        patches = batch.vit_patches.to(self.dtype)
        features = self.vit_model(patches, batch.vit_position_ids, batch.vit_lens)
        pictures = self.connector(features) + self.vit_pos_embed(batch.vit_position_ids)
        return torch.cat((words, pictures))

    def _share(
        self,
        batch: PackedBatch,
        dtype: torch.dtype,
        cache: ContextCache | None,
        offset: int,
        *,
        read_all: bool,
    ) -> Pass:
        """Rotary table in row layout, and masks: of padded rows, or where it saves work by span."""
        layout, places = batch.layout, batch.position_ids + offset
        is_sdpa = attention_name(self.config.text_config) == "sdpa"
        by_span = cache is not None or (is_sdpa and layout.skipped_pairs() > 0)
        if by_span:
            layout = layout.in_sequence()
        in_expert_order = torch.empty_like(places)
        in_expert_order[layout.sequence_rows] = places
        rotary = self.rotary(in_expert_order[layout.fill].view(layout.rows, layout.length), dtype)
        if not by_span:
            return Pass(layout=layout, rotary=rotary, mask=dense_mask(layout, dtype))
        contexts = [0] * len(batch.sample_lens) if cache is None else cache.lengths()
        read = None if read_all else batch.carries_loss()
        spans = spans_of(
            layout, dtype, contexts=contexts, read=read, plain_causal=is_sdpa, device=places.device
        )
        return Pass(layout=layout, rotary=rotary, spans=spans, cache=cache)

    def rotary(self, position_ids_RL: Tensor, dtype: torch.dtype) -> Tensor:
        """(2, R, L, 1, head size) cosines and sines."""
        return rotary_table(position_ids_RL, self.config.head_dim, self.config.rope_theta, dtype)

    def _velocity_error(
        self, batch: PackedBatch, gen: Tensor, noise: Tensor | None
    ) -> Tensor | None:
        if noise is None or batch.num_noised == 0:
            return None
        wanted = noise - batch.latents
        if batch.num_noised < len(batch.latent_lens):
            wanted = wanted[batch.noised_rows]
        return (self.llm2vae(gen).float() - wanted).square()

    def _text_loss(self, batch: PackedBatch, und: Tensor) -> Tensor | None:
        if not len(batch.ce_rows):
            return None
        logits = self.language_model.lm_head(und)
        return F.cross_entropy(logits.float(), batch.ce_labels, reduction="none")


def _with_zero(timesteps: Tensor) -> Tensor:
    """Put the time 0 of clean pictures in front."""
    return F.pad(timesteps, (1, 0))


def _rows(rows: Tensor, total: int) -> Rows:
    """What somebody reads, without a copy where that is all or nothing."""
    return len(rows) > 0 if len(rows) in (0, total) else rows
