"""BLIP3-o: one of the models that Echo-4o-Image is tried on."""

from .pipeline import Blip3oPipeline
from .tower import EvaTower
from .transformer import Blip3oTransformer

__all__ = ["Blip3oPipeline", "Blip3oTransformer", "EvaTower"]
