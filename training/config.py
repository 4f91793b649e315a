"""The typed training configuration: every setting, what it means, and what is refused.

A recipe (recipes.py) returns one; `--set key=value` (overrides.py) changes single fields.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from echo4o.records import JsonValue

from .checks import at_least, check_sizes, positive, within
from .fingerprint import described
from .parts import (
    Blip3oSettings,
    LoraSettings,
    OmniGen2Settings,
    TinyBlip3o,
    TinyOmniGen2,
    TinySizes,
)

UNTRACED = frozenset(
    {
        *("data", "revision"),  # the rows themselves are compared by their digest
        *("checkpoint_every", "keep_checkpoints", "latent_cache_mb", "log_every", "trackers"),
        *("latent_store", "workers"),
        *("shard", "layout", "save_dtype", "save_weights", "push", "push_every", "stop_above"),
        *("sample_every", "sample_prompts", "sample_steps", "sample_guidance", "resume_force"),
    }
)
"""Fields that change no weight; a resumed run may have other values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """All settings of one run; saved as `config.json` with the result."""

    recipe: str
    """Name of the recipe it started from."""

    # ---- model -------------------------------------------------------------------------------
    base_model: str | None = None
    """Folder or Hub id to start from; None makes a small random model of the sizes in `tiny`."""
    base_revision: str | None = None
    """Commit, branch or tag of a Hub `base_model`."""
    tiny: TinySizes | TinyOmniGen2 | TinyBlip3o | None = None
    """Sizes of the random model, when there is no `base_model`."""
    omnigen2: OmniGen2Settings | None = None
    """Train an OmniGen2, with what only it has."""
    blip3o: Blip3oSettings | None = None
    """Train a BLIP3-o, with what only it has; with neither of both, a BAGEL is trained."""
    autoencoder: str | None = None
    """Folder of the AutoencoderKL of a random model; None takes the one the package ships."""
    freeze: tuple[str, ...] = ()
    """Groups that are not trained: und, gen, vit, embeddings, heads (of OmniGen2: layers, refiners,
    embeddings, heads; of BLIP3-o: queries, layers, embeddings, heads); autoencoder, text model and
    vision tower of the others than BAGEL never are."""
    lora: LoraSettings | None = None
    """Train adapters only; None trains the weights themselves."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""

    # ---- data --------------------------------------------------------------------------------
    data: str | None = None
    """Folder or Hub id of the dataset; None looks where `echo4o.load_dataset` looks."""
    revision: str | None = None
    """Commit, branch or tag of a Hub dataset."""
    mixture: tuple[tuple[str, float], ...] = (("all", 1.0),)
    """(config, weight) pairs; the weight is how often an epoch shows each row (0.5: every other
    epoch on average, 2: twice an epoch)."""
    streaming: bool = False
    """Leave the dataset where it is and fetch rows as they come, in an order that suits that;
    nothing is copied to this machine."""
    split: str = "train"
    """Split to train on."""
    vae_sizes: tuple[int, int, int] | None = None
    """(longest side, shortest side, stride) of pictures for the autoencoder; None: the model's."""
    vit_sizes: tuple[int, int, int] | None = None
    """The same for the vision tower."""
    understanding_sizes: tuple[int, int, int] | None = None
    """The same for pictures that are only looked at (rows with an answer and no picture to draw),
    which share a limit of pixels; None: `vit_sizes`."""
    pad_pictures: bool = False
    """Encode the pictures of a pack padded to one size, as the authors do; it changes latents."""
    shuffle_references: bool = False
    """Show the references of a row in any order where its text names each by number ("image 2"),
    and change the numbers to match."""
    drop_references: float = 0.0
    """Probability that a sample loses all its references, as image guidance sees it."""
    drop_text: float = 0.1
    """Probability that a sample's text is left out (spec 9.2)."""
    drop_vit: float = 0.3
    """Probability that a reference's vision-tower part is left out."""
    drop_vae: float = 0.3
    """Probability that a reference's clean latent is left out."""
    latent_cache_mb: int = 512
    """Pictures are encoded once, before training, when all their latents fit in this much memory;
    0 encodes them at every use."""
    latent_store: str | None = None
    """Folder of pictures that `train cache` encoded; None: beside the cached dataset."""
    workers: int = 0
    """Processes that read and decode pictures where these are not in memory; 0: this one does."""

    # ---- batch -------------------------------------------------------------------------------
    samples_per_pack: int | None = None
    """Samples in a pack; exclusive with tokens_per_pack."""
    tokens_per_pack: int | None = None
    """Token budget of a pack; a longer sample is skipped and counted."""
    lookahead: int = 32
    """With tokens_per_pack: samples that may wait for a pack with room for them."""
    packs_per_step: int = 1
    """Packs of one optimiser step over all processes; each process takes an equal share."""

    # ---- loss --------------------------------------------------------------------------------
    noise_draws: int = 1
    """Noised copies of a row's target at each visit, their times spread over the distribution. They
    share one pass over text and references, so that small pictures cost less than a visit each."""
    timestep_shift: float = 1.0
    """t = shift*t / (1 + (shift-1)*t) on the sigmoid of a normal, of BLIP3-o on a uniform number;
    1.0 as the authors train."""
    mse_weight: float = 1.0
    """Weight of the flow-matching loss."""
    ce_weight: float = 1.0
    """Weight of the text loss of rows that have one."""

    # ---- optimiser ---------------------------------------------------------------------------
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """AdamW with two float32 moments, or with 8-bit ones (torchao, `echo4o[quantize]`)."""
    steps: int
    """Optimiser steps; 0 writes only the base model."""
    learning_rate: float = 2e-5
    """Peak learning rate."""
    min_learning_rate: float = 1e-7
    """Learning rate at the end of a cosine schedule."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What follows the warm-up."""
    warmup_steps: int = 2000
    """Steps of linear warm-up; the first step has learning rate 0, as the authors train."""
    beta1: float = 0.9
    """AdamW."""
    beta2: float = 0.95
    """AdamW."""
    epsilon: float = 1e-15
    """AdamW."""
    weight_decay: float = 0.0
    """AdamW."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm."""
    ema_decay: float = 0.9999
    """Decay of the moving average of the weights, the ones that are saved as the model."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Computation; auto is bf16 on a GPU and fp32 on a CPU. Master weights are always fp32."""
    shard: Literal["auto", "none", "full"] = "auto"
    """Whether processes share weights, gradients, moments and averages (FSDP2) or each holds all;
    auto shares them on several GPUs."""
    seed: int = 42
    """Seed of everything: base weights, order, dropout, time steps, noise."""

    # ---- watching and saving -----------------------------------------------------------------
    log_every: int = 50
    """Steps between console lines."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept."""
    sample_every: int = 0
    """Steps between pictures of `sample_prompts`, which are also made at the end; 0: none."""
    sample_prompts: tuple[str, ...] = ()
    """Fixed prompts that are drawn along the way."""
    sample_steps: int = 24
    """Denoising steps of those pictures."""
    sample_guidance: float = 4.0
    """Text guidance of those pictures."""
    stop_above: float = 10.0
    """The run stops when a loss exceeds the mean of the 50 before it this many times; 0: never."""
    save_dtype: Literal["bf16", "fp32"] = "bf16"
    """Type of the saved model."""
    save_weights: Literal["ema", "raw"] = "ema"
    """What is saved as the model: the moving average, or the weights of the last step."""
    layout: Literal["echo4o", "bagel"] = "echo4o"
    """Files of the saved model: ours, or the authors'."""
    push: str | None = None
    """ORG/NAME on the Hub that gets the model, its card, record and samples."""
    push_every: int = 0
    """Steps between pushes; 0 pushes the result only."""
    trackers: tuple[str, ...] = ()
    """Experiment trackers of accelerate, for example trackio (kept in OUT/trackio, offline)."""
    resume_force: bool = False
    """Go on from checkpoints that were made with other settings."""

    @property
    def family(self) -> Literal["bagel", "omnigen2", "blip3o"]:
        """The kind of model."""
        if self.blip3o is not None:
            return "blip3o"
        return "bagel" if self.omnigen2 is None else "omnigen2"

    def __post_init__(self) -> None:
        self._check_family()
        self._check_model_and_data()
        self._check_batch()
        self._check_optimiser()

    def _check_model_and_data(self) -> None:
        if (self.base_model is None) == (self.tiny is None):
            raise ValueError(
                f"exactly one of `base_model` and `tiny` must be set, got {self.base_model!r} and "
                f"{self.tiny!r}; set base_model to a model folder or Hub id"
            )
        if self.lora is not None and self.base_model is None:
            raise ValueError(
                "`lora` needs `base_model`, a model that can draw: an adapter on random weights "
                "learns nothing"
            )
        groups = GROUPS[self.family]
        unknown = sorted(set(self.freeze) - {*groups, "autoencoder"})
        if unknown:
            raise ValueError(f"`freeze` has unknown groups {unknown}; choose from {groups}")
        if self.lora is not None and self.family == "bagel":
            groups = self.lora.experts
        if not set(groups) - set(self.freeze):
            raise ValueError(f"`freeze` {self.freeze} leaves nothing to train; take a group out")
        if not self.mixture or all(weight == 0 for _, weight in self.mixture):
            raise ValueError(f"`mixture` {self.mixture!r} has no weight above 0: nothing to train")
        for config, weight in self.mixture:
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"`mixture` weight of {config!r} must be 0 or more, got {weight}")
        for name in ("drop_references", "drop_text", "drop_vit", "drop_vae"):
            within(name, getattr(self, name), 0.0, 1.0)
        for name in ("vae_sizes", "vit_sizes", "understanding_sizes"):
            check_sizes(name, getattr(self, name))
        at_least("latent_cache_mb", self.latent_cache_mb, 0)
        at_least("workers", self.workers, 0)

    def _check_family(self) -> None:
        if self.omnigen2 is not None and self.blip3o is not None:
            raise ValueError("`omnigen2` and `blip3o` are two families; set one of them")
        sizes = _TINY[self.family]
        if self.tiny is not None and not isinstance(self.tiny, sizes):
            raise ValueError(
                f"`tiny` holds the sizes of another family: {self.family} needs {sizes.__name__}, "
                f"got {type(self.tiny).__name__}"
            )
        if self.family == "bagel":
            return
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in _FOREIGN[self.family]:
            if getattr(self, name) != defaults[name]:
                raise ValueError(
                    f"`{name}` = {getattr(self, name)!r} has no meaning for {self.family}; leave "
                    f"it out"
                )
        if self.lora is not None and (self.lora.experts, self.lora.quantize) != (("gen",), "none"):
            raise ValueError(
                f"`lora.experts` and `lora.quantize` have no meaning for {self.family}; leave them "
                f"out"
            )

        if self.blip3o is not None and "multi_reference" in dict(self.mixture):
            raise ValueError(
                "`mixture` names multi_reference, and BLIP3-o draws from text alone; take it out"
            )

    def _check_batch(self) -> None:
        if (self.samples_per_pack is None) == (self.tokens_per_pack is None):
            raise ValueError(
                f"exactly one of `samples_per_pack` and `tokens_per_pack` must be set, got "
                f"{self.samples_per_pack} and {self.tokens_per_pack}; set the other one to none"
            )
        for name in ("samples_per_pack", "tokens_per_pack"):
            at_least(name, getattr(self, name) or 1, 1)
        at_least("lookahead", self.lookahead, 0)
        at_least("packs_per_step", self.packs_per_step, 1)
        at_least("noise_draws", self.noise_draws, 1)

    def _check_optimiser(self) -> None:
        for name in ("steps", "warmup_steps", "sample_every", "push_every", "seed"):
            at_least(name, getattr(self, name), 0)
        for name in ("log_every", "checkpoint_every", "keep_checkpoints", "sample_steps"):
            at_least(name, getattr(self, name), 1)
        for name in ("learning_rate", "epsilon", "max_grad_norm", "timestep_shift"):
            positive(name, getattr(self, name))
        for name in ("weight_decay", "mse_weight", "ce_weight", "sample_guidance"):
            at_least(name, getattr(self, name), 0)
        for name in ("beta1", "beta2", "ema_decay"):
            within(name, getattr(self, name), 0.0, 1.0)
        within("min_learning_rate", self.min_learning_rate, 0.0, self.learning_rate)
        at_least("stop_above", self.stop_above, 0)
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                wanted = ", ".join(allowed)
                raise ValueError(f"`{name}` must be one of {wanted}; got {getattr(self, name)!r}")
        if self.push_every and not self.push:
            raise ValueError("`push_every` needs `push`, the ORG/NAME on the Hub to push to")
        if self.push is not None and self.push.count("/") != 1:
            raise ValueError(f"`push` must be ORG/NAME, got {self.push!r}")

    @property
    def artefacts(self) -> tuple[str, ...]:
        """Folders that a finished run leaves."""
        if self.lora is None:
            return ("model",)
        return ("adapter", "model") if self.lora.merged else ("adapter",)

    def to_dict(self) -> dict[str, JsonValue]:
        """The settings as JSON values: tuples become lists, local folders their bare names.

        With the name of a local model stands what tells it from others of that name.
        """
        fields = {name: _plain(value) for name, value in dataclasses.asdict(self).items()}
        for name in ("data", "latent_store"):
            if fields[name] and (name == "latent_store" or Path(str(fields[name])).is_dir()):
                fields[name] = Path(str(fields[name])).resolve().name
        for name in ("base_model", "autoencoder"):
            if fields[name] and Path(str(fields[name])).is_dir():
                fields[name] = described(Path(str(fields[name])))
        own = fields["blip3o"]
        if isinstance(own, dict) and own["tower"] and Path(str(own["tower"])).is_dir():
            own["tower"] = described(Path(str(own["tower"])))
        return fields


_CHOICES = {
    "schedule": ("constant", "cosine"),
    "precision": ("auto", "fp32", "bf16"),
    "optimizer": ("adamw", "adamw_8bit"),
    "shard": ("auto", "none", "full"),
    "save_dtype": ("bf16", "fp32"),
    "save_weights": ("ema", "raw"),
    "layout": ("echo4o", "bagel"),
}

_TINY = {"bagel": TinySizes, "omnigen2": TinyOmniGen2, "blip3o": TinyBlip3o}
"""Sizes of a small random model of each family."""

_BAGEL_ONLY = (
    *("vae_sizes", "vit_sizes", "understanding_sizes", "pad_pictures", "shuffle_references"),
    *("drop_references", "drop_vit", "drop_vae", "ce_weight", "layout"),
)
_FOREIGN = {
    "omnigen2": (*_BAGEL_ONLY, "noise_draws", "timestep_shift"),
    "blip3o": _BAGEL_ONLY,
}
"""Settings that a family does not know."""

GROUPS = {
    "bagel": ("und", "gen", "vit", "embeddings", "heads"),
    "omnigen2": ("layers", "refiners", "embeddings", "heads"),
    "blip3o": ("queries", "layers", "embeddings", "heads"),
}
"""Parameter groups of each family that can be frozen, by the name `freeze` takes."""


def differences(saved: dict[str, JsonValue], config: TrainConfig) -> list[str]:
    """Settings that changed since `saved` and that change the weights: `name: old -> new`."""
    before, now = _flat(saved), _flat(config.to_dict())
    return [
        f"{name}: {before.get(name)!r} -> {now.get(name)!r}"
        for name in sorted(set(before) | set(now))
        if before.get(name) != now.get(name)
    ]


def _flat(fields: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Traced settings, the nested ones by their dotted names."""
    found: dict[str, JsonValue] = {}
    for name in set(fields) - UNTRACED:
        value = fields[name]
        found |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {}
        if not isinstance(value, dict):
            found[name] = value
    return found


def _plain(value: object) -> JsonValue:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value  # type: ignore[return-value]
