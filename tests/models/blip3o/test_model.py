"""The parts with a number to meet: sizes, names, the stock transformer, timm's tower, gradients."""

import numpy as np
import pytest
import torch
from diffusers import LuminaNextDiT2DModel
from diffusers.models.embeddings import PixArtAlphaTextProjection, get_2d_rotary_pos_embed_lumina
from peft import LoraConfig
from PIL import Image
from safetensors.torch import save_file
from tiny_blip3o import CHANNELS, GRID, TEXT, make_blip3o, make_tower

from echo4o.models.blip3o import Blip3oTransformer, EvaTower
from echo4o.models.blip3o.prompting import encode_prompts, prompt_text
from echo4o.models.blip3o.tower import prepare
from echo4o.models.blip3o.transformer import RELEASED
from echo4o.models.checkpoint import CheckpointError

TOKENS = GRID * GRID


@pytest.fixture(scope="module")
def pipe():
    return make_blip3o()


def inputs(count=2):
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(count, TOKENS, CHANNELS, generator=draw)
    condition = torch.randn(count, TOKENS, TEXT, generator=draw)
    return features, torch.linspace(0.2, 0.9, count), condition


def shapes(model, without=()):
    state = model.state_dict().items()
    return {name: tuple(value.shape) for name, value in state if name not in without}


@pytest.mark.parametrize(("size", "billions"), [("4B", 1.660), ("8B", 1.662)])
def test_full_sizes_and_names(size, billions):
    with torch.device("meta"):
        model = Blip3oTransformer(**RELEASED[size])
        text = RELEASED[size]["text_size"]
        projection = PixArtAlphaTextProjection(text, 1792)
        stock = LuminaNextDiT2DModel(
            hidden_size=1792,
            cross_attention_dim=1792,
            ffn_dim_multiplier=1.5,
            patch_size=1,
            in_channels=1792,
            num_layers=24,
            num_attention_heads=28,
            num_kv_heads=28,
            learn_sigma=False,
        )
    assert shapes(model.dit) == shapes(stock, {"pad_token"})
    assert shapes(model.projection) == shapes(projection)
    assert model.latent_queries.shape == (1, 64, text)
    queries = model.latent_queries.numel()
    assert round((model.num_parameters() - queries) / 1e9, 3) == billions


def test_equals_the_stock_transformer(pipe):
    model, (features, sigmas, condition) = pipe.transformer, inputs()
    squares = features.transpose(1, 2).reshape(2, CHANNELS, GRID, GRID)
    positions = get_2d_rotary_pos_embed_lumina(32 // 4, 384, 384)
    text, mask = model.projection(condition), torch.ones(2, TOKENS)
    wanted = model.dit(squares, sigmas * 1000, text, mask, positions, {}).sample
    assert (model(features, sigmas, condition) - wanted.flatten(2).mT).abs().max() == 0.0


def test_every_parameter_learns_also_with_checkpointing(pipe):
    model = make_blip3o().transformer.train()
    prompts = [prompt_text(model.config, text) for text in ("a cat", "a dog in the sun")]
    features, sigmas, _ = inputs()

    def gradients():
        model.zero_grad()
        condition = encode_prompts(pipe.mllm, pipe.processor, model.latent_queries, prompts)
        model(features, sigmas, condition).square().mean().backward()
        return {name: value.grad.clone() for name, value in model.named_parameters()}

    plain = gradients()
    assert all(gradient.abs().max() > 0 for gradient in plain.values())
    model.enable_gradient_checkpointing()
    for name, value in gradients().items():
        torch.testing.assert_close(value, plain[name])


def test_texts_of_a_batch_do_not_see_each_other(pipe):
    queries = pipe.transformer.latent_queries
    texts = [prompt_text(pipe.transformer.config, text) for text in ("a cat", "a far longer text")]
    batch = encode_prompts(pipe.mllm, pipe.processor, queries, texts)
    for text, found in zip(texts, batch, strict=True):
        alone = encode_prompts(pipe.mllm, pipe.processor, queries, [text])[0]
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)
    assert (batch[0] - batch[1]).abs().max() > 0.1
    ids = [*pipe.processor.encode(texts[0]), pipe.processor.get_vocab()["[IMG]"]]
    tokens = pipe.mllm.get_input_embeddings()(torch.tensor([ids]))
    model = pipe.mllm.model.language_model
    plain = model(inputs_embeds=torch.cat([tokens, queries], dim=1)).last_hidden_state
    torch.testing.assert_close(batch[0], plain[0, len(ids) :], atol=1e-5, rtol=0)
    cut = encode_prompts(pipe.mllm, pipe.processor, queries, texts, max_tokens=4)
    assert cut[0].equal(cut[1])


def test_the_prompt_has_the_configured_form(pipe):
    config = {"system_line": "S", "prompt_prefix": "caption: ", "answer_start": "<A>"}
    wanted = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\ncaption: x<|im_end|>\n<A>"
    assert prompt_text(config, "x") == wanted
    assert pipe.transformer.config.prompt_prefix == ""


def test_an_adapter_changes_the_velocity_and_comes_back(tmp_path):
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    config = LoraConfig(r=2, lora_alpha=2, target_modules=targets, init_lora_weights=False)
    pipes = [make_blip3o() for _ in range(2)]
    models = [pipe.transformer for pipe in pipes]
    plain = models[0](*inputs())
    models[0].add_adapter(config)
    adapted = models[0](*inputs())
    assert (adapted - plain).abs().max() > 1e-3
    models[0].save_lora_adapter(tmp_path)
    models[1].load_lora_adapter(tmp_path, prefix=None, use_safetensors=True)
    torch.testing.assert_close(models[1](*inputs()), adapted)


def test_sizes_that_do_not_fit_are_refused(pipe):
    with pytest.raises(ValueError, match=r"must be a multiple of 4 \* 28"):
        Blip3oTransformer(hidden_size=100)
    with pytest.raises(ValueError, match=r"must have the shape \(pictures, 16, 16\)"):
        pipe.transformer(torch.zeros(1, 9, CHANNELS), torch.zeros(1), torch.zeros(1, 16, TEXT))
    with pytest.raises(ValueError, match="`patch_size` 14 must be a multiple of `grid` 9"):
        EvaTower(grid=9, depth=1)


# Recorded from timm 1.0.31's eva02_enormous_patch14_clip_224 with these sizes, weights and inputs.
FROM_TIMM = {
    (0, 0): [-0.683399, 0.796015, -0.433875, 0.331314, -1.378325, -0.480047, 0.966535, 1.151364],
    (1, -1): [-0.73066, 0.797752, -0.343742, 0.420211, -1.090084, -1.221197, 0.613613, 1.115458],
}


def wave(count, step, start=0):
    return (torch.arange(count, dtype=torch.float64) * step + start).sin()


def test_the_tower_equals_timms():
    tower = make_tower()
    for number, (name, value) in enumerate(sorted(tower.named_parameters())):
        scale = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        filled = wave(value.numel(), 0.7, number) * 0.5 + scale
        value.data = filled.float().reshape(value.shape)
    pictures = wave(2 * 3 * 32 * 32, 0.37).float().reshape(2, 3, 32, 32)
    with torch.no_grad():
        found = tower.pooled(pictures)
    for place, wanted in FROM_TIMM.items():
        torch.testing.assert_close(found[place][:8], torch.tensor(wanted), atol=2e-5, rtol=0)
    with torch.device("meta"):
        full = EvaTower()
    assert full.num_parameters() == 4_350_097_152  # as timm's at 448 pixels


def test_features_of_pictures(tmp_path):
    tower = make_tower()
    red, wide = Image.new("RGB", (32, 32), "red"), Image.new("RGBA", (80, 40), "#0000ff")
    assert prepare(wide, 32).shape == (32, 32, 3)
    assert (prepare(red, 32) == np.array([255, 0, 0])).all()
    stripes = np.zeros((40, 80, 3), np.uint8)
    stripes[:, 20:60] = 255  # the centre, which is kept
    assert prepare(Image.fromarray(stripes), 32)[:, 2:-2].min() > 250
    both = tower.features([red, wide])
    assert both.shape == (2, TOKENS, CHANNELS)
    torch.testing.assert_close(both[1:], tower.features([wide]), atol=1e-5, rtol=0)
    pictures = [Image.new("RGB", (32, 32), color) for color in ("red", "lime", "blue", "white")]
    tower.standardise(pictures)
    found = tower.features(pictures).flatten(0, 1)
    torch.testing.assert_close(found.mean(dim=0), torch.zeros(CHANNELS), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.std(dim=0), torch.ones(CHANNELS), atol=1e-4, rtol=0)
    tower.save_pretrained(tmp_path)
    assert EvaTower.open(tmp_path).features(pictures).equal(tower.features(pictures))


def test_a_tower_under_other_prefixes(tmp_path):
    tower = EvaTower(width=32, depth=2, heads=16, mlp_size=24, patch_size=4, side=32)
    state = {f"visual.{name}": value for name, value in tower.state_dict().items()}
    state |= {"visual.head.weight": torch.zeros(3, 32), "text.x": torch.zeros(1)}
    save_file(state, tmp_path / "eva.safetensors")
    picture = [Image.new("RGB", (40, 32), "red")]
    assert EvaTower.open(tmp_path).features(picture).equal(tower.features(picture))
    state.pop("visual.blocks.1.attn.q_bias")
    save_file(state, tmp_path / "eva.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing: blocks\.1\.attn\.q_bias"):
        EvaTower.open(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "eva.safetensors")
    with pytest.raises(CheckpointError, match=r"one tensor named \.\.\.cls_token, found 0"):
        EvaTower.open(tmp_path)
