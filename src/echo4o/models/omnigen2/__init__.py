"""OmniGen2: one of the models that Echo-4o-Image is tried on."""

from .pipeline import OmniGen2Pipeline
from .transformer import OmniGen2Transformer2DModel

__all__ = ["OmniGen2Pipeline", "OmniGen2Transformer2DModel"]
