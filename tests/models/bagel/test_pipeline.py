"""The pipeline on a tiny random model: batches, seeds, sizes, callbacks, and bad arguments."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pipeline import make_pipeline
from transformers import TextIteratorStreamer

from echo4o.models.pixels import to_rgb

SIZE = {"height": 32, "width": 48, "num_inference_steps": 3, "output_type": "latent"}


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def painted(width: int, height: int, seed: int) -> Image.Image:
    array = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(array)


def test_a_batch_of_prompts_equals_its_singles(pipe):
    prompts = ["a cat", "two very long words and a dog", ""]
    batch = pipe(prompts, generator=seeded(1, 2, 3), **SIZE).images
    for index, prompt in enumerate(prompts):
        (single,) = pipe(prompt, generator=seeded(index + 1), **SIZE).images
        torch.testing.assert_close(batch[index], single, rtol=0, atol=1e-5)
    assert (batch[0] - batch[1]).abs().max() > 0.1


@pytest.mark.parametrize("renorm", ["global", "channel", "text_channel", "none"])
def test_batches_with_references_of_several_sizes_equal_their_singles(pipe, renorm):
    references = [[painted(64, 32, 1)], [painted(32, 48, 2), painted(64, 64, 3)]]
    prompts = ["make it blue", "put both together"]
    call = {"num_inference_steps": 2, "output_type": "latent", "guidance_renorm": renorm}
    batch = pipe(prompts, references, generator=seeded(5, 6), **call).images
    for index in range(2):
        single = pipe(prompts[index], references[index], generator=seeded(5 + index), **call)
        torch.testing.assert_close(batch[index], single.images[0], rtol=0, atol=1e-5)
    assert batch[0].shape[0] != batch[1].shape[0]


def test_the_seed_of_a_picture_does_not_depend_on_its_neighbours(pipe):
    several = pipe("a cat", num_images_per_prompt=3, generator=seeded(7, 8, 9), **SIZE).images
    (alone,) = pipe("a cat", generator=seeded(9), **SIZE).images
    torch.testing.assert_close(several[2], alone, rtol=0, atol=1e-5)
    assert (several[0] - several[1]).abs().max() > 0.1


def test_one_generator_serves_all_pictures_in_turn(pipe):
    images = pipe("a cat", num_images_per_prompt=2, generator=seeded(7)[0], **SIZE).images
    assert not torch.equal(images[0], images[1])


def test_segments_are_the_general_form(pipe):
    picture, call = painted(48, 32, 4), {"num_inference_steps": 2, "output_type": "latent"}
    one = pipe("add a hat", picture, generator=seeded(1), **call).images[0]
    two = pipe(segments=[picture, "add a hat"], generator=seeded(1), **call).images[0]
    swapped = pipe(segments=["add a hat", picture], generator=seeded(1), **call).images[0]
    assert torch.equal(one, two)
    assert (one - swapped).abs().max() > 1e-3


def test_output_kinds_show_the_same_picture(pipe):
    call = SIZE | {"num_inference_steps": 1}
    made = {
        kind: pipe("a cat", generator=seeded(1), **call | {"output_type": kind}).images[0]
        for kind in ("pil", "np", "latent")
    }
    assert made["pil"].size == (48, 32)
    assert made["np"].shape == (32, 48, 3)
    assert made["latent"].shape == (6, 64)
    assert np.array_equal(np.asarray(made["pil"]), (made["np"] * 255).astype(np.uint8))
    as_tuple = pipe("a cat", generator=seeded(1), return_dict=False, **call)
    assert torch.equal(as_tuple[0][0], made["latent"])


def test_the_size_follows_the_last_reference_unless_given(pipe):
    references = [painted(64, 32, 1), painted(40, 64, 2)]
    call = {"num_inference_steps": 1}
    assert pipe("a", references, **call).images[0].size == (32, 64)
    assert pipe("a", references, height=32, width=32, **call).images[0].size == (32, 32)
    assert pipe("a", **call).images[0].size == (128, 128)


def test_guidance_of_one_skips_the_other_branches(pipe):
    calls = []
    hook = pipe.model.llm2vae.register_forward_hook(lambda m, args, out: calls.append(len(out)))
    pipe("a cat", guidance_scale=1.0, **SIZE)
    single = calls.copy()
    calls.clear()
    pipe("a cat", guidance_scale=4.0, guidance_interval=(0.8, 1.0), **SIZE)
    hook.remove()
    assert single == [6, 6, 6]
    assert calls == [12, 12, 6], "guidance outside its interval must cost nothing"


def test_the_callback_sees_and_changes_every_step(pipe):
    steps = []

    def zero(pipeline, step, timestep, values):
        steps.append((step, float(timestep)))
        return {"latents": torch.zeros_like(values["latents"])}

    (image,) = pipe("a cat", callback_on_step_end=zero, **SIZE).images
    assert [step for step, _ in steps] == [0, 1, 2]
    assert steps[0][1] == 1000
    assert image.abs().max() == 0


def test_thinking_puts_the_plan_into_the_context(pipe):
    call = SIZE | {"num_inference_steps": 1}
    result = pipe(["a cat", "a dog"], think=True, max_think_tokens=4, **call)
    assert len(result.thoughts) == 2
    assert len(result.images) == 2


def test_understanding_is_greedy_streams_and_samples(pipe):
    picture = painted(48, 32, 4)
    answer = pipe.understand(picture, "what is it?", max_new_tokens=6)
    assert answer == pipe.understand([picture], "what is it?", max_new_tokens=6)
    streamer = TextIteratorStreamer(pipe.tokenizer)
    pipe.understand(picture, "what is it?", max_new_tokens=6, streamer=streamer)
    assert "".join(streamer).startswith(answer)
    drawn = {
        pipe.understand(
            picture, "?", max_new_tokens=6, do_sample=True, temperature=2.0, generator=g
        )
        for g in seeded(1, 2, 3)
    }
    assert len(drawn) > 1


def test_attention_backends_agree(pipe):
    picture, call = painted(48, 32, 4), {"num_inference_steps": 2, "output_type": "latent"}
    one = pipe("a hat", picture, generator=seeded(1), **call).images[0]
    eager = make_pipeline()
    eager.model.set_attn_implementation("eager")
    assert eager.model.language_model.model.layers[0].self_attn.config._attn_implementation == (
        "eager"
    )
    two = eager("a hat", picture, generator=seeded(1), **call).images[0]
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


def test_bfloat16_stays_close(pipe):
    half = make_pipeline()
    half.model.to(torch.bfloat16)
    one = pipe("a cat", generator=seeded(1), **SIZE).images[0]
    two = half("a cat", generator=seeded(1), **SIZE).images[0]
    assert two.dtype == torch.float32
    assert (one - two).norm() / one.norm() < 0.05


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"height": 40, "width": 32}, r"`height` must be a multiple of 16, got 40; try 32"),
        ({"height": 32, "width": 8}, r"`width` must be a multiple of 16, got 8; try 16"),
        ({"height": 160, "width": 32}, r"at most 128 pixels for this model, got 160"),
        ({"height": 32}, r"both `height` and `width`"),
        ({"image": [painted(32, 32, 1)] * 5}, r"at most 4 reference pictures are possible, got 5"),
        ({"image": "cat.png"}, r"`image` must be a picture"),
        ({"num_inference_steps": 0}, r"`num_inference_steps` must be at least 1, got 0"),
        ({"guidance_scale": -1.0}, r"`text_scale` must be a finite number from 0, got -1"),
        ({"guidance_interval": (0.9, 0.1)}, r"`interval` must be two times"),
        ({"guidance_renorm": "row"}, r"`renorm` must be one of"),
        ({"guidance_renorm_min": 2.0}, r"`renorm_min` must be from 0 to 1"),
        ({"timestep_shift": 0.0}, r"`timestep_shift` must be a positive number"),
        ({"num_images_per_prompt": 0}, r"`num_images_per_prompt` must be at least 1"),
        ({"generator": seeded(1, 2)}, r"1 pictures need 1 generators, got 2"),
        ({"latents": torch.zeros(1, 5, 64)}, r"`latents` must have the shape"),
        ({"output_type": "jpeg"}, r"`output_type` must be"),
        ({"prompt": None}, r"there is no prompt"),
        ({"prompt": []}, r"there is no prompt"),
        ({"segments": ["a"]}, r"either `segments` or"),
        ({"prompt": None, "segments": []}, r"got nothing"),
        ({"prompt": None, "segments": ["a", 5]}, r"texts and PIL pictures"),
        ({"prompt": "x" * 40000}, r"takes \d+ positions, the model has 32768"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(pipe, arguments, said):
    call = {"prompt": "a cat", "height": 32, "width": 32, "num_inference_steps": 1} | arguments
    if set(arguments) == {"height"}:
        del call["width"]
    with pytest.raises((ValueError, TypeError), match=said):
        pipe(**call)


def test_bad_arguments_of_understanding(pipe):
    with pytest.raises(ValueError, match="must be positive, got 0"):
        pipe.understand(None, "why?", max_new_tokens=0)
    with pytest.raises(ValueError, match="at most 4"):
        pipe.understand([painted(32, 32, 1)] * 5, "why?")


def test_pictures_are_brought_to_rgb():
    red = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert to_rgb(red).getpixel((0, 0)) == (255, 255, 255)
    wide = Image.new("RGB", (6, 3))
    exif = wide.getexif()
    exif[0x0112] = 6
    wide.info["exif"] = exif.tobytes()
    assert to_rgb(wide).size == (3, 6)
    assert to_rgb(Image.new("CMYK", (2, 2))).mode == "RGB"
    with pytest.raises(ValueError, match="16 bit"):
        to_rgb(Image.new("I;16", (2, 2)))


def test_a_batch_of_both_modes_equals_its_singles(pipe):
    """Text to image and editing have guidance of their own when none is given."""
    red = Image.new("RGB", (64, 64), "red")
    small = {"height": 32, "width": 32, "num_inference_steps": 4, "output_type": "latent"}

    def seeded(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    both = pipe(["a hat", "a cat"], [[red], []], generator=seeded(1, 2), **small).images
    edited = pipe("a hat", red, generator=seeded(1), **small).images[0]
    drawn = pipe("a cat", generator=seeded(2), **small).images[0]
    for ours, alone in zip(both, (edited, drawn), strict=True):
        torch.testing.assert_close(ours, alone, atol=1e-5, rtol=0)
