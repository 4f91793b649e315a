"""Trains a small Qwen2 tokenizer on a dataset's instructions; the same texts give the same one."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from echo4o.errors import Echo4oError

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|vision_end|>"),
)
"""The ones the model's sequence layout needs (spec section 4), with Qwen2's padding token."""


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> "Qwen2Tokenizer":
    """Byte-level BPE with Qwen2's splitting rules; any text can be encoded.

    Args:
        texts: Instructions; frequent words become one token each, as far as the size allows.
        vocab_size: Upper limit of tokens, the 256 bytes and SPECIAL_TOKENS included.

    Raises:
        Echo4oError: there is no text to learn from.
    """
    from tokenizers import Tokenizer, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    if not any(text.strip() for text in texts):
        raise Echo4oError("the dataset has no instruction to train a tokenizer on")
    blank: Tokenizer = Qwen2Tokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    blank.train_from_iterator(texts, trainer)
    model = json.loads(blank.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(merge) for merge in model["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        extra_special_tokens=list(SPECIAL_TOKENS),
    )
