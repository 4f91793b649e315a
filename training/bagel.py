"""The BAGEL family: rows become packs, the loss is flow matching, the pipeline is what is saved."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import Parameter

from echo4o.models.bagel.assembly import load_rest
from echo4o.models.bagel.checkpoint import locate
from echo4o.models.bagel.modeling import BagelForUnifiedGeneration
from echo4o.models.bagel.packing import PackedBatch, pack
from echo4o.models.bagel.pipeline import Echo4oPipeline
from echo4o.models.calls import Echo4oPipelineOutput

from .adapters import ADAPTER, adapter_parameters, add_adapters, quantization
from .config import TrainConfig
from .data import Rows, UnusableRowError
from .examples import Example, Examples
from .feed import Loaded
from .groups import is_frozen, parameter_group
from .latents import Encoder
from .loss import Counts, LossSums, Subsets, sums
from .opening import Where, attention_for, open_pipeline, read_main, use_attention
from .order import Visit
from .processes import computes_in_bf16
from .samples import Samples
from .saving import check_layout, save_pipeline
from .sizes import sizes_of
from .store import autoencoder_hash, open_store
from .tiny import make_base
from .work import step_flops


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
        encoder = Encoder(pipeline.vae, device)
        self._examples = Examples(
            rows,
            pipeline.tokenizer,
            encoder,
            sizes_of(config, self.model.config),
            memory=config.latent_cache_mb * 2**20,
            shelf=open_store(config, lambda: autoencoder_hash(pipeline.vae)),
            padded=config.pad_pictures,
        )
        self._samples = Samples(self._examples, encoder, config)

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
        uses = list(zip(visits, examples, strict=True))
        packed = pack([self._samples.sample(*use) for use in uses], self.model.config)
        drawn = [visit for visit, example in uses if example.target]
        return BagelBatch(
            model=self.model,
            packed=packed.to(self._device),
            timesteps=self._samples.times(drawn).to(self._device),
            noise=self._samples.noise(packed, drawn).to(self._device),
            ids=tuple(example.id for example in examples),
            subsets=self._subsets_of(packed, uses),
            frozen=self._frozen,
        )

    def _subsets_of(self, packed: PackedBatch, uses: Sequence[tuple[Visit, Example]]) -> Subsets:
        copies = self._config.noise_draws
        places = [(self._rows.subset_of(visit.row), example) for visit, example in uses]
        targets = [place for place, example in places if example.target for _ in range(copies)]
        pairs = zip(packed.latent_lens, packed.latent_noised, strict=True)
        lens = [length for length, is_target in pairs if is_target]
        answers = [
            place
            for place, example in places
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
            source, config.base_revision, where, lambda name: is_frozen(name, config)
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


def open_encoder(
    config: TrainConfig, rows: Rows, source: str | Path, device: torch.device
) -> tuple[Examples, str]:
    """Rows with the autoencoder only, and what names it; the model's weights are not read.

    Raises:
        CheckpointError: files are missing or damaged.
    """
    located = locate(source, revision=config.base_revision)
    vae, _, tokenizer = load_rest(located)
    _, sizes, _ = read_main(located, tokenizer)
    examples = Examples(
        rows,
        tokenizer,
        Encoder(vae.to(device), device),
        sizes_of(config, sizes),
        memory=0,
        shelf=None,
        padded=False,
    )
    return examples, autoencoder_hash(vae)
