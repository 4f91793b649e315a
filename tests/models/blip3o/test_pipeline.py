"""The whole pipeline with tiny random parts: both decoders, batches, both layouts."""

import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, EulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from tiny_blip3o import CHANNELS, GRID, make_blip3o
from tiny_omnigen2 import make_omnigen2

from echo4o.models.blip3o import Blip3oPipeline, Blip3oTransformer
from echo4o.models.blip3o.prompting import NO_TEXT
from echo4o.models.blip3o.sampling import decode_latents, denoise_features, denoise_latents
from echo4o.models.checkpoint import CheckpointError
from echo4o.models.inspection import inspect

QUICK = {"num_inference_steps": 2, "decoder_steps": 2}


@pytest.fixture(scope="module", params=[False, True], ids=["unet", "direct"])
def pipe(request):
    return make_blip3o(direct=request.param)


@pytest.fixture(scope="module")
def with_unet():
    return make_blip3o()


@pytest.fixture(scope="module")
def released(with_unet, tmp_path_factory):
    """The specified layout; what stands in front of the parts' names is invented."""
    folder = tmp_path_factory.mktemp("blip3o") / "released"
    decoder = folder / "diffusion-decoder"
    with_unet.unet.save_pretrained(decoder / "unet", variant="bf16")
    with_unet.vae.save_pretrained(decoder / "vae")
    with_unet.decoder_scheduler.save_pretrained(decoder / "scheduler")
    with_unet.processor.save_pretrained(folder)
    config = with_unet.mllm.config.to_dict()
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    flat = {"rope_theta": rope.pop("rope_theta"), "rope_scaling": {**rope, "type": "mrope"}}
    kept = {name: value for name, value in text.items() if name not in ("model_type", "dtype")}
    config = {**kept, **config, **flat, "model_type": "blip3o_qwen"}
    (folder / "config.json").write_text(json.dumps(config))
    fronts = {"latent_queries": "model.", "projection.": "model.dit.text.", "dit.": "model.dit."}
    tensors = {"model.dit.pad_token": torch.zeros(32), "model.tower.cls_token": torch.zeros(3)}
    for name, value in with_unet.transformer.state_dict().items():
        start = next(start for start in fronts if name.startswith(start))
        rest = name if start == "latent_queries" else name.removeprefix(start)
        tensors[fronts[start] + rest] = value
    for name, value in with_unet.mllm.state_dict().items():
        old = name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
        tensors[old] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def arrays(result):
    return [np.asarray(image).astype(int) for image in result.images]


def features(pipe, prompt="a cat", seed=1, **options):
    made = pipe(
        prompt, generator=seeded(seed), num_inference_steps=2, output_type="latent", **options
    )
    return made.images[0]


def test_a_batch_equals_its_singles(pipe):
    prompts = ["a cat", "a much longer text about a dog"]
    batch = pipe(prompts, **QUICK, num_images_per_prompt=2, generator=seeded(1, 2, 3, 4))
    made = arrays(batch)
    for number, array in enumerate(made):
        alone = pipe(prompts[number // 2], **QUICK, generator=seeded(number + 1))
        assert abs(array - arrays(alone)[0]).max() <= 1
    assert made[0].shape == (32, 32, 3)
    assert abs(made[0] - made[1]).max() > 20


def test_texts_and_guidance_matter(with_unet):
    cat = features(with_unet)
    assert cat.shape == (GRID * GRID, CHANNELS)
    assert (cat - features(with_unet, "a dog")).abs().max() > 1e-3
    assert (cat - features(with_unet, guidance_scale=1.0)).abs().max() > 1e-3
    made = [
        arrays(with_unet("a cat", **QUICK, generator=seeded(1), decoder_guidance_scale=scale))[0]
        for scale in (1.0, 6.0)
    ]
    assert abs(made[0] - made[1]).max() > 2


def test_what_the_unet_is_told(with_unet):
    """Features as its text, their mean, the picture's size; and features of no text, led away."""
    told = []
    hook = with_unet.unet.register_forward_pre_hook(
        lambda module, args, kwargs: told.append(kwargs), with_kwargs=True
    )
    rows = []
    layer = with_unet.transformer.layers[0].register_forward_pre_hook(
        lambda module, args: rows.append(len(args[0]))
    )
    with_unet("a cat", **QUICK, generator=seeded(1))
    with_unet("a cat", **QUICK, decoder_guidance_scale=1.0, generator=seeded(1))
    hook.remove()
    layer.remove()
    states, added = told[0]["encoder_hidden_states"], told[0]["added_cond_kwargs"]
    torch.testing.assert_close(states[0], features(with_unet))
    assert added["text_embeds"].equal(states.mean(dim=1))
    assert added["time_ids"].tolist() == [[32, 32, 0, 0, 32, 32]] * 2
    assert [len(one["encoder_hidden_states"]) for one in told] == [2, 2, 1, 1]
    assert rows == [4, 4, 2, 2]  # the prompt and no text, each with its guidance
    bare = with_unet.encode_texts([NO_TEXT])
    draw = seeded(1)[0]
    _, noise = (torch.randn(1, GRID * GRID, CHANNELS, generator=draw) for _ in range(2))
    parts = (with_unet.transformer, with_unet.scheduler)
    with torch.no_grad():
        away = denoise_features(*parts, noise, bare, num_steps=2, scale=3.0)
    torch.testing.assert_close(states[1], away[0])


@torch.no_grad()
def test_both_loops_are_as_specified(with_unet):
    """Against loops written out: Euler steps in sigma, and guidance away from nothing."""
    model, unet, draw = with_unet.transformer, with_unet.unet, seeded(3)[0]
    condition = with_unet.encode_texts(["a cat"])
    noise = torch.randn(1, GRID * GRID, CHANNELS, generator=draw)
    x, sigmas = noise, [1.0, 0.75, 0.5, 0.25, 0.0]
    for sigma, following in itertools.pairwise(sigmas):
        at = torch.tensor([sigma])
        empty, full = model(x, at, torch.zeros_like(condition)), model(x, at, condition)
        x = x + (following - sigma) * (empty + 3 * (full - empty))
    parts = (with_unet.scheduler, noise, condition)
    found = denoise_features(model, *parts, num_steps=4, scale=3.0)
    torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-4)

    negative = torch.randn(1, GRID * GRID, CHANNELS, generator=draw)
    noise = torch.randn(1, 4, 4, 4, generator=draw)
    scheduler = EulerDiscreteScheduler()
    scheduler.set_timesteps(3)
    y = noise * scheduler.init_noise_sigma
    sizes = torch.tensor([[32.0, 32, 0, 0, 32, 32]])
    for time, (sigma, following) in zip(
        scheduler.timesteps, itertools.pairwise(scheduler.sigmas), strict=True
    ):
        seen = y / (sigma**2 + 1) ** 0.5
        full, empty = (
            unet(
                seen,
                time,
                encoder_hidden_states=own,
                added_cond_kwargs={"text_embeds": own.mean(dim=1), "time_ids": sizes},
            ).sample
            for own in (x, negative)
        )
        y = y + (following - sigma) * (empty + 3 * (full - empty))
    latents = denoise_latents(
        unet, with_unet.decoder_scheduler, noise, x, negative, side=32, num_steps=3, scale=3.0
    )
    torch.testing.assert_close(latents, y, atol=1e-4, rtol=1e-4)
    pixels = with_unet.vae.decode(y / with_unet.vae.config.scaling_factor).sample
    torch.testing.assert_close(decode_latents(with_unet.vae, y), pixels)


@torch.no_grad()
def test_a_direct_decoder_sees_features_where_they_lie():
    pipe = make_blip3o(direct=True)
    found = features(pipe)
    square = torch.stack([found[GRID * row : GRID * row + GRID].T for row in range(GRID)], dim=1)
    pixels = pipe.vae.decode(square[None] / pipe.vae.config.scaling_factor).sample[0]
    wanted = ((pixels * 0.5 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0)
    made = pipe("a cat", num_inference_steps=2, generator=seeded(1)).images[0]
    assert np.abs(np.asarray(made) - wanted.numpy()).max() <= 1


def test_saved_and_loaded_in_both_ways(pipe, tmp_path):
    wanted = arrays(pipe("a cat", **QUICK, generator=seeded(5)))[0]
    pipe.save_pretrained(tmp_path / "whole")
    pipe.save_parts(tmp_path / "parts")
    pipe.transformer.save_pretrained(tmp_path / "parts" / "transformer")
    for loaded in (
        Blip3oPipeline.from_pretrained(tmp_path / "whole"),
        Blip3oPipeline.from_pretrained(tmp_path / "parts"),
        DiffusionPipeline.from_pretrained(tmp_path / "whole", trust_remote_code=True),
    ):
        loaded.set_progress_bar_config(disable=True)
        assert (arrays(loaded("a cat", **QUICK, generator=seeded(5)))[0] == wanted).all()
        assert (loaded.config.picture_side, loaded.config.decoder_steps) == (32, 2)
        assert (loaded.unet is None) == (pipe.unet is None)
    facts = inspect(tmp_path / "whole")
    assert facts["transformer"] == pipe.transformer.num_parameters()
    assert ("unet" in facts["missing"]) == (pipe.unet is None)


def test_a_model_that_processes_share_is_saved_under_its_own_name(tmp_path):
    pipe = make_blip3o(direct=True)
    pipe.transformer.__class__ = type("FSDPBlip3oTransformer", (Blip3oTransformer,), {})
    pipe.save_parts(tmp_path / "shared")
    make_blip3o(direct=True).save_parts(tmp_path / "whole")
    shared, whole = (tmp_path / name / "transformer/config.json" for name in ("shared", "whole"))
    assert json.loads(whole.read_text())["_class_name"] == "Blip3oTransformer"
    assert shared.read_bytes() == whole.read_bytes()


def test_the_released_layout(with_unet, released, caplog):
    loaded = Blip3oPipeline.from_pretrained(released)
    assert "could not be checked against the Hub" in caplog.text
    assert "register_to_config(prompt_prefix=...)" in caplog.text
    loaded.set_progress_bar_config(disable=True)
    assert features(loaded).equal(features(with_unet))
    wanted = arrays(with_unet("a cat", **QUICK, generator=seeded(5)))[0]
    whole = loaded("a cat", **QUICK, generator=seeded(5))
    assert abs(arrays(whole)[0] - wanted).max() <= 8  # its UNet is saved, and computes, in bf16
    facts = inspect(released)
    loaded.transformer.register_to_config(prompt_prefix="please draw: ")
    assert not features(loaded).equal(features(with_unet))
    assert (facts["pipeline"], facts["layout"]) == ("Blip3oPipeline", "released")
    assert facts["mllm"] == with_unet.mllm.num_parameters()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.pop("model.latent_queries"), "latent_queries, found 0 among"),
        (lambda t: t.pop("model.dit.layers.1.gate"), r"1 missing: dit\.layers\.1\.gate"),
        (lambda t: t.pop("model.dit.layers.0.gate"), r"no tensor dit\.layers\.0\.gate"),
        (lambda t: t.pop("model.layers.0.mlp.up_proj.weight"), r"missing: model\.language_model"),
        (lambda t: t.update({"x.linear_1.weight": torch.zeros(32, 24)}), "the projection.*found 2"),
    ],
)
def test_a_released_checkpoint_that_does_not_fit(released, tmp_path, damage, message):
    for part in released.iterdir():
        (tmp_path / part.name).symlink_to(part)
    tensors = load_file(released / "model.safetensors")
    damage(tensors)
    (tmp_path / "model.safetensors").unlink()
    save_file(tensors, tmp_path / "model.safetensors")
    for read in (Blip3oPipeline.from_pretrained, inspect):
        with pytest.raises(CheckpointError, match=message) as caught:
            read(tmp_path)
        assert "could not be checked against the Hub" in str(caught.value)


def test_our_layout_that_does_not_fit(with_unet, tmp_path):
    with pytest.raises(CheckpointError, match=r"no folder transformer.*diffusion-decoder"):
        Blip3oPipeline.from_pretrained(tmp_path)
    with_unet.save_pretrained(tmp_path / "m")
    config = tmp_path / "m" / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"num_layers": 2', '"num_layers": 3'))
    with pytest.raises(CheckpointError, match=r"missing.*dit\.layers\.2"):
        Blip3oPipeline.from_pretrained(tmp_path / "m")
    config.write_text(config.read_text().replace('"num_layers": 3', '"num_layers": 2'))
    shutil.rmtree(tmp_path / "m" / "unet")
    with pytest.raises(CheckpointError, match="does not agree with the folders there about unet"):
        Blip3oPipeline.from_pretrained(tmp_path / "m")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_inference_steps": 0}, "`num_inference_steps` must be at least 1"),
        ({"decoder_steps": 0}, "`decoder_steps` must be at least 1"),
        ({"guidance_scale": -1.0}, "`guidance_scale` must be"),
        ({"decoder_guidance_scale": float("nan")}, "`decoder_guidance_scale` must be"),
        ({"max_text_tokens": 0}, "and 1 text token"),
        ({"prompt": 3}, "must be a text or a list of texts, got 3"),
        ({"prompt": "a\ud800b"}, "no Unicode"),
        ({"num_images_per_prompt": 0}, "at least 1 picture"),
        ({"output_type": "jpeg"}, "`output_type` must be"),
        ({"generator": seeded(1, 2)}, "1 pictures need 1 generators, got 2"),
    ],
)
def test_what_cannot_be_made_is_refused(with_unet, arguments, message):
    with pytest.raises(ValueError, match=message):
        with_unet(**{"prompt": "x", "num_inference_steps": 1} | arguments)


def test_parts_that_do_not_fit_are_refused(with_unet):
    parts = dict(with_unet.components) | {"vae": AutoencoderKL(latent_channels=4)}
    with pytest.raises(ValueError, match="features of 16 channels need a `unet`"):
        Blip3oPipeline(**parts | {"unet": None, "decoder_scheduler": None})
    with pytest.raises(ValueError, match="or neither"):
        Blip3oPipeline(**parts | {"decoder_scheduler": None})
    with pytest.raises(ValueError, match="`picture_side` must be from 8 to 4096, got 99999"):
        Blip3oPipeline(**with_unet.components, picture_side=99999)
    other = Blip3oTransformer(
        text_size=8,
        grid=1,
        hidden_size=16,
        num_layers=1,
        feature_channels=16,
        num_attention_heads=4,
    )
    with pytest.raises(ValueError, match="states have 24 values, and the transformer reads 8"):
        Blip3oPipeline(**with_unet.components | {"transformer": other})
    pipe = make_blip3o()
    pipe.register_modules(processor=make_omnigen2().processor)
    with pytest.raises(CheckpointError, match=r"has no token \[IMG\]"):
        pipe("x", num_inference_steps=1)
