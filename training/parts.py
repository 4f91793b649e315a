"""Settings that belong together: sizes of small random models, a family's own, and adapters."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from .checks import at_least, multiple, positive, within


@dataclass(frozen=True, kw_only=True, slots=True)
class TinySizes:
    """Sizes of a small BAGEL that is made from random weights."""

    hidden_size: int = 192
    """Width of the decoder."""
    layers: int = 4
    """Decoder layers; each has an understanding and a generation expert."""
    heads: int = 6
    """Query heads; the head size is hidden_size / heads."""
    kv_heads: int = 3
    """Key/value heads."""
    intermediate_size: int = 512
    """Width of the MLP of each expert."""
    vit_hidden_size: int = 64
    """Width of the vision tower."""
    vit_layers: int = 2
    """Layers of the vision tower."""
    vit_heads: int = 4
    """Heads of the vision tower."""
    vit_intermediate_size: int = 128
    """Width of the vision tower's MLP."""
    vocab_size: int = 512
    """Tokens of the tokenizer that is trained on the instructions, special ones included."""
    picture_side: int = 64
    """Longest picture side in pixels, a multiple of 16; larger pictures are made smaller."""
    vit_side: int = 56
    """Longest side in pixels of a picture for the vision tower, a multiple of 14."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            at_least(f"tiny.{field.name}", getattr(self, field.name), 1)
        multiple("tiny.hidden_size", self.hidden_size, "tiny.heads", self.heads)
        multiple("tiny.heads", self.heads, "tiny.kv_heads", self.kv_heads)
        multiple("tiny.vit_hidden_size", self.vit_hidden_size, "tiny.vit_heads", self.vit_heads)
        multiple("tiny.picture_side", self.picture_side, "the patch side", 16)
        multiple("tiny.vit_side", self.vit_side, "the patch side", 14)
        # 4: the fixed sin-cos position table has two axes, each with sines and cosines.
        multiple("tiny.hidden_size", self.hidden_size, "the parts of the position table", 4)
        if self.vocab_size < 300:
            raise ValueError(
                f"`tiny.vocab_size` must be at least 300 (256 bytes, special tokens and merges), "
                f"got {self.vocab_size}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyOmniGen2:
    """Sizes of a small OmniGen2 that is made from random weights."""

    hidden_size: int = 192
    """Width of the transformer."""
    layers: int = 4
    """Layers over the joint sequence."""
    refiner_layers: int = 1
    """Layers of each of the three refiners."""
    heads: int = 6
    """Query heads; the head size is hidden_size / heads."""
    kv_heads: int = 3
    """Key/value heads."""
    intermediate_size: int = 384
    """Width of the MLPs, a multiple of 16."""
    text_hidden_size: int = 128
    """Width of the text encoder, which is not trained."""
    text_layers: int = 2
    """Its layers."""
    vocab_size: int = 640
    """Tokens of the tokenizer that is trained on the instructions, special ones included."""
    picture_side: int = 64
    """Side in pixels of what the model draws when no size is asked for, a multiple of 16."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            at_least(f"tiny.{field.name}", getattr(self, field.name), 1)
        multiple("tiny.picture_side", self.picture_side, "a patch of 2 latents", 16)
        multiple("tiny.hidden_size", self.hidden_size, "tiny.heads", self.heads)
        multiple("tiny.heads", self.heads, "tiny.kv_heads", self.kv_heads)
        multiple("tiny.intermediate_size", self.intermediate_size, "the step of MLPs", 16)
        # 6: three position axes, each of pairs of values.
        at_least("tiny.hidden_size / tiny.heads", self.hidden_size // self.heads, 6)
        multiple("tiny.hidden_size / tiny.heads", self.hidden_size // self.heads, "a pair", 2)
        multiple("tiny.text_hidden_size", self.text_hidden_size, "the text encoder's heads", 32)
        at_least("tiny.vocab_size", self.vocab_size, 300)


@dataclass(frozen=True, kw_only=True, slots=True)
class OmniGen2Settings:
    """What only OmniGen2 has; the defaults are its released recipe."""

    max_pixels: int = 1024 * 1024
    """Larger pictures to draw are made smaller; nothing is enlarged."""
    reference_pixels: tuple[int, ...] = (1024**2, 1024**2, 768**2, 512**2)
    """The same for each of 1, 2, 3, ... references; the last number holds for more."""
    max_side: int = 2048
    """Limit of a picture's longer side, in pixels."""
    max_text_tokens: int = 888
    """Longer prompts are cut."""
    drop_references_too: float = 0.5
    """Probability that a sample without text (`drop_text`) loses its references, too."""
    time_rule: Literal["by_tokens", "as_sampling", "constant"] = "by_tokens"
    """How flow times are moved towards noise: by the picture's tokens, as sampling does, or
    always as for 4,096 tokens."""

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_side"):
            at_least(f"omnigen2.{name}", getattr(self, name), 16)
        if not self.reference_pixels or min(self.reference_pixels) < 256:
            raise ValueError(
                f"`omnigen2.reference_pixels` must be numbers from 256, got {self.reference_pixels}"
            )
        at_least("omnigen2.max_text_tokens", self.max_text_tokens, 1)
        within("omnigen2.drop_references_too", self.drop_references_too, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyBlip3o:
    """Sizes of a small BLIP3-o: its frozen parts are taught when it is made, the rest is random."""

    hidden_size: int = 192
    """Width of the transformer."""
    layers: int = 4
    """Its layers."""
    heads: int = 6
    """Its heads; the head size is hidden_size / heads, a multiple of 4."""
    queries: int = 24
    """Queries that the text model answers."""
    text_hidden_size: int = 128
    """Width of the text model, which is taught to repeat instructions and then frozen."""
    text_layers: int = 2
    """Its layers."""
    text_steps: int = 300
    """Steps that it is taught."""
    vocab_size: int = 640
    """Tokens of the tokenizer that is trained on the instructions, special ones included."""
    feature_channels: int = 96
    """Width of the vision tower, which is taught together with the decoder and then frozen."""
    tower_layers: int = 2
    """Its layers."""
    decoder_steps: int = 1000
    """Steps that both are taught."""
    picture_side: int = 64
    """Side of all pictures in pixels, a multiple of 16."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            least = 0 if field.name.endswith("_steps") else 1
            at_least(f"tiny.{field.name}", getattr(self, field.name), least)
        multiple("tiny.hidden_size", self.hidden_size, "tiny.heads", self.heads)
        # 4: two position axes, each of pairs of values.
        multiple("tiny.hidden_size / tiny.heads", self.hidden_size // self.heads, "two pairs", 4)
        multiple("tiny.text_hidden_size", self.text_hidden_size, "the text model's heads", 32)
        multiple("tiny.feature_channels", self.feature_channels, "the tower's heads", 16)
        multiple("tiny.picture_side", self.picture_side, "the decoder's enlargement", 16)
        at_least("tiny.vocab_size", self.vocab_size, 300)


@dataclass(frozen=True, kw_only=True, slots=True)
class Blip3oSettings:
    """What only BLIP3-o has; the defaults are its released recipe."""

    tower: str | None = None
    """Folder or Hub id of the vision tower whose features are learned; None: the folder
    `vision_tower` beside the model that training starts from."""
    tower_revision: str | None = None
    """Commit, branch or tag of a Hub `tower`."""
    tower_side: int = 448
    """Side in pixels of the pictures that it sees."""
    max_text_tokens: int = 512
    """Longer prompts are cut."""

    def __post_init__(self) -> None:
        for name in ("tower_side", "max_text_tokens"):
            at_least(f"blip3o.{name}", getattr(self, name), 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSettings:
    """Adapters on the linear layers of chosen experts; everything else stays as it is."""

    experts: tuple[str, ...] = ("gen",)
    """Experts that get one: und, gen."""
    rank: int = 32
    """Rank of the added matrices."""
    alpha: float | None = None
    """What is added is scaled by alpha / rank; None: by 1."""
    quantize: Literal["none", "int8", "nf4"] = "none"
    """Storage of the frozen experts: int8 through torchao, nf4 through bitsandbytes (CUDA only)."""
    merged: bool = False
    """Also write the whole model with the adapter merged into it."""

    def __post_init__(self) -> None:
        if not self.experts or set(self.experts) - {"und", "gen"}:
            raise ValueError(f"`lora.experts` must be of und, gen; got {list(self.experts)}")
        at_least("lora.rank", self.rank, 1)
        if self.alpha is not None:
            positive("lora.alpha", self.alpha)
        if self.merged and self.quantize != "none":
            raise ValueError(
                "`lora.merged` needs a base that is not quantised; set lora.quantize=none, or "
                "merge the finished adapter with `echo4o model merge`"
            )
