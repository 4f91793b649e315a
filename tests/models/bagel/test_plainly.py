"""Random models, packs and requests against the specification written out (helpers/plain_bagel)."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from plain_bagel import PlainBagel
from tiny_pipeline import make_pipeline
from torch import nn

from echo4o.models.bagel.configuration import BagelConfig
from echo4o.models.bagel.modeling import BagelForUnifiedGeneration
from echo4o.models.bagel.packing import TextSegment, VaeSegment, VitSegment, pack
from echo4o.models.bagel.processor import ResizeRule
from echo4o.models.pixels import to_pixels, to_rgb

MARKS = {"bos_token_id": 1, "eos_token_id": 2}
MARKS |= {"vision_start_token_id": 3, "vision_end_token_id": 4}
WORDS = ["a red panda", "on the edge", "of a wooden bed", "beside", "three", "blue cats"]


def random_model(draw: random.Random) -> BagelForUnifiedGeneration:
    kv_heads = draw.choice([1, 2, 3])
    heads, size = kv_heads * draw.choice([1, 2, 4]), draw.choice([4, 8, 12])
    tower_heads = draw.choice([1, 2, 4])
    config = BagelConfig.tiny(
        hidden_size=heads * size,
        intermediate_size=draw.choice([24, 40]),
        num_hidden_layers=draw.choice([1, 2, 3]),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=97,
        vision_hidden_size=tower_heads * draw.choice([8, 12]),
        vision_num_attention_heads=tower_heads,
        max_latent_size=draw.choice([4, 6]),
        vit_max_num_patch_per_side=draw.choice([3, 5]),
        interpolate_pos=draw.random() < 0.3,
        latent_channels=draw.choice([4, 16]),
        **MARKS,
    )
    config.text_config.rope_parameters["rope_theta"] = draw.choice([1e4, 1e6])
    model = BagelForUnifiedGeneration(config).eval()
    for name, parameter in model.named_parameters():
        is_norm = "norm" in name and name.endswith("weight")
        nn.init.normal_(parameter, 1.0 if is_norm else 0.0, 0.15)
    return model


def random_sample(draw: random.Random, config: BagelConfig):
    """Ours and the same in plain words; some parts are dropped."""
    ours, plain = [], []
    for _ in range(draw.randint(1, 6)):
        kind, dropped = draw.choice(["text", "loss", "vit", "vae", "target"]), draw.random() < 0.25
        if kind in ("text", "loss"):
            ids = [draw.randrange(5, 97) for _ in range(draw.choice([0, 1, 6]))]
            dropped = dropped and kind == "text"
            ours.append(TextSegment(ids, loss=kind == "loss", dropped=dropped))
            plain += [] if dropped else [(kind, ids)]
            continue
        side = config.vit_max_num_patch_per_side if kind == "vit" else config.max_latent_size
        rows, columns = draw.randint(1, side), draw.randint(1, side)
        if kind == "vit":
            picture = torch.rand(3, 14 * rows, 14 * columns) * 2 - 1
            ours.append(VitSegment(picture, dropped=dropped))
        else:
            picture = torch.randn(config.latent_channels, 2 * rows, 2 * columns)
            dropped = dropped and kind == "vae"
            ours.append(VaeSegment(picture, noised=kind == "target", dropped=dropped))
        plain.append(("gone", None) if dropped else (kind, picture))
    ours.append(TextSegment([7, 8], loss=True))
    return ours, [*plain, ("loss", [7, 8])]


@pytest.mark.parametrize("seed", range(10))
def test_losses_and_gradients_of_any_pack(seed):
    draw = random.Random(seed)
    torch.manual_seed(seed)
    model = random_model(draw)
    config, plain = model.config, PlainBagel(model)
    config.text_config._attn_implementation = draw.choice(["sdpa", "eager"])
    samples = [random_sample(draw, config) for _ in range(draw.randint(1, 4))]
    batch = pack([ours for ours, _ in samples], config)
    times, noise = torch.rand(batch.num_noised), torch.randn(len(batch.latents), config.latent_dim)
    parts = zip(torch.split(noise, batch.latent_lens), batch.latent_noised, strict=True)
    rest = list(zip(times, [part for part, is_noised in parts if is_noised], strict=True))

    found = model(batch, timesteps=times, noise=noise) if rest else model(batch)
    sum(part.mean() for part in (found.mse, found.ce) if part is not None).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    mse, ce = [], []
    for _, sample in samples:
        count = sum(kind == "target" for kind, _ in sample)
        own, rest = rest[:count], rest[count:]
        errors = plain.errors(sample, [time for time, _ in own], [part for _, part in own])
        mse, ce = mse + errors[0], ce + errors[1]
    wanted = [torch.stack(part) if part else None for part in (mse, ce)]
    sum(part.mean() for part in wanted if part is not None).backward()

    for ours, theirs in zip((found.mse, found.ce), wanted, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    total = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    for name, parameter in model.named_parameters():
        theirs = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        ours = torch.zeros_like(parameter) if gradients[name] is None else gradients[name]
        assert (ours - theirs).norm() <= 1e-3 * theirs.norm() + 1e-6 * total, name


def random_request(draw: random.Random) -> list:
    sides = [(draw.randint(20, 90), draw.randint(20, 90)) for _ in range(draw.choice([0, 1, 2]))]
    pixels = [np.random.default_rng(w * h).integers(0, 255, (h, w, 3), np.uint8) for w, h in sides]
    texts = [" ".join(draw.sample(WORDS, draw.choice([0, 3]))) for _ in range(draw.choice([1, 2]))]
    parts = [*map(Image.fromarray, pixels), *texts]
    draw.shuffle(parts)
    return parts


def contexts_of(pipe, parts: list, noises) -> tuple[list, list, list]:
    """The three contexts (specification, section 7)."""
    config = pipe.model.config
    full, without_text, without_pictures = [], [], []
    for part in parts:
        if isinstance(part, str):
            text = ("text", pipe.tokenizer(part, add_special_tokens=False)["input_ids"])
            without_text = list(full)
            full, without_pictures = [*full, text], [*without_pictures, text]
            continue
        picture = ResizeRule(*config.vae_transform).resize(to_rgb(part))
        moments = pipe.vae.encode(to_pixels(picture)[None]).latent_dist
        latent = moments.mean + (0.5 * moments.logvar).exp() * next(noises)
        scaled = (latent - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor
        seen = to_pixels(ResizeRule(*config.vit_transform).resize(picture))
        full = [*full, ("vae", scaled[0]), ("vit", seen)]
        without_text = list(full)
    return full, without_text, without_pictures


@torch.no_grad()
@pytest.mark.parametrize("seed", range(8))
def test_pictures_of_any_batch(seed):
    """Texts and pictures in any order, prompts of unequal lengths, every way to guide."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    pipe = make_pipeline(seed)
    requests = [random_request(draw) for _ in range(draw.choice([1, 2, 3]))]
    rule = ResizeRule(*pipe.model.config.vae_transform)
    pictures = [part for parts in requests for part in parts if not isinstance(part, str)]
    sizes = [rule.size(*picture.size) for picture in pictures]
    noises = [torch.randn(1, 16, height // 8, width // 8) for width, height in sizes]
    how = {
        "text": draw.choice([0.5, 1.5, 4.0]),
        "image": draw.choice([0.7, 1.5, 2.5]),
        "interval": draw.choice([(0.0, 1.0), (0.4, 1.0), (0.0, 0.6)]),
        "renorm": draw.choice(["global", "channel", "text_channel", "none"]),
        "least": draw.choice([0.0, 0.6]),
        "shift": draw.choice([1.0, 3.0]),
    }
    steps, start = draw.choice([2, 5]), torch.randn(len(requests), 2 * 3, 64)
    made = pipe(
        segments=requests,
        height=32,
        width=48,
        num_inference_steps=steps,
        guidance_scale=how["text"],
        image_guidance_scale=how["image"],
        guidance_interval=how["interval"],
        guidance_renorm=how["renorm"],
        guidance_renorm_min=how["least"],
        timestep_shift=how["shift"],
        latents=start,
        reference_noise=noises,
        output_type="latent",
    ).images
    plain, rest = PlainBagel(pipe.model), iter(noises)
    for parts, x, ours in zip(requests, start, made, strict=True):
        theirs = plain.picture(contexts_of(pipe, parts, rest), x, (2, 3), steps, **how)
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
