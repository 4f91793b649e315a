"""BAGEL: importing this package teaches transformers' Auto classes the model."""

from transformers import AutoConfig, AutoModel

from .configuration import BagelConfig
from .modeling import BagelForUnifiedGeneration, BagelOutput
from .packing import PackedBatch, TextSegment, VaeSegment, VitSegment, pack

AutoConfig.register("echo4o_bagel", BagelConfig, exist_ok=True)
AutoModel.register(BagelConfig, BagelForUnifiedGeneration, exist_ok=True)

__all__ = [
    "BagelConfig",
    "BagelForUnifiedGeneration",
    "BagelOutput",
    "PackedBatch",
    "TextSegment",
    "VaeSegment",
    "VitSegment",
    "pack",
]
