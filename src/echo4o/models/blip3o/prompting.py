"""What the frozen language model is asked, and the states of the queries that it answers with.

Every prompt is followed by the image token and by the queries: learned vectors in the place of
token embeddings. The states at their positions are the condition (specification, section 2.1).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration

from ..checkpoint import CheckpointError
from ..devices import working_device

IMAGE_TOKEN = "[IMG]"
"""Begins a picture; with the next two it is what BLIP3-o adds to Qwen2.5's vocabulary."""
ADDED_TOKENS = (IMAGE_TOKEN, "[/IMG]", "<image>")
NO_TEXT = " "
"""What the decoder's guidance leads away from: features of this text alone, in no chat form."""


def prompt_text(config: Mapping[str, Any], prompt: str) -> str:
    """A prompt in Qwen2.5's chat form, up to where the image token follows."""
    turns = (("system", config["system_line"]), ("user", config["prompt_prefix"] + prompt))
    text = "".join(f"<|im_start|>{role}\n{words}<|im_end|>\n" for role, words in turns)
    return text + str(config["answer_start"])


def image_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The image token's number.

    Raises:
        CheckpointError: the tokenizer has none.
    """
    found = tokenizer.get_vocab().get(IMAGE_TOKEN)
    if found is None:
        raise CheckpointError(
            f"the tokenizer has no token {IMAGE_TOKEN}; it is not BLIP3-o's: take the one of the "
            "model's own repository"
        )
    return int(found)


def encode_prompts(
    mllm: Qwen2_5_VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    queries: Tensor,
    texts: Sequence[str],
    max_tokens: int = 512,
) -> Tensor:
    """States of the queries behind each text, (B, Q, H) in float32; gradients reach the queries.

    Args:
        mllm: the language model; its vision tower is not used.
        tokenizer: with the image token.
        queries: (1, Q, H).
        texts: whole texts, see `prompt_text`.
        max_tokens: longer texts are cut.
    """
    device = working_device(mllm)
    start = image_token_id(tokenizer)
    read = (tokenizer.encode(text, add_special_tokens=False) for text in texts)
    tokens = [[*ids[:max_tokens], start] for ids in read]
    embed = mllm.get_input_embeddings()
    own = queries[0].to(device, embed.weight.dtype)
    rows = [torch.cat([embed(torch.tensor(ids, device=device)), own]) for ids in tokens]
    states = pad_sequence(rows, batch_first=True)
    places = torch.arange(states.shape[1], device=device)
    # The whole model is called, so that offloading hooks see it; one row of logits is made. Padding
    # needs no mask: it stands behind, and attention looks back only.
    found = mllm(
        inputs_embeds=states,
        position_ids=places.expand(3, len(rows), -1),
        output_hidden_states=True,
        use_cache=False,
        logits_to_keep=1,
    ).hidden_states[-1]
    count = queries.shape[1]
    return torch.stack(
        [one[len(row) - count : len(row)] for one, row in zip(found, rows, strict=True)]
    ).float()
