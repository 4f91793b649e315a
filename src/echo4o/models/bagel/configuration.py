"""The configuration of BAGEL, the unified model of Echo-4o: plain values, no weights.

`text_config` is a Qwen2 configuration, `vision_config` a SigLIP one whose `num_hidden_layers`
counts the layers that are used (the published file says 27, the model uses 26).
"""

from typing import Any, Literal

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, Qwen2Config, SiglipVisionConfig


class BagelConfig(PreTrainedConfig):
    """Sizes and constants of one model; the defaults are those of BAGEL-7B-MoT.

    Args:
        text_config: decoder sizes; both experts of a layer share them.
        vision_config: vision tower sizes.
        visual_und: whether the model has a vision tower (a checkpoint for generation may lack it).
        latent_channels: channels of the autoencoder's latent.
        latent_downsample: pixels per latent cell and side.
        latent_patch_size: latent cells per token and side.
        max_latent_size: side of the latent position table, in tokens.
        vit_max_num_patch_per_side: side of the vision position table, in patches.
        interpolate_pos: spread small grids over the whole position table.
        vae_transform: (longest side, shortest side, stride) in pixels of pictures for the
            autoencoder, see `processor.ResizeRule`; default: what the position table allows,
            (1024, 512, 16) for the published model.
        vit_transform: the same for pictures for the vision tower, published (980, 224, 14).
        bos_token_id: `<|im_start|>`, opens a text.
        eos_token_id: `<|im_end|>`, closes a text.
        vision_start_token_id: opens a picture.
        vision_end_token_id: closes a picture.
    """

    model_type = "echo4o_bagel"
    sub_configs_defaults = {"text_config": Qwen2Config, "vision_config": SiglipVisionConfig}

    # Given as dict or configuration, always configurations afterwards.
    text_config: Any = None
    vision_config: Any = None
    visual_und: bool = True
    latent_channels: int = 16
    latent_downsample: int = 8
    latent_patch_size: int = 2
    max_latent_size: int = 64
    vit_max_num_patch_per_side: int = 70
    interpolate_pos: bool = False
    # Given as list, tuple or nothing, always tuples afterwards.
    vae_transform: Any = None
    vit_transform: Any = None
    bos_token_id: int = 151644
    eos_token_id: int = 151645
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653
    tie_word_embeddings: Literal[False] = False
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in the sub-configurations and refuse sizes that cannot work."""
        if self.text_config is None:
            self.text_config = dict(PUBLISHED_TEXT)
        if self.vision_config is None:
            self.vision_config = dict(PUBLISHED_VISION)
        for part in (self.text_config, self.vision_config):
            layers = part.get("num_hidden_layers", 0) if isinstance(part, dict) else 0
            if isinstance(layers, int) and layers > _MOST_LAYERS:  # it makes a list of them
                raise ValueError(
                    f"`num_hidden_layers` must be at most {_MOST_LAYERS:,}, got {layers:,}"
                )
        try:
            super().__post_init__(**kwargs)
        except (StrictDataclassError, TypeError) as error:
            said = " ".join(str(error).split())[:200]
            raise ValueError(f"the configuration describes no model: {said}") from error
        self.vae_transform = tuple(
            self.vae_transform or _transform(self.max_latent_size, self.latent_stride, 512)
        )
        self.vit_transform = tuple(
            self.vit_transform
            or _transform(self.vit_max_num_patch_per_side, self.vit_patch_size, 224)
        )
        self._check_values()
        if self.head_dim % 2:
            raise ValueError(f"the head size must be even, got {self.head_dim}")
        if self.text_config.hidden_size % 4:
            raise ValueError(
                f"`hidden_size` must be a multiple of 4, got {self.text_config.hidden_size}"
            )

    def _check_values(self) -> None:
        """Refuse what no model has before one is built of it: a file may come from anybody."""
        text, vision = self.text_config, self.vision_config
        heads, wide = ("num_attention_heads",), ("hidden_size", "intermediate_size")
        for part, names, most in (
            (self, ("latent_channels", "latent_downsample", "latent_patch_size"), 1024),
            (self, ("max_latent_size", "vit_max_num_patch_per_side"), 4096),
            (text, (*heads, "num_key_value_heads", "num_hidden_layers"), _MOST_LAYERS),
            (text, (*wide, "vocab_size"), 1 << 24),
            (vision, (*heads, "num_hidden_layers", "patch_size", "num_channels"), _MOST_LAYERS),
            (vision, wide, 1 << 24),
        ):
            for name in names:
                value = getattr(part, name)
                if type(value) is not int or not 1 <= value <= most:
                    raise ValueError(f"`{name}` must be from 1 to {most:,}, got {value!r}")
        for size, parts in (
            (text.hidden_size, text.num_attention_heads),
            (text.num_attention_heads, text.num_key_value_heads),
            (vision.hidden_size, vision.num_attention_heads),
        ):
            if size % parts:
                raise ValueError(f"a size of {size} cannot be shared equally by {parts} heads")
        for name in ("vae_transform", "vit_transform"):
            sizes = getattr(self, name)
            if len(sizes) != 3 or any(type(one) is not int or one < 1 for one in sizes):
                raise ValueError(f"`{name}` must be three whole numbers from 1, got {sizes}")
        rope = text.rope_parameters
        theta = rope.get("rope_theta")
        if rope.get("rope_type", "default") != "default" or not isinstance(theta, int | float):
            raise ValueError(f"rotary angles must be the plain ones with a base, got {dict(rope)}")

    @property
    def hidden_size(self) -> int:
        """Width of the decoder."""
        return int(self.text_config.hidden_size)

    @property
    def head_dim(self) -> int:
        """Width of one attention head of the decoder."""
        return int(self.text_config.hidden_size // self.text_config.num_attention_heads)

    @property
    def rope_theta(self) -> float:
        """Base of the rotary angles."""
        return float(self.text_config.rope_parameters["rope_theta"])

    @property
    def latent_dim(self) -> int:
        """Values of one latent token: patch rows x patch columns x channels."""
        return self.latent_patch_size**2 * self.latent_channels

    @property
    def latent_stride(self) -> int:
        """Pixels per latent token and side; a picture's sides are multiples of it."""
        return self.latent_patch_size * self.latent_downsample

    @property
    def vit_patch_size(self) -> int:
        """Pixels per vision token and side."""
        return int(self.vision_config.patch_size)

    @classmethod
    def tiny(
        cls,
        *,
        hidden_size: int = 64,
        intermediate_size: int = 176,
        num_hidden_layers: int = 3,
        num_attention_heads: int = 4,
        num_key_value_heads: int = 2,
        vocab_size: int = 512,
        vision_hidden_size: int = 48,
        vision_intermediate_size: int = 96,
        vision_num_hidden_layers: int = 2,
        vision_num_attention_heads: int = 4,
        max_latent_size: int = 8,
        vit_max_num_patch_per_side: int = 8,
        **values: Any,
    ) -> "BagelConfig":
        """A small model for tests and rehearsals; `values` are other fields of this class."""
        text = {
            **PUBLISHED_TEXT,
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
            "num_hidden_layers": num_hidden_layers,
            "num_attention_heads": num_attention_heads,
            "num_key_value_heads": num_key_value_heads,
            "vocab_size": vocab_size,
        }
        vision = {
            **PUBLISHED_VISION,
            "hidden_size": vision_hidden_size,
            "intermediate_size": vision_intermediate_size,
            "num_hidden_layers": vision_num_hidden_layers,
            "num_attention_heads": vision_num_attention_heads,
            "image_size": vit_max_num_patch_per_side * PUBLISHED_VISION["patch_size"],
        }
        return cls(
            text_config=text,
            vision_config=vision,
            max_latent_size=max_latent_size,
            vit_max_num_patch_per_side=vit_max_num_patch_per_side,
            **values,
        )


_MOST_LAYERS = 1024
"""More layers, or heads, no model has."""


def _transform(side: int, stride: int, shortest: int) -> tuple[int, int, int]:
    """Resize rule for a position table with `side` entries of `stride` pixels."""
    return side * stride, min(shortest, side * stride // 2), stride


PUBLISHED_TEXT: dict[str, Any] = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
}
PUBLISHED_VISION: dict[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 980,
    "vision_use_head": False,
}
