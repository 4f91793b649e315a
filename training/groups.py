"""Which group of parameters (`config.GROUPS`) one belongs to, by its name."""

from .config import TrainConfig


def parameter_group(name: str) -> str | None:
    """The group of a parameter of BAGEL; None for the fixed position tables."""
    if name.endswith("pos_embed.pos_embed"):
        return None
    if "_moe_gen" in name:
        return "gen"
    if name.startswith(("vit_model.", "connector.")):
        return "vit"
    if "embed_tokens" in name:
        return "embeddings"
    return "und" if name.startswith("language_model.model.") else "heads"


def is_frozen(name: str, config: TrainConfig) -> bool:
    """Whether a parameter gets no gradient where weights themselves are trained."""
    group = parameter_group(name)
    return group is None or group in config.freeze
