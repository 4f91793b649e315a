"""The OmniGen2 family: a text encoder that is never trained, and flow matching on its transformer.

Every sample has its text, its references' latents and one noised target. Errors count by latent
values, not by pictures, as in the released recipe (benchmarks and transfer, section 1.7). Every
random number is keyed by (seed, row, visit, purpose).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.utils.rnn import pad_sequence

from echo4o.models.omnigen2 import OmniGen2Pipeline, OmniGen2Transformer2DModel
from echo4o.models.omnigen2.assembly import locate
from echo4o.models.omnigen2.denoising import training_times
from echo4o.models.omnigen2.processor import chat_text
from echo4o.models.parts import load_model

from . import draws
from .config import TrainConfig
from .data import Rows
from .encoded import Example, Examples
from .encoded_family import EncodedFamily, make_ready
from .feed import Loaded
from .latents import Encoder, Moments
from .loss import Counts, LossSums, Subsets, sums
from .omnigen2_rows import OmniGen2Codec
from .order import Visit
from .parts import OmniGen2Settings
from .sharding import is_sharded
from .store import autoencoder_hash


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
        found: dict[int, Tensor] = {}
        for group in self._alike():
            texts = [self.texts[one] for one in group]
            lengths = torch.tensor([len(text) for text in texts], device=self.times.device)
            states = pad_sequence(texts, batch_first=True)
            velocities = self.transformer(
                [noisy[one] for one in group],
                self.times[group],
                states,
                torch.arange(states.shape[1], device=self.times.device) < lengths[:, None],
                [self.references[one] for one in group],
            )
            found.update(zip(group, velocities, strict=True))
        errors = [
            _as_patches((found[place].float() - (clean - noise)).square())
            for place, (clean, noise) in enumerate(zip(self.targets, self.noise, strict=True))
        ]
        return sums(torch.cat(errors), None, self.subsets)

    def _alike(self) -> list[list[int]]:
        """Samples that go through the model together: those with as many references.

        Sequences are padded to the longest, and references make most of the difference: in the
        sandbox's mixture a third of all tokens was padding. Processes that share weights must all
        run the model equally often and take the samples at once.
        """
        if is_sharded(self.transformer):
            return [list(range(len(self.texts)))]
        groups: dict[int, list[int]] = {}
        for place, seen in enumerate(self.references):
            groups.setdefault(len(seen), []).append(place)
        return list(groups.values())


class OmniGen2Family(EncodedFamily[Moments]):
    """OmniGen2 with the rows it is trained on; see `family.Family`."""

    # A token passes one of three refiners of one size.
    beside = (*EncodedFamily.beside, "noise_refiner.", "ref_image_refiner.")

    def __init__(
        self,
        pipeline: OmniGen2Pipeline,
        rows: Rows,
        config: TrainConfig,
        settings: OmniGen2Settings,
        device: torch.device,
    ) -> None:
        self.model = pipeline.transformer
        self._settings = settings
        self._encoder = Encoder(pipeline.vae, device)
        codec = OmniGen2Codec(self._encoder, settings)
        super().__init__(
            pipeline,
            parameter_group,
            rows,
            codec,
            lambda: autoencoder_hash(pipeline.vae),
            config,
            device,
        )

    def tokens_of(self, text: str, sizes: Sequence[tuple[int, int]]) -> int:
        """Tokens of a text with pictures of these widths and heights."""
        words = len(self._pipeline.processor.encode(chat_text(text)))
        patches = sum((width // 16) * (height // 16) for width, height in sizes)
        return patches + min(words, self._settings.max_text_tokens)

    @torch.no_grad()
    def collate(self, loaded: Sequence[Loaded[Example]]) -> OmniGen2Batch | None:
        """Encode texts, draw latents, dropout, times and noise; unusable rows are left out."""
        uses = self.usable(loaded)
        if not uses:
            return None
        visits, examples = [use[0] for use in uses], [use[1] for use in uses]
        latents = [
            [
                self._encoder.sample(one, *self.key(visit, f"latent {place - len(own) + 1}"))
                for place, one in enumerate(own)
            ]
            for visit, own in zip(visits, self._examples.values(examples), strict=True)
        ]
        dropped = [self.falls(visit, "drop text", self._config.drop_text) for visit in visits]
        chance = self._settings.drop_references_too
        blind = [
            without and self.falls(visit, "drop references", chance)
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
        pairs = list(zip(visits, targets, strict=True))
        return OmniGen2Batch(
            transformer=self.model,
            texts=[text.float() for text in texts],
            references=[
                [] if without else [one.to(self._device) for one in own[:-1]]
                for own, without in zip(latents, blind, strict=True)
            ],
            targets=[target.to(self._device) for target in targets],
            noise=[self.noise(visit, tuple(target.shape)) for visit, target in pairs],
            times=torch.stack([self._time(*pair) for pair in pairs]).to(self._device),
            ids=tuple(example.id for example in examples),
            subsets=self.subsets_of(visits, [_patches(target) for target in targets]),
            weights=(self.weights, 0 if self._config.lora else self.weights),
        )

    def pictures(self, prompts: Sequence[str]) -> list[Image.Image]:
        """Draw fixed prompts, square, as large as the training pictures may be."""
        settings = self._settings
        side = int(min(settings.max_pixels**0.5, settings.max_side)) // 16 * 16
        return self.drawn(
            prompts, height=side, width=side, max_text_tokens=settings.max_text_tokens
        )

    def _time(self, visit: Visit, target: Tensor) -> Tensor:
        drawn = torch.tensor(draws.normal(*self.key(visit, "time")))
        return training_times(drawn, (target.shape[1], target.shape[2]), self._settings.time_rule)


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
    make_ready(pipeline, config, device=device, mesh=mesh)
    return OmniGen2Family(pipeline, rows, config, settings, device)


def open_encoder(
    config: TrainConfig,
    rows: Rows,
    source: str | Path,
    settings: OmniGen2Settings,
    device: torch.device,
) -> tuple[Examples[Moments], str]:
    """Rows with the autoencoder only, and what names it.

    Raises:
        CheckpointError: files are missing or damaged.
    """
    folder = locate(source, revision=config.base_revision).folder
    vae = load_model(AutoencoderKL, folder / "vae", torch.float32)
    codec = OmniGen2Codec(Encoder(vae.to(device), device), settings)
    return Examples(rows, codec, memory=0, shelf=None), autoencoder_hash(vae)


def _patches(latent: Tensor) -> int:
    return latent.shape[1] * latent.shape[2] // 4


def _as_patches(values: Tensor) -> Tensor:
    """(C, H, W) -> (patches, 4 C)."""
    channels, height, width = values.shape
    cut = values.reshape(channels, height // 2, 2, width // 2, 2)
    return cut.permute(1, 3, 2, 4, 0).reshape(-1, 4 * channels)
