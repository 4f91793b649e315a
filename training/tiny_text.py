"""The small random text model of the recipes `tiny_omnigen2` and `tiny_blip3o`."""

from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from .parts import TinyBlip3o, TinyOmniGen2

MARKS = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
"""Tokens that the text encoder's configuration names, though none stands in a prompt."""
_HEAD = 32
"""Head size."""


def text_encoder(
    sizes: TinyOmniGen2 | TinyBlip3o, tokenizer: Qwen2Tokenizer
) -> Qwen2_5_VLForConditionalGeneration:
    """A random Qwen2.5-VL whose vision tower is as small as can be."""
    width, third = sizes.text_hidden_size, _HEAD // 8
    text = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|im_start|>"),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": sizes.text_layers,
        "num_attention_heads": width // _HEAD,
        "num_key_value_heads": width // _HEAD,
        "initializer_range": width**-0.5,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [2 * third, third, third],
            "rope_theta": 1e4,
        },
    }
    # Never used to draw: references go through the autoencoder only. As small as it can be.
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": width}
    marks = dict(zip(MARKS, tokenizer.convert_tokens_to_ids(list(MARKS.values())), strict=True))
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision | {"intermediate_size": 16, "fullatt_block_indexes": [0]},
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        **marks,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    nn.init.normal_(model.get_input_embeddings().weight)
    return model
