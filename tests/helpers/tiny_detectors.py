"""Tiny random models of the real classes: a Mask2Former with COCO's 80 classes, and a CLIP."""

from pathlib import Path

import torch
from tiny_pipeline import byte_symbols
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPConfig,
    CLIPModel,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Qwen2Tokenizer,
    SwinConfig,
)


def tiny_detector(classes: int = 80) -> Mask2FormerForUniversalSegmentation:
    """A detector that is sure of what it says: its class logits are far apart."""
    torch.manual_seed(0)
    swin = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    sizes = dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim"), 32)
    config = Mask2FormerConfig(
        backbone_config=swin,
        **sizes,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=20,
        num_labels=classes,
    )
    model = Mask2FormerForUniversalSegmentation(config)
    with torch.no_grad():
        model.class_predictor.weight.mul_(22)
    return model


def tiny_clip() -> tuple[CLIPModel, Qwen2Tokenizer]:
    """A CLIP that reads bytes."""
    torch.manual_seed(0)
    vocabulary = {symbol: index for index, symbol in enumerate(byte_symbols())}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_tokens(["<|endoftext|>"], special_tokens=True)
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", len(tokenizer) - 1)]
    )
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    shape |= {"num_hidden_layers": 1}
    ends = {"eos_token_id": len(tokenizer) - 1, "pad_token_id": len(tokenizer) - 1}
    config = CLIPConfig(
        text_config=shape | ends | {"vocab_size": len(tokenizer)},
        vision_config=shape | {"image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    model = CLIPModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model, tokenizer


def save_detectors(folder: Path) -> tuple[Path, Path]:
    """Folders of both, as `--judge detector:` and `--colours` take them."""
    detector, clip = folder / "tiny-mask2former", folder / "tiny-clip"
    tiny_detector().save_pretrained(detector)
    model, tokenizer = tiny_clip()
    model.save_pretrained(clip)
    tokenizer.save_pretrained(clip)
    return detector, clip
