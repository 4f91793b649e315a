"""BAGEL: importing this package teaches transformers' Auto classes the model."""

from transformers import AttentionInterface, AutoConfig, AutoModel

from . import native_attention
from .configuration import BagelConfig
from .modeling import BagelForUnifiedGeneration, BagelOutput
from .packing import PackedBatch, TextSegment, VaeSegment, VitSegment, pack

AttentionInterface.register(native_attention.NAME, native_attention.native_attention)
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
