"""The OmniGen2 family: a text encoder that is never trained, and flow matching on its transformer.

Every sample has its text, its references' latents and one noised target. Errors count by latent
values, not by pictures, as in the released recipe (benchmarks and transfer, section 1.7). Every
random number is keyed by (seed, row, visit, purpose).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import Parameter
from torch.nn.utils.rnn import pad_sequence

from echo4o.launch import is_first_rank
from echo4o.models.bagel.pipeline import Echo4oPipelineOutput
from echo4o.models.omnigen2 import OmniGen2Pipeline, OmniGen2Transformer2DModel
from echo4o.models.omnigen2.assembly import MODEL_FOLDER, WEIGHTS
from echo4o.models.omnigen2.denoising import training_times
from echo4o.models.omnigen2.processor import chat_text

from . import draws, sharding
from .adapters import ADAPTER, adapter_parameters
from .config import TrainConfig
from .data import Rows, UnusableRowError
from .feed import Loaded
from .latents import Encoder
from .loss import Counts, LossSums, Subsets, sums
from .omnigen2_rows import Example, Examples
from .order import Visit
from .parts import LoraSettings, OmniGen2Settings
from .processes import computes_in_bf16
from .streaming import together, write_model

_ADAPTED = ["to_q", "to_k", "to_v", "to_out.0"]
"""Layers that get adapters, as in the released recipe."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OmniGen2Batch:
    """Samples on their device, with their draws."""

    transformer: OmniGen2Transformer2DModel
    texts: list[Tensor]
    """(own length, text size) each."""
    references: list[list[Tensor]]
    """Latents (C, H, W)."""
    targets: list[Tensor]
    noise: list[Tensor]
    times: Tensor
    """(samples,); 0 is noise and 1 the picture."""
    ids: tuple[str, ...]
    subsets: Subsets
    """Of the patches to draw."""
    weights: tuple[int, int]
    """Weights that every token passes, and how many of them are trained."""

    @property
    def counts(self) -> Counts:
        """Patches that carry a loss."""
        return Counts(mse=sum(_patches(target) for target in self.targets))

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sample."""
        return [
            len(text) + sum(_patches(picture) for picture in [*seen, target])
            for text, seen, target in zip(self.texts, self.references, self.targets, strict=True)
        ]

    @property
    def tokens(self) -> int:
        """All tokens, after dropout."""
        return sum(self.lengths)

    @property
    def flops(self) -> float:
        """Operations of forward and backward in the transformer; padding is not counted."""
        config, lengths = self.transformer.config, self.lengths
        every, trained = self.weights
        attention = 2 * config.num_layers * config.hidden_size * sum(n * n for n in lengths)
        # 2 operations each; the backward pass costs once for inputs and once for weights.
        return 2.0 * (sum(lengths) * (2 * every + trained) + 3 * attention)

    def losses(self) -> LossSums:
        """Forward of the samples."""
        noisy = [
            time * clean + (1 - time) * noise
            for time, clean, noise in zip(self.times, self.targets, self.noise, strict=True)
        ]
        lengths = torch.tensor([len(text) for text in self.texts], device=self.times.device)
        states = pad_sequence(self.texts, batch_first=True)
        found = self.transformer(
            noisy,
            self.times,
            states,
            torch.arange(states.shape[1], device=self.times.device) < lengths[:, None],
            self.references,
        )
        errors = [
            _as_patches((velocity.float() - (clean - noise)).square())
            for velocity, clean, noise in zip(found, self.targets, self.noise, strict=True)
        ]
        return sums(torch.cat(errors), None, self.subsets)


class OmniGen2Family:
    """OmniGen2 with the rows it is trained on; see `family.Family`."""

    def __init__(
        self,
        pipeline: OmniGen2Pipeline,
        rows: Rows,
        config: TrainConfig,
        settings: OmniGen2Settings,
        device: torch.device,
    ) -> None:
        self.model = pipeline.transformer
        self._pipeline, self._rows, self._config, self._device = pipeline, rows, config, device
        self._settings = settings
        self._encoder = Encoder(pipeline.vae, device)
        memory = config.latent_cache_mb * 2**20
        self._examples = Examples(rows, self._encoder, settings, memory=memory)
        parameters = [p for name, p in self.model.named_parameters() if ".lora_" not in name]
        self._weights = sum(p.numel() for p in parameters)

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
        """Tokens of a row with nothing dropped, None when the row cannot be used."""
        try:
            patches = self._examples.patches(row)
            text = chat_text(self._rows[row].instruction)
        except UnusableRowError as error:
            self._rows.skip(row, str(error))
            return None
        words = len(self._pipeline.processor.encode(text))
        return patches + min(words, self._settings.max_text_tokens)

    def load(self, visit: Visit) -> Loaded[Example]:
        """Read and resize, in any process."""
        try:
            return Loaded(visit, self._examples.load(visit.row), "")
        except UnusableRowError as error:
            return Loaded(visit, None, str(error))

    @torch.no_grad()
    def collate(self, loaded: Sequence[Loaded[Example]]) -> OmniGen2Batch | None:
        """Encode texts, draw latents, dropout, times and noise; unusable rows are left out."""
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
        latents = [
            [
                self._encoder.sample(one, *self._key(visit, f"latent {place - len(own) + 1}"))
                for place, one in enumerate(own)
            ]
            for visit, own in zip(visits, self._examples.moments(examples), strict=True)
        ]
        dropped = [self._falls(visit, "drop text", self._config.drop_text) for visit in visits]
        chance = self._settings.drop_references_too
        blind = [
            without and self._falls(visit, "drop references", chance)
            for visit, without in zip(visits, dropped, strict=True)
        ]
        texts = self._pipeline.encode_text(
            [
                "" if without else example.instruction
                for example, without in zip(examples, dropped, strict=True)
            ],
            self._settings.max_text_tokens,
        )
        targets = [own[-1] for own in latents]
        return OmniGen2Batch(
            transformer=self.model,
            texts=[text.float() for text in texts],
            references=[
                [] if without else [one.to(self._device) for one in own[:-1]]
                for own, without in zip(latents, blind, strict=True)
            ],
            targets=[target.to(self._device) for target in targets],
            noise=[
                torch.from_numpy(draws.normals(tuple(target.shape), *self._key(visit, "noise"))).to(
                    self._device
                )
                for visit, target in zip(visits, targets, strict=True)
            ],
            times=torch.stack([self._time(*pair) for pair in zip(visits, targets, strict=True)]).to(
                self._device
            ),
            ids=tuple(example.id for example in examples),
            subsets=self._subsets_of(visits, targets),
            weights=(self._weights, 0 if self._config.lora else self._weights),
        )

    def groups(self) -> Mapping[str, Mapping[str, Parameter]]:
        """Parameters by group (config.GROUPS); the base of adapters in none."""
        lora = self._config.lora is not None
        named = adapter_parameters(self.model) if lora else dict(self.model.named_parameters())
        found: dict[str, dict[str, Parameter]] = {}
        for name, parameter in named.items():
            found.setdefault(parameter_group(name), {})[name] = parameter
        return found

    def pictures(self, prompts: Sequence[str]) -> list[Image.Image]:
        """Draw fixed prompts, square, as large as the training pictures may be."""
        settings = self._settings
        side = int(min(settings.max_pixels**0.5, settings.max_side)) // 16 * 16
        drawn = self._pipeline(
            list(prompts),
            height=side,
            width=side,
            max_text_tokens=settings.max_text_tokens,
            num_inference_steps=self._config.sample_steps,
            guidance_scale=self._config.sample_guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in range(len(prompts))],
        )
        assert isinstance(drawn, Echo4oPipelineOutput)
        return cast(list[Image.Image], drawn.images)

    def save(self, artefact: str, folder: Path) -> None:
        """Write the adapter as diffusers reads it, or the five folders of the pipeline.

        A model is the last thing to be written: adapters are merged into it and taken off.
        """
        if artefact == "adapter":
            layers = get_peft_model_state_dict(self.model, adapter_name=ADAPTER)
            metadata = self.model.peft_config[ADAPTER].to_dict()
            self._pipeline.save_lora_weights(
                folder, layers, transformer_lora_adapter_metadata=metadata
            )
            return
        if self._config.lora is not None:
            self._pipeline.fuse_lora()
            self._pipeline.unload_lora_weights()
        dtype = torch.bfloat16 if self._config.save_dtype == "bf16" else torch.float32

        def save_rest() -> None:
            if is_first_rank():
                self._pipeline.save_parts(folder)

        together(save_rest)
        inner = folder / MODEL_FOLDER
        state = self.model.state_dict()
        write_model(inner, WEIGHTS[MODEL_FOLDER], state, dtype, one_file=False)

    def _key(self, visit: Visit, purpose: str) -> tuple[int | str, ...]:
        return (self._config.seed, visit.row, visit.visit, purpose)

    def _falls(self, visit: Visit, purpose: str, probability: float) -> bool:
        return draws.uniform(*self._key(visit, purpose)) < probability

    def _time(self, visit: Visit, target: Tensor) -> Tensor:
        drawn = torch.tensor(draws.normal(*self._key(visit, "time")))
        return training_times(drawn, (target.shape[1], target.shape[2]), self._settings.time_rule)

    def _subsets_of(self, visits: Sequence[Visit], targets: Sequence[Tensor]) -> Subsets:
        places = torch.tensor([self._rows.subset_of(visit.row) for visit in visits])
        lengths = torch.tensor([_patches(target) for target in targets])
        none = torch.empty(0, dtype=torch.long, device=self._device)
        mse = places.repeat_interleave(lengths).to(self._device)
        return Subsets(count=len(self.subsets), mse=mse, ce=none)


def parameter_group(name: str) -> str:
    """The group (config.GROUPS) of a parameter of the transformer."""
    first = name.partition(".")[0]
    if first == "layers":
        return "layers"
    if first.endswith("_refiner"):
        return "refiners"
    return "heads" if first == "norm_out" else "embeddings"


def open_omnigen2(
    config: TrainConfig,
    rows: Rows,
    source: str | Path,
    settings: OmniGen2Settings,
    *,
    device: torch.device,
    mesh: DeviceMesh | None,
) -> OmniGen2Family:
    """Load the base model and make it ready for training.

    Raises:
        CheckpointError: files are missing or damaged.
    """
    pipeline = OmniGen2Pipeline.from_pretrained(source, revision=config.base_revision)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.requires_grad_(False)
    pipeline.mllm.requires_grad_(False)
    bf16 = computes_in_bf16(config)
    model = pipeline.transformer
    if config.lora is None:
        model.float()
    else:
        model.to(torch.bfloat16 if bf16 else torch.float32)
        add_adapters(model, config.lora, config.seed)
    pipeline.mllm.to(torch.bfloat16 if bf16 else torch.float32)
    if mesh is not None:
        sharding.shard(model, model.layers, mesh, bf16=bf16)
    pipeline.to(device)
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    return OmniGen2Family(pipeline, rows, config, settings, device)


def add_adapters(model: OmniGen2Transformer2DModel, settings: LoraSettings, seed: int) -> None:
    """Freeze the model and put one adapter, in float32, on all its attention layers."""
    model.requires_grad_(False)
    alpha = settings.rank if settings.alpha is None else settings.alpha
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=alpha,
        target_modules=_ADAPTED,
        init_lora_weights="gaussian",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.add_adapter(config, ADAPTER)
    for parameter in adapter_parameters(model).values():
        parameter.data = parameter.data.float()


def _patches(latent: Tensor) -> int:
    return latent.shape[1] * latent.shape[2] // 4


def _as_patches(values: Tensor) -> Tensor:
    """(C, H, W) -> (patches, 4 C)."""
    channels, height, width = values.shape
    cut = values.reshape(channels, height // 2, 2, width // 2, 2)
    return cut.permute(1, 3, 2, 4, 0).reshape(-1, 4 * channels)
