"""No work is done twice: forwards, embeddings and attention of a picture are counted."""

from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from echo4o.models.bagel.cache import Context, ContextCache
from echo4o.models.bagel.conditioning import Conditioner

STEPS, TOKENS = 5, 6
CALL = {"height": 32, "width": 48, "num_inference_steps": STEPS, "output_type": "latent"}


def noise(seed: int) -> Image.Image:
    array = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    return Image.fromarray(array)


@contextmanager
def counted(pipe):
    """Calls of the parts of a pipeline and the rows that went in, by name."""
    model, calls, rows = pipe.model, Counter(), Counter()
    parts = {
        "decoder": model.language_model.model,
        "words": model.get_input_embeddings(),
        "latents": model.vae2llm,
        "velocity": model.llm2vae,
        "final norm of texts": model.language_model.model.norm,
        "final norm of pictures": model.language_model.model.norm_moe_gen,
        "first queries": model.language_model.model.layers[0].self_attn.q_proj_moe_gen,
        "time": model.time_embedder,
        "positions": model.latent_pos_embed,
        "vision": model.vit_model,
    }

    def hook_for(name):
        def hook(module, args):
            calls[name] += 1
            rows[name] += args[0].numel() // args[0].shape[-1]

        return hook

    hooks = [part.register_forward_pre_hook(hook_for(name)) for name, part in parts.items()]
    encode = pipe.vae.encode
    pipe.vae.encode = lambda *args, **kwargs: (calls.update(["encode"]), encode(*args, **kwargs))[1]
    try:
        yield calls, rows
    finally:
        del pipe.vae.encode
        for hook in hooks:
            hook.remove()


def test_text_to_image_encodes_once_and_embeds_a_picture_once_per_step(pipe):
    with counted(pipe) as (calls, rows):
        pipe("a cat", **CALL)
    assert calls["decoder"] == 1 + STEPS
    assert calls["words"] == 2, "the context, and the markers of the new picture"
    assert calls["positions"] == 1
    assert calls["time"] == calls["latents"] == STEPS
    assert rows["latents"] == STEPS * TOKENS, "branches must share what the picture looks like"
    assert calls["vision"] == calls["encode"] == 0
    assert calls["final norm of texts"] == 0, "nobody reads the final states of a context"
    assert calls["final norm of pictures"] == STEPS


def test_references_are_encoded_once_for_all_branches_and_pictures(pipe):
    with counted(pipe) as (calls, rows):
        pipe("a cat", [noise(1), noise(2)], num_images_per_prompt=2, **CALL)
    assert calls["decoder"] == 1 + STEPS
    assert calls["encode"] == 2
    assert calls["vision"] == 1
    assert rows["velocity"] == STEPS * TOKENS * 2 * 3, "three branches of two pictures"
    assert rows["latents"] == rows["first queries"] == 2 * 16 + STEPS * TOKENS * 2


@pytest.mark.parametrize(
    ("more", "branches"),
    [
        ({"guidance_scale": 1.0}, 1),
        ({"image_guidance_scale": 1.0}, 2),
        ({"guidance_interval": (0.0, 0.0)}, 1),
        ({}, 3),
    ],
)
def test_a_branch_that_cannot_matter_is_not_run(pipe, more, branches):
    with counted(pipe) as (_, rows):
        pipe("a cat", noise(1), **CALL | more)
    assert rows["velocity"] == STEPS * TOKENS * branches


def test_equal_branches_are_run_once(pipe):
    with counted(pipe) as (_, rows):
        pipe("", noise(1), guidance_scale=1.0, **CALL)
        pipe(segments=["a cat"], image_guidance_scale=3.0, guidance_interval=(0.0, 1.0), **CALL)
    assert rows["velocity"] == STEPS * TOKENS * (1 + 2), "without pictures two branches are one"
    with counted(pipe) as (_, rows):
        pipe(segments=[noise(1)], **CALL)
    assert rows["velocity"] == STEPS * TOKENS * 2, "without a text two branches are one"


def test_a_step_attends_to_each_context_alone_without_mask_or_copies(pipe, monkeypatch):
    seen, attend = [], F.scaled_dot_product_attention
    text = pipe.model.config.text_config
    heads = text.num_key_value_heads
    new, group = TOKENS + 2, text.num_attention_heads // heads

    def watched(query, key, value, attn_mask=None, **more):
        if query.shape[1:3] in ((heads, group * new), (heads * group, new)):
            seen.append((key.shape[2], key.untyped_storage().data_ptr(), attn_mask))
        return attend(query, key, value, attn_mask=attn_mask, **more)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    pipe("a cat", noise(1), **CALL)
    lengths = [length for length, _, _ in seen]
    layers = text.num_hidden_layers
    assert len(seen) == 3 * layers * STEPS
    words = len("a cat") + 2
    references = (4 * 4 + 2) + (4 * 4 + 2)
    assert lengths[:3] == [references + words + new, references + new, words + new]
    assert all(mask is None for _, _, mask in seen)
    # Per layer one memory for the contexts with and without text, one for the text alone.
    assert len({place for _, place, _ in seen}) == 2 * layers


def test_nested_contexts_share_memory_and_keep_their_tokens():
    cache = ContextCache(1, [7])
    keys = torch.arange(7.0).view(1, 7, 1)
    cache.write(0, 0, keys, -keys)
    cache.commit([7])
    contexts = [Context(cache, 0, tokens, 0) for tokens in (7, 4, 0, 4)]
    behind = ContextCache.behind(contexts, room=2)
    new = torch.tensor([90.0, 91.0]).view(1, 2, 1)
    for row, context in enumerate(contexts):
        key, value = behind.write(0, row, new + row, -new - row)
        got = sorted(key.flatten().tolist())
        assert got == [*range(context.tokens), 90 + row, 91 + row]
        assert torch.equal(key, -value)
    with pytest.raises(ValueError, match="room for 9 tokens, 10 are needed"):
        behind.write(0, 0, torch.zeros(1, 3, 1), torch.zeros(1, 3, 1))


@torch.no_grad()
def test_writing_a_text_leaves_its_context_alone(pipe):
    conditioner = Conditioner(pipe.model, pipe.vae, pipe.tokenizer)
    (branches,) = conditioner.encode([["why?"]])
    before = [x.clone() for x in branches.cond.cache.read(0, 0, branches.cond.tokens)]
    with counted(pipe) as (calls, rows):
        pipe.understand(None, "why?", max_new_tokens=3)
    assert calls["decoder"] == 1 + 3
    assert rows["decoder"] == 6 + 3, "one token per step"
    assert calls["final norm of texts"] == 3
    assert calls["final norm of pictures"] == 0
    after = branches.cond.cache.read(0, 0, branches.cond.tokens)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
