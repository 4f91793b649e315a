"""The BLIP3-o family: queries that a frozen text model answers, and flow matching on features.

What is drawn are the features of a frozen vision tower; queries and transformer are trained by the
error of the velocity (benchmarks and transfer, section 2.1). Rows are drawn from text alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from echo4o.models.blip3o import Blip3oPipeline, Blip3oTransformer
from echo4o.models.blip3o.prompting import encode_prompts, prompt_text

from . import draws
from .blip3o_rows import Blip3oCodec, Tower
from .config import TrainConfig
from .data import Rows
from .encoded import Example, Examples
from .encoded_family import EncodedFamily, frozen_dtype, make_ready
from .feed import Loaded
from .loss import Counts, LossSums, Subsets, sums
from .order import Visit
from .parts import Blip3oSettings

_TIMES = 1000
"""Noise levels of the released recipe: sigma is one of 1/1000, 2/1000, ... 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Blip3oBatch:
    """Samples on their device, with their draws; shape letters as in the transformer."""

    transformer: Blip3oTransformer
    condition: Callable[[], Tensor]
    """Reads the texts: (samples, Q, H), zeros where a text was dropped; gradients reach the
    queries."""
    features: Tensor
    """(samples, N, D)."""
    noise: Tensor
    """(samples * copies, N, D)."""
    sigmas: Tensor
    """(samples * copies,); 1 is noise and 0 the picture."""
    ids: tuple[str, ...]
    subsets: Subsets
    """Of the feature tokens."""
    text_tokens: int
    """With the queries."""
    work: tuple[float, float]
    """Operations of forward and backward for a text token, and for a feature token."""

    @property
    def counts(self) -> Counts:
        """Feature tokens, all of which carry a loss."""
        return Counts(mse=self.noise.shape[0] * self.noise.shape[1])

    @property
    def tokens(self) -> int:
        """All tokens."""
        return self.text_tokens + self.counts.mse

    @property
    def flops(self) -> float:
        """Operations of forward and backward; attention, a small part here, is not counted."""
        return self.text_tokens * self.work[0] + self.counts.mse * self.work[1]

    def losses(self) -> LossSums:
        """Forward of the samples."""
        copies = len(self.noise) // len(self.features)
        clean = self.features.repeat_interleave(copies, 0)
        sigmas = self.sigmas[:, None, None]
        velocity = self.transformer(
            (1 - sigmas) * clean + sigmas * self.noise,
            self.sigmas,
            self.condition().repeat_interleave(copies, 0),
        )
        errors = (velocity.float() - (self.noise - clean)).square()
        return sums(errors.flatten(0, 1), None, self.subsets)


class Blip3oFamily(EncodedFamily[Tensor]):
    """BLIP3-o with the rows it is trained on; see `family.Family`."""

    def __init__(
        self,
        pipeline: Blip3oPipeline,
        tower: Tower,
        rows: Rows,
        config: TrainConfig,
        settings: Blip3oSettings,
        device: torch.device,
    ) -> None:
        self.model = pipeline.transformer
        self._settings, self._tower = settings, tower
        super().__init__(
            pipeline, parameter_group, rows, Blip3oCodec(tower), lambda: tower.name, config, device
        )
        reader = pipeline.mllm.model.language_model.layers
        read = 2 if config.lora or "queries" in config.freeze else 4
        trained = 0 if config.lora else self.weights
        self._work = (
            float(read * sum(p.numel() for p in reader.parameters())),
            2.0 * (2 * self.weights + trained),
        )

    def prepare(self) -> list[int]:
        """Encode the pictures once, if they fit into memory; returns the usable rows."""
        usable = super().prepare()
        if self.all_ready:
            self._tower.close()
        return usable

    def tokens_of(self, text: str, sizes: Sequence[tuple[int, int]]) -> int:
        """Tokens of a text and its picture, which is drawn from several levels of noise."""
        return self._text_tokens(text) + self.model.config.grid**2 * self._config.noise_draws

    @torch.no_grad()
    def collate(self, loaded: Sequence[Loaded[Example]]) -> Blip3oBatch | None:
        """Find features, draw dropout, times and noise; unusable rows are left out."""
        uses = self.usable(loaded)
        if not uses:
            return None
        visits, examples = [use[0] for use in uses], [use[1] for use in uses]
        features = torch.stack([own[0] for own in self._examples.values(examples)])
        features = features.to(self._device, torch.float32)
        kept = [not self.falls(visit, "drop text", self._config.drop_text) for visit in visits]
        texts = [example.instruction for example in examples]
        copies, shape = self._config.noise_draws, tuple(features.shape[1:])
        sigmas = [sigma for visit in visits for sigma in self._sigmas(visit)]
        return Blip3oBatch(
            transformer=self.model,
            condition=lambda: self._condition(texts, kept),
            features=features,
            noise=torch.cat([self.noise(visit, (copies, *shape)) for visit in visits]),
            sigmas=torch.tensor(sigmas, device=self._device),
            ids=tuple(example.id for example in examples),
            subsets=self.subsets_of(visits, [copies * shape[0]] * len(visits)),
            text_tokens=sum(map(self._text_tokens, texts)),
            work=self._work,
        )

    def pictures(self, prompts: Sequence[str]) -> list[Image.Image]:
        """Draw fixed prompts."""
        return self.drawn(prompts, max_text_tokens=self._settings.max_text_tokens)

    def _condition(self, texts: Sequence[str], kept: Sequence[bool]) -> Tensor:
        states = encode_prompts(
            self._pipeline.mllm,
            self._pipeline.processor,
            self.model.latent_queries,
            [prompt_text(self.model.config, text) for text in texts],
            self._settings.max_text_tokens,
        )
        return states * torch.tensor(kept, device=states.device)[:, None, None]

    def _text_tokens(self, text: str) -> int:
        ids = self._pipeline.processor.encode(prompt_text(self.model.config, text))
        marks = 1 + self.model.config.num_queries
        return min(len(ids), self._settings.max_text_tokens) + marks

    def _sigmas(self, visit: Visit) -> list[float]:
        """Noise levels of a row's copies, one in each of as many equal parts of the scale."""
        copies = self._config.noise_draws
        first = draws.uniform(*self.key(visit, "time"))
        shift = self._config.timestep_shift
        places = ((first + copy / copies) % 1 for copy in range(copies))
        moved = (shift * place / (1 + (shift - 1) * place) for place in places)
        return [(int(place * _TIMES) + 1) / _TIMES for place in moved]


def parameter_group(name: str) -> str:
    """The group (config.GROUPS) of a parameter of the transformer."""
    if name.startswith("latent_queries"):
        return "queries"
    if name.startswith("dit.layers."):
        return "layers"
    return "heads" if name.startswith("dit.norm_out.") else "embeddings"


def open_blip3o(
    config: TrainConfig,
    rows: Rows,
    source: str | Path,
    settings: Blip3oSettings,
    *,
    device: torch.device,
    mesh: DeviceMesh | None,
) -> Blip3oFamily:
    """Load the base model and make it ready for training; the vision tower is not loaded.

    Raises:
        CheckpointError: files are missing or damaged.
        Echo4oError: there is no vision tower.
    """
    tower = Tower(settings, source, dtype=frozen_dtype(config), device=device)
    pipeline = Blip3oPipeline.from_pretrained(source, revision=config.base_revision)
    # The text model reads the queries outside of the transformer's forward.
    make_ready(pipeline, config, device=device, mesh=mesh, apart=["latent_queries"])
    if config.gradient_checkpointing:
        pipeline.mllm.gradient_checkpointing_enable({"use_reentrant": False})
        pipeline.mllm.train()  # it has no dropout; layers are recomputed in this mode only
    return Blip3oFamily(pipeline, tower, rows, config, settings, device)


def open_encoder(
    config: TrainConfig,
    rows: Rows,
    source: str | Path,
    settings: Blip3oSettings,
    device: torch.device,
) -> tuple[Examples[Tensor], str]:
    """Rows with the vision tower only, and what names it.

    Raises:
        Echo4oError: there is no vision tower.
    """
    tower = Tower(settings, source, dtype=frozen_dtype(config), device=device)
    return Examples(rows, Blip3oCodec(tower), memory=0, shelf=None), tower.name
