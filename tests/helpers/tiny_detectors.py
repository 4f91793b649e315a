"""Tiny random models of the real classes: detectors of COCO's classes, and a CLIP."""

import json
from pathlib import Path

import torch
from tiny_pipeline import byte_symbols
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForObjectDetection,
    CLIPConfig,
    CLIPModel,
    ConditionalDetrConfig,
    DetrConfig,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    PreTrainedConfig,
    Qwen2Tokenizer,
    ResNetConfig,
    RTDetrConfig,
    RTDetrResNetConfig,
    SwinConfig,
    YolosConfig,
)


def tiny_detector(
    classes: int = 80, *, queries: int = 20, sure: float = 22.0
) -> Mask2FormerForUniversalSegmentation:
    """The surer it is, the farther apart are its class logits, and the more objects it finds."""
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
        num_queries=queries,
        num_labels=classes,
    )
    model = Mask2FormerForUniversalSegmentation(config)
    with torch.no_grad():
        model.class_predictor.weight.mul_(sure)
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


def save_detectors(folder: Path, *, sure: float = 1.0) -> tuple[Path, Path]:
    """Folders of both, as `--judge detector:` and `--colours` take them."""
    detector, clip = folder / "tiny-mask2former", folder / "tiny-clip"
    tiny_detector(sure=22 * sure).save_pretrained(detector)
    model, tokenizer = tiny_clip()
    model.save_pretrained(clip)
    tokenizer.save_pretrained(clip)
    return detector, clip


def _box_config(kind: str) -> PreTrainedConfig:
    """The smallest configuration of a kind; RT-DETR numbers 80 classes, the others 91."""
    shape = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
    if kind == "yolos":
        return YolosConfig(
            num_labels=91,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=[64, 64],
            num_detection_tokens=12,
            use_mid_position_embeddings=False,
        )
    if kind == "rt_detr":
        resnet = RTDetrResNetConfig(**shape, layer_type="basic", out_indices=[2, 3, 4])
        return RTDetrConfig(
            backbone_config=resnet,
            num_labels=80,
            encoder_in_channels=[8, 16, 16],
            encoder_hidden_dim=16,
            decoder_in_channels=[16, 16, 16],
            d_model=16,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            decoder_layers=1,
            num_queries=12,
        )
    resnet = ResNetConfig(**shape, layer_type="basic", out_features=["stage4"])
    return {"detr": DetrConfig, "conditional_detr": ConditionalDetrConfig}[kind](
        backbone_config=resnet,
        num_labels=91,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=12,
    )


def save_box_detector(folder: Path, kind: str) -> Path:
    """A detector without masks, with the image processor of its kind, sure of what it says."""
    torch.manual_seed(0)
    config = _box_config(kind)
    model = AutoModelForObjectDetection.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "class" in name:
                parameter.normal_(std=3.0)
    model.save_pretrained(folder)
    size = {"height": 64, "width": 64}
    if kind != "rt_detr":
        size = {"shortest_edge": 64, "longest_edge": 96}
    names = {"detr": "Detr", "conditional_detr": "ConditionalDetr", "rt_detr": "RTDetr"}
    processor = {"image_processor_type": f"{names.get(kind, 'Yolos')}ImageProcessor", "size": size}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
