"""The EVA-CLIP tower whose pooled features BLIP3-o learns to draw; drawing itself never needs it.

A plain vision transformer with the norm behind attention and feed-forward ("residual post-norm").
Parameters are called as in timm, whose `eva02_enormous_patch14_clip_224` it equals; timm itself
needs torchvision, which does not load beside every build of torch, so the tower stands here.

Shape letters: B pictures, P patches, N pooled tokens (rows of the grid after each other), D width.
"""

from collections.abc import Mapping, Sequence
from math import isqrt
from pathlib import Path

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, gelu, linear, scaled_dot_product_attention

from ..checkpoint import (
    CheckpointError,
    TensorFacts,
    check_tensors,
    find_folder,
    read_header,
    read_json,
    refusing_nonsense,
)
from ..pixels import to_rgb

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""CLIP's normalisation of the three colours (Radford et al. 2021)."""
_EPS = 1e-6


def prepare(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """A picture as pixels (side, side, 3): shortest side resized (bicubic), centre kept."""
    picture = to_rgb(image)
    scale = side / min(picture.size)
    width, height = (max(side, round(length * scale)) for length in picture.size)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    return np.asarray(picture.crop((left, top, left + side, top + side)))


class EvaTower(ModelMixin, ConfigMixin):
    """Pictures -> pooled features (B, N, D)."""

    @register_to_config
    def __init__(
        self,
        width: int = 1792,
        depth: int = 64,
        heads: int = 16,
        mlp_size: int = 15360,
        patch_size: int = 14,
        side: int = 448,
        grid: int = 8,
        final_norm: bool = True,
    ) -> None:
        """Build the modules; the defaults are EVA-CLIP-E/14+ at 448 pixels.

        Args:
            width: D.
            depth: blocks.
            heads: of attention.
            mlp_size: width of the feed-forward layers.
            patch_size: pixels.
            side: pixels of the square that a picture is cut to.
            grid: rows and columns that patches are averaged to; N is its square.
            final_norm: whether the last norm is applied. The specification says "post-norm" of the
                blocks and nothing of the last one: UNVERIFIED for the released models.

        Raises:
            ValueError: sizes that do not divide.
        """
        super().__init__()
        if side % patch_size or side // patch_size % grid or width % heads:
            raise ValueError(
                f"`side` {side} over `patch_size` {patch_size} must be a multiple of `grid` "
                f"{grid}, and `width` {width} of `heads` {heads}"
            )
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch_size, patch_size)})
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        count = (side // patch_size) ** 2 + 1
        self.pos_embed = nn.Parameter(torch.randn(1, count, width) * 0.02)
        self.blocks = nn.ModuleList(_Block(width, heads, mlp_size) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=_EPS)

    @classmethod
    def open(
        cls, name: str | Path, *, revision: str | None = None, dtype: torch.dtype | None = None
    ) -> "EvaTower":
        """A tower that we saved, or an EVA-CLIP checkpoint under timm's names, with any prefix.

        UNVERIFIED: the files of the released tower (`jiuhai/eva_clip_vision_tower`) could not be
        looked at; what does not fit is an error. Only safetensors are read.

        Args:
            name: folder or Hub id.
            revision: branch, tag or commit of the Hub repository.
            dtype: default as stored.

        Raises:
            CheckpointError: files or tensors are missing, damaged or do not fit.
        """
        folder, _ = find_folder(name, revision=revision, patterns=["*.safetensors", "*.json"])
        files = sorted(folder.glob("*.safetensors"))
        tensors = {key: facts for file in files for key, facts in read_header(file).items()}
        starts = [key.removesuffix("cls_token") for key in tensors if key.endswith("cls_token")]
        if len(starts) != 1:
            raise CheckpointError(
                f"{name} should hold safetensors with one tensor named ...cls_token, found "
                f"{len(starts)} in {len(files)} files; give the folder of an EVA-CLIP tower, and "
                "convert other kinds of files to safetensors first"
            )
        own = {
            key.removeprefix(starts[0]): facts
            for key, facts in tensors.items()
            # What stands outside or behind the tower: a text model, a projection to its space.
            if key.startswith(starts[0]) and not key.removeprefix(starts[0]).startswith("head.")
        }
        config = folder / "config.json"
        saved = read_json(config) if config.is_file() else {}
        ours = saved.get("_class_name") == cls.__name__
        with torch.device("meta"), refusing_nonsense(folder):
            tower: EvaTower = cls.from_config(saved) if ours else cls(**_sizes(own, folder))
        shapes = {key: tuple(value.shape) for key, value in tower.state_dict().items()}
        check_tensors(own, shapes, folder)
        state = {}
        for file in files:
            with safe_open(file, "pt") as opened:
                for key, facts in own.items():
                    if facts.file == file:
                        state[key] = opened.get_tensor(starts[0] + key).to(dtype)
        tower.load_state_dict(state, assign=True)
        return tower.eval().requires_grad_(False)

    @torch.no_grad()
    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Features of pictures (B, N, D) in float32, on the tower's device."""
        pixels = np.stack([prepare(image, self.config.side) for image in images])
        return self.encode(torch.from_numpy(pixels))

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """The same of pixels (B, side, side, 3) as `prepare` gives them, uint8."""
        return self.pooled(self.normalised(pixels)).float()

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels (B, side, side, 3), uint8 -> pictures (B, 3, side, side) for `pooled`."""
        values = pixels.to(self.pos_embed.device).float() / 255
        values = (values - values.new_tensor(MEAN)) / values.new_tensor(STD)
        return values.permute(0, 3, 1, 2).to(self.pos_embed.dtype)

    def pooled(self, pictures: Tensor) -> Tensor:
        """Normalised pictures (B, 3, side, side) -> pooled features (B, N, D)."""
        patches = self.patch_embed["proj"](pictures).flatten(2).transpose(1, 2)
        first = self.cls_token.expand(len(patches), -1, -1)
        states = torch.cat([first, patches], dim=1) + self.pos_embed
        for block in self.blocks:
            states = block(states)
        if self.config.final_norm:
            states = self.norm(states)
        rows = self.config.side // self.config.patch_size
        squares = states[:, 1:].transpose(1, 2).reshape(len(states), -1, rows, rows)
        return avg_pool2d(squares, rows // self.config.grid).flatten(2).transpose(1, 2)

    @torch.no_grad()
    def standardise(self, images: Sequence[Image.Image]) -> None:
        """Set the last norm's weights so that these pictures' features are N(0, 1) by channel."""
        found = self.features(images).flatten(0, 1)
        mean, deviation = found.mean(dim=0), found.std(dim=0).clamp(min=1e-6)
        # Pooling is linear, so that what holds for pooled tokens can be done before.
        self.norm.weight.div_(deviation)
        self.norm.bias.sub_(mean).div_(deviation)


def _sizes(tensors: Mapping[str, TensorFacts], folder: Path) -> dict[str, int]:
    """What the shapes of an EVA-CLIP checkpoint tell; heads are the class's default.

    Raises:
        CheckpointError: a tensor that tells it is missing.
    """
    try:
        width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
        count = tensors["pos_embed"].shape[1]
        mlp_size = tensors["blocks.0.mlp.fc1.weight"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"the tensors in {folder} are not an EVA-CLIP tower's ({error}); give a checkpoint "
            "with timm's names"
        ) from error
    blocks = {key.split(".")[1] for key in tensors if key.startswith("blocks.")}
    return {
        "width": width,
        "depth": len(blocks),
        "mlp_size": mlp_size,
        "patch_size": patch,
        "side": isqrt(count - 1) * patch,
    }


class _Block(nn.Module):
    """x + norm(attention(x)), then x + norm(feed-forward(x))."""

    def __init__(self, width: int, heads: int, mlp_size: int) -> None:
        super().__init__()
        self.attn = _Attention(width, heads)
        self.norm1 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, mlp_size), "fc2": nn.Linear(mlp_size, width)}
        )
        self.norm2 = nn.LayerNorm(width, eps=_EPS)

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.norm1(self.attn(states))
        changed: Tensor = states + self.norm2(self.mlp["fc2"](gelu(self.mlp["fc1"](states))))
        return changed


class _Attention(nn.Module):
    """Self-attention whose keys have no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, states: Tensor) -> Tensor:
        count, length, width = states.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        joined = linear(states, self.qkv.weight, bias)
        parts = joined.reshape(count, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        found = scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(found.transpose(1, 2).reshape(count, length, width))
        return projected
