"""The BAGEL family: rows become packed samples, the loss is flow matching (spec 4, 5 and 9).

A sample is, for every reference, its clean latent and its vision part, then the instruction, then
the noised target, in one copy or several that do not see each other. A row with an answer has it
after the instruction, and where it draws nothing, its references are vision parts only. Every
random number is keyed by (seed, row, visit, purpose).
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import Parameter

from echo4o.errors import Echo4oError
from echo4o.models.bagel.configuration import BagelConfig
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
from .examples import Example, Examples, Latent, Reference, Sizes
from .feed import Loaded
from .latents import Encoder
from .loss import Counts, LossSums, Subsets, sums
from .opening import Where, attention_for, open_pipeline, use_attention
from .order import Visit
from .processes import computes_in_bf16
from .saving import check_layout, save_pipeline
from .store import DiskShelf, open_store, store_folder
from .tiny import make_base
from .work import step_flops

_UNDERSTANDING_PIXELS = 2_007_040
"""Pixels that the pictures of one question share, as the authors train (spec 9.5)."""


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
    subsets: Subsets
    """Of the tokens with a loss."""
    frozen: float
    """Share of the decoder's weights that get no gradient."""

    @property
    def counts(self) -> Counts:
        """Tokens that carry a loss."""
        return Counts(mse=len(self.packed.noised_rows), ce=len(self.packed.ce_rows))

    @property
    def tokens(self) -> int:
        """All tokens, after dropout."""
        return self.packed.num_tokens

    @property
    def flops(self) -> float:
        """Operations of its forward and backward."""
        gen = sum(self.packed.latent_lens)
        return step_flops(
            self.model.config,
            und=self.packed.num_tokens - gen,
            gen=gen,
            vit_lens=self.packed.vit_lens,
            sample_lens=self.packed.sample_lens,
            labels=len(self.packed.ce_rows),
            frozen_weights=self.frozen,
        )

    def losses(self) -> LossSums:
        """Forward of the pack."""
        found = self.model(self.packed, timesteps=self.timesteps, noise=self.noise)
        return sums(found.mse, found.ce, self.subsets)


class BagelFamily:
    """BAGEL with the rows it is trained on; see `family.Family`."""

    def __init__(
        self, pipeline: Echo4oPipeline, rows: Rows, config: TrainConfig, device: torch.device
    ) -> None:
        self.model = pipeline.model
        self._pipeline, self._rows, self._config, self._device = pipeline, rows, config, device
        self._encoder = Encoder(pipeline.vae, device)
        self._examples = Examples(
            rows,
            pipeline.tokenizer,
            self._encoder,
            _sizes(config, self.model.config),
            memory=config.latent_cache_mb * 2**20,
            shelf=open_store(config, pipeline.vae),
            padded=config.pad_pictures,
        )

    @property
    def subsets(self) -> tuple[str, ...]:
        """Names of the dataset's subsets."""
        return self._rows.subsets

    def prepare(self) -> list[int]:
        """Encode the pictures once, if they fit into memory; returns the usable rows."""
        return self._examples.prepare()

    @property
    def all_ready(self) -> bool:
        """Whether all rows are in memory."""
        return self._examples.all_ready

    def fill_store(self) -> tuple[int, Path]:
        """Encode the pictures of this process's rows for all later runs; rows and folder."""
        folder = store_folder(self._config, self._pipeline.vae)
        return self._examples.fill(DiskShelf(folder)), folder

    def length(self, row: int) -> int | None:
        """Tokens of a row with markers and nothing dropped, None when the row cannot be used."""
        return self._examples.length(row)

    def load(self, visit: Visit) -> Loaded[Example]:
        """Read and resize, in any process."""
        try:
            return Loaded(visit, self._examples.load(visit.row), "")
        except UnusableRowError as error:
            return Loaded(visit, None, str(error))

    def collate(self, loaded: Sequence[Loaded[Example]]) -> BagelBatch | None:
        """Draw latents, dropout, times and noise, and pack; unusable rows are left out."""
        visits: list[Visit] = []
        examples: list[Example] = []
        for visit, example, reason in loaded:
            if example is None:
                self._rows.skip(visit.row, reason)
            else:
                visits.append(visit)
                examples.append(example)
        if not visits:
            self._rows.refuse_if_none(len(self._rows) - self._rows.skipped.total())
            return None
        examples = self._examples.finish(examples)
        samples = [self._sample(*one) for one in zip(visits, examples, strict=True)]
        packed = pack(samples, self.model.config)
        drawn = [v for v, example in zip(visits, examples, strict=True) if example.target]
        copies = self._config.noise_draws
        times = [
            time for v in drawn for time in draws.spread_normals(copies, *self._key(v, "time"))
        ]
        return BagelBatch(
            model=self.model,
            packed=packed.to(self._device),
            timesteps=self._shifted(times).to(self._device),
            noise=self._noise(packed, drawn).to(self._device),
            ids=tuple(example.id for example in examples),
            subsets=self._subsets_of(packed, visits, examples, drawn),
            frozen=self._frozen,
        )

    def _subsets_of(
        self,
        packed: PackedBatch,
        visits: Sequence[Visit],
        examples: Sequence[Example],
        drawn: Sequence[Visit],
    ) -> Subsets:
        copies = self._config.noise_draws
        targets = [place for v in drawn for place in [self._rows.subset_of(v.row)] * copies]
        pairs = zip(packed.latent_lens, packed.latent_noised, strict=True)
        lens = [length for length, is_target in pairs if is_target]
        answers = [
            self._rows.subset_of(visit.row)
            for visit, example in zip(visits, examples, strict=True)
            for _ in range(0 if example.answer_ids is None else len(example.answer_ids) + 1)
        ]
        mse = torch.tensor(targets, dtype=torch.long).repeat_interleave(torch.tensor(lens).long())
        ce = torch.tensor(answers, dtype=torch.long)
        return Subsets(count=len(self.subsets), mse=mse.to(self._device), ce=ce.to(self._device))

    @functools.cached_property
    def _frozen(self) -> float:
        decoder = list(self.model.language_model.model.layers.parameters())
        trained = sum(p.numel() for p in decoder if p.requires_grad)
        return 1 - trained / sum(p.numel() for p in decoder)

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
        # The kernel for packs would be compiled anew for every span of a drawing.
        use_attention(self.model, "sdpa")
        try:
            drawn = self._pipeline(
                list(prompts),
                height=side,
                width=side,
                num_inference_steps=self._config.sample_steps,
                guidance_scale=self._config.sample_guidance,
                generator=[torch.Generator().manual_seed(seed) for seed in range(len(prompts))],
            )
        finally:
            use_attention(self.model, attention_for(self._device))
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
        config = self._config
        dtype = torch.bfloat16 if config.save_dtype == "bf16" else torch.float32
        save_pipeline(folder, self._pipeline, layout=config.layout, dtype=dtype)

    def _key(self, visit: Visit, purpose: str) -> tuple[int | str, ...]:
        return (self._config.seed, visit.row, visit.visit, purpose)

    def _sample(self, visit: Visit, example: Example) -> Sample:
        """References, text, answer, target; nothing of a row that is only looked at is dropped."""
        example, config = self._in_drawn_order(visit, example), self._config
        target = example.target
        segments: list[Segment] = []
        if not (target and self._falls(visit, "drop references", config.drop_references)):
            for place, reference in enumerate(example.references):
                segments += self._reference(visit, place, reference)
        dropped = target is not None and self._falls(visit, "drop text", config.drop_text)
        segments.append(TextSegment(example.token_ids, dropped=dropped))
        if example.answer_ids is not None:
            segments.append(TextSegment(example.answer_ids, loss=True))
        if target is not None:
            latent = VaeSegment(self._latent(visit, target, "latent"), noised=True)
            segments += [latent] * config.noise_draws
        return segments

    def _in_drawn_order(self, visit: Visit, example: Example) -> Example:
        count = len(example.references)
        if not self._config.shuffle_references or count < 2:
            return example
        order = draws.generator(*self._key(visit, "order")).permutation(count)
        return self._examples.reordered(example, order.tolist())

    def _reference(self, visit: Visit, place: int, reference: Reference) -> list[Segment]:
        pixels = torch.from_numpy(reference.pixels_HWC).permute(2, 0, 1)
        vision = VitSegment((pixels.float() / 255 - 0.5) / 0.5)
        if reference.latent is None:
            return [vision]
        drop_vae = self._falls(visit, f"drop vae {place}", self._config.drop_vae)
        drop_vit = self._falls(visit, f"drop vit {place}", self._config.drop_vit)
        latent = self._latent(visit, reference.latent, f"latent {place}")
        return [
            VaeSegment(latent, noised=False, dropped=drop_vae),
            dataclasses.replace(vision, dropped=drop_vit),
        ]

    def _falls(self, visit: Visit, purpose: str, probability: float) -> bool:
        return draws.uniform(*self._key(visit, purpose)) < probability

    def _latent(self, visit: Visit, latent: Latent, purpose: str) -> Tensor:
        assert latent.moments is not None, "finish() has encoded it"
        return self._encoder.sample(latent.moments, *self._key(visit, purpose))

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


def open_family(
    config: TrainConfig,
    rows: Rows,
    out: Path,
    *,
    device: torch.device,
    mesh: DeviceMesh | None = None,
) -> BagelFamily:
    """Load the base model, or make the small random one of the recipe first (in `out/base`).

    The trained weights are float32 whatever the checkpoint holds; what is frozen, and the base of
    adapters, has the type of the computation. On a `mesh` its processes share the model.
    """
    source = config.base_model or str(make_base(config, rows, out / "base"))
    bf16 = computes_in_bf16(config)
    if config.lora is None:
        where = Where(device, mesh, bf16)
        pipeline = open_pipeline(
            source, config.base_revision, where, lambda name: _is_frozen(name, config)
        )
    else:
        pipeline = Echo4oPipeline.from_pretrained(
            source,
            revision=config.base_revision,
            dtype=torch.bfloat16 if bf16 else torch.float32,
            # Straight to the device: processes of one machine never hold all copies in its memory.
            device_map="cuda" if device.type == "cuda" else None,
            quantization_config=quantization(config.lora),
        ).to(device)
        add_adapters(pipeline.model, config.lora, config.seed)
    check_layout(config.layout, pipeline.vae)
    use_attention(pipeline.model, attention_for(device))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.requires_grad_(False)
    if config.gradient_checkpointing:
        pipeline.model.gradient_checkpointing_enable()
    return BagelFamily(pipeline, rows, config, device)


def _is_frozen(name: str, config: TrainConfig) -> bool:
    group = parameter_group(name)
    return group is None or group in config.freeze


def _sizes(config: TrainConfig, model: BagelConfig) -> Sizes:
    vae = config.vae_sizes or model.vae_transform
    vit = config.vit_sizes or model.vit_transform
    understanding = config.understanding_sizes or vit
    for name, rule in (("vit_sizes", vit), ("understanding_sizes", understanding)):
        if rule[2] != model.vit_patch_size:
            raise Echo4oError(
                f"the stride of `{name}` {rule} must be the model's patch, "
                f"{model.vit_patch_size} pixels"
            )
    return Sizes(
        vae=ResizeRule(*vae),
        vit=ResizeRule(*vit),
        und=dataclasses.replace(ResizeRule(*understanding), max_pixels=_UNDERSTANDING_PIXELS),
        cell=model.latent_stride,
        copies=config.noise_draws,
        shuffled=config.shuffle_references,
    )


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
