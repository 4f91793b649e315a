"""The BAGEL family: rows become packed samples, the loss is flow matching (spec 4, 5 and 9).

A sample is, for every reference, its clean latent and its vision part, then the instruction, then
the noised target, in one copy or several that do not see each other. Every random number is keyed
by (seed, row, visit, purpose).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import Parameter

from echo4o.errors import Echo4oError
from echo4o.models.bagel.modeling import BagelForUnifiedGeneration
from echo4o.models.bagel.packing import (
    PackedBatch,
    Sample,
    Segment,
    TextSegment,
    VaeSegment,
    VitSegment,
    pack,
)
from echo4o.models.bagel.pipeline import Echo4oPipeline, Echo4oPipelineOutput
from echo4o.models.bagel.processor import ResizeRule
from echo4o.sampler import shift_times

from . import draws
from .adapters import ADAPTER, adapter_parameters, add_adapters, quantization
from .config import TrainConfig
from .data import Rows, UnusableRowError
from .examples import Example, Examples, Reference
from .latents import Encoder
from .loss import Counts, LossSums, sums
from .order import Visit
from .processes import computes_in_bf16
from .tiny import make_base


@dataclass(frozen=True, kw_only=True, slots=True)
class BagelBatch:
    """A pack on its device, with its draws."""

    model: BagelForUnifiedGeneration
    packed: PackedBatch
    timesteps: Tensor
    """(targets,) flow times, shifted."""
    noise: Tensor
    """(latent tokens, values); zero for references, which are never noised."""
    ids: tuple[str, ...]

    @property
    def counts(self) -> Counts:
        """Tokens that carry a loss."""
        return Counts(mse=len(self.packed.noised_rows), ce=len(self.packed.ce_rows))

    @property
    def tokens(self) -> int:
        """All tokens, after dropout."""
        return self.packed.num_tokens

    def losses(self) -> LossSums:
        """Forward of the pack."""
        found = self.model(self.packed, timesteps=self.timesteps, noise=self.noise)
        return sums(found.mse, found.ce)


class BagelFamily:
    """BAGEL with the rows it is trained on; see `family.Family`."""

    def __init__(
        self, pipeline: Echo4oPipeline, rows: Rows, config: TrainConfig, device: torch.device
    ) -> None:
        self.model = pipeline.model
        self._pipeline, self._rows, self._config, self._device = pipeline, rows, config, device
        self._encoder = Encoder(pipeline.vae, device)
        bagel = self.model.config
        if bagel.vit_patch_size != (rule := config.vit_sizes or bagel.vit_transform)[2]:
            raise Echo4oError(
                f"the stride of `vit_sizes` {rule} must be the model's patch, "
                f"{bagel.vit_patch_size} pixels"
            )
        self._examples = Examples(
            rows,
            pipeline.tokenizer,
            self._encoder,
            vae_rule=ResizeRule(*(config.vae_sizes or bagel.vae_transform)),
            vit_rule=ResizeRule(*rule),
            cell=bagel.latent_stride,
            copies=config.noise_draws,
            cache_bytes=config.latent_cache_mb * 2**20,
        )

    def prepare(self) -> list[int]:
        """Encode the pictures once, if they fit into memory; returns the usable rows."""
        return self._examples.prepare()

    def length(self, row: int) -> int | None:
        """Tokens of a row with markers and nothing dropped, None when the row cannot be used."""
        return self._examples.length(row)

    def collate(self, visits: Sequence[Visit]) -> BagelBatch | None:
        """Draw latents, dropout, times and noise, and pack; unusable rows are left out."""
        found: list[tuple[Visit, Example]] = []
        for visit in visits:
            try:
                found.append((visit, self._examples[visit.row]))
            except UnusableRowError as error:
                self._rows.skip(visit.row, str(error))
        if not found:
            self._rows.refuse_if_none(len(self._rows) - self._rows.skipped.total())
            return None
        packed = pack([self._sample(*one) for one in found], self.model.config)
        copies = self._config.noise_draws
        times = [
            time
            for visit, _ in found
            for time in draws.spread_normals(copies, *self._key(visit, "time"))
        ]
        return BagelBatch(
            model=self.model,
            packed=packed.to(self._device),
            timesteps=self._shifted(times).to(self._device),
            noise=self._noise(packed, [visit for visit, _ in found]).to(self._device),
            ids=tuple(example.id for _, example in found),
        )

    def groups(self) -> Mapping[str, Mapping[str, Parameter]]:
        """Parameters by group (config.GROUPS); fixed tables, and the base of adapters, in none."""
        lora = self._config.lora is not None
        named = adapter_parameters(self.model) if lora else dict(self.model.named_parameters())
        found: dict[str, dict[str, Parameter]] = {}
        for name, parameter in named.items():
            if (group := parameter_group(name)) is not None:
                found.setdefault(group, {})[name] = parameter
        return found

    def pictures(self, prompts: Sequence[str]) -> list[Image.Image]:
        """Draw fixed prompts, square, at the longest side of the training pictures."""
        side = (self._config.vae_sizes or self.model.config.vae_transform)[0]
        drawn = self._pipeline(
            list(prompts),
            height=side,
            width=side,
            num_inference_steps=self._config.sample_steps,
            guidance_scale=self._config.sample_guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in range(len(prompts))],
        )
        assert isinstance(drawn, Echo4oPipelineOutput)
        return cast(list[Image.Image], drawn.images)

    def save(self, artefact: str, folder: Path) -> None:
        """Write the adapter, or the pipeline folder: model, autoencoder, tokenizer, scheduler.

        A model is the last thing to be written: adapters are merged into it and taken off.
        """
        if artefact == "adapter":
            self._pipeline.save_lora_weights(folder, ADAPTER)
            return
        if self._config.lora is not None:
            self._pipeline.fuse_lora()
            self._pipeline.unload_lora_weights()
        self._pipeline.save_pretrained(folder)

    def _key(self, visit: Visit, purpose: str) -> tuple[int | str, ...]:
        return (self._config.seed, visit.row, visit.visit, purpose)

    def _sample(self, visit: Visit, example: Example) -> Sample:
        segments: list[Segment] = []
        for place, reference in enumerate(example.references):
            segments += self._reference(visit, place, reference)
        dropped = draws.uniform(*self._key(visit, "drop text")) < self._config.drop_text
        segments.append(TextSegment(example.token_ids, dropped=dropped))
        target = self._encoder.sample(example.target, *self._key(visit, "latent"))
        return [*segments, *[VaeSegment(target, noised=True)] * self._config.noise_draws]

    def _reference(self, visit: Visit, place: int, reference: Reference) -> list[Segment]:
        drop_vae = draws.uniform(*self._key(visit, f"drop vae {place}")) < self._config.drop_vae
        drop_vit = draws.uniform(*self._key(visit, f"drop vit {place}")) < self._config.drop_vit
        latent = self._encoder.sample(reference.moments, *self._key(visit, f"latent {place}"))
        pixels = torch.from_numpy(reference.pixels_HWC).permute(2, 0, 1)
        return [
            VaeSegment(latent, noised=False, dropped=drop_vae),
            VitSegment((pixels.float() / 255 - 0.5) / 0.5, dropped=drop_vit),
        ]

    def _shifted(self, normals: Sequence[float]) -> Tensor:
        return shift_times(torch.tensor(normals).sigmoid(), self._config.timestep_shift)

    def _noise(self, packed: PackedBatch, visits: Sequence[Visit]) -> Tensor:
        """Noise of every latent token; the targets come in order of visits and copies."""
        width = packed.latents.shape[1]
        noise = np.zeros((len(packed.latents), width), dtype=np.float32)
        copies = ["noise", *(f"noise {copy}" for copy in range(1, self._config.noise_draws))]
        start, targets = 0, itertools.product(visits, copies)
        for length, is_target in zip(packed.latent_lens, packed.latent_noised, strict=True):
            if is_target:
                key = self._key(*next(targets))
                noise[start : start + length] = draws.normals((length, width), *key)
            start += length
        return torch.from_numpy(noise)


def open_family(config: TrainConfig, rows: Rows, out: Path, *, device: torch.device) -> BagelFamily:
    """Load the base model, or make the small random one of the recipe first (in `out/base`).

    The trained weights are float32 whatever the checkpoint holds; the frozen base of adapters has
    the type of the computation.
    """
    source = config.base_model or str(make_base(config, rows, out / "base"))
    pipeline = Echo4oPipeline.from_pretrained(
        source,
        revision=config.base_revision,
        dtype=torch.bfloat16 if config.lora and computes_in_bf16(config) else torch.float32,
        quantization_config=quantization(config.lora),
    ).to(device)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.requires_grad_(False)
    if config.lora is not None:
        add_adapters(pipeline.model, config.lora, config.seed)
    if config.gradient_checkpointing:
        pipeline.model.gradient_checkpointing_enable()
    return BagelFamily(pipeline, rows, config, device)


def parameter_group(name: str) -> str | None:
    """The group (config.GROUPS) of a parameter of the model; None for the fixed position tables."""
    if name.endswith("pos_embed.pos_embed"):
        return None
    if "_moe_gen" in name:
        return "gen"
    if name.startswith(("vit_model.", "connector.")):
        return "vit"
    if "embed_tokens" in name:
        return "embeddings"
    return "und" if name.startswith("language_model.model.") else "heads"
