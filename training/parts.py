"""Settings that belong together: sizes of a small random model, and adapters."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from .checks import at_least, multiple, positive


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
