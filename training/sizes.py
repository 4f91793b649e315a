"""How pictures are resized for BAGEL, from a recipe's settings and the model's own."""

import dataclasses
from dataclasses import dataclass

from echo4o.errors import Echo4oError
from echo4o.models.bagel.configuration import BagelConfig
from echo4o.models.bagel.processor import ResizeRule

from .config import TrainConfig

_UNDERSTANDING_PIXELS = 2_007_040
"""Pixels that the pictures of one question share, as the authors train (spec 9.5)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How pictures are resized, and what that makes of them in tokens."""

    vae: ResizeRule
    """For the autoencoder."""
    vit: ResizeRule
    """References, for the vision tower."""
    und: ResizeRule
    """Pictures that are only looked at, for the vision tower; they share its limit of pixels."""
    cell: int
    """Pixels per latent token and side."""
    patch: int
    """Pixels per token and side of a picture for the vision tower."""
    copies: int
    """Noised copies of a target."""
    shuffled: bool
    """References may come in any order."""


def sizes_of(config: TrainConfig, model: BagelConfig) -> Sizes:
    """The sizes of a recipe; what it leaves open is the model's.

    Raises:
        Echo4oError: pictures of these sizes cannot be cut into the model's patches.
    """
    vae = config.vae_sizes or model.vae_transform
    vit = config.vit_sizes or model.vit_transform
    understanding = config.understanding_sizes or vit
    cell, patch = model.latent_stride, model.vit_patch_size
    tables = {"vae": model.max_latent_size * cell, "vit": model.vit_max_num_patch_per_side * patch}
    _check("vae_sizes", vae, cell, tables["vae"], model)
    _check("vit_sizes", vit, patch, tables["vit"], model)
    _check("understanding_sizes", understanding, patch, tables["vit"], model)
    return Sizes(
        vae=ResizeRule(*vae),
        vit=ResizeRule(*vit),
        und=dataclasses.replace(ResizeRule(*understanding), max_pixels=_UNDERSTANDING_PIXELS),
        cell=cell,
        patch=patch,
        copies=config.noise_draws,
        shuffled=config.shuffle_references,
    )


def _check(
    name: str, sizes: tuple[int, int, int], cell: int, table: int, model: BagelConfig
) -> None:
    longest, _, stride = sizes
    if stride % cell:
        raise Echo4oError(
            f"the stride of `{name}` {sizes} must be a multiple of the model's patch, {cell} pixels"
        )
    if longest > table and not model.interpolate_pos:
        raise Echo4oError(
            f"the longest side of `{name}` {sizes} exceeds the model's position table, {table} "
            f"pixels"
        )
