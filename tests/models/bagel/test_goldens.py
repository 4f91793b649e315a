"""Every recorded case of the authors' model, every tensor it holds, against ours.

Runs all cases of $ECHO4O_GOLDENS, default the development set in the shared folder.
"""

import hashlib
import math
import os
from collections.abc import Callable

import numpy as np
import pytest
import recorded
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from recorded import Case
from recorded_events import check_events, is_planned
from recorded_training import check_training, close
from torch import Tensor

from echo4o.models.bagel.conditioning import (
    PLANNING_PROMPT,
    REASONING_PROMPT,
    Branches,
    Conditioner,
    Part,
)
from echo4o.models.bagel.embeddings import sin_cos_table, time_sinusoid
from echo4o.models.bagel.generation import (
    Context,
    decode_tokens,
    extend_context,
    predict_velocity,
    prepare_target,
)
from echo4o.models.bagel.packing import (
    TextSegment,
    grid_position_ids,
    pack,
    patchify,
    unpatchify,
)
from echo4o.models.bagel.processor import (
    MAX_PIXELS,
    ResizeRule,
    text_between,
)
from echo4o.models.calls import to_uint8
from echo4o.models.pixels import to_pixels, to_rgb
from echo4o.sampler import Guidance, sigma_grid

pytestmark = pytest.mark.shared

CASES = recorded.names()


def test_a_folder_that_was_named_has_cases():
    """Else a mistyped $ECHO4O_GOLDENS would be a run without a failure."""
    assert CASES or "ECHO4O_GOLDENS" not in os.environ, recorded.FOLDER


@pytest.mark.skipif(not CASES, reason=f"no recorded cases in {recorded.FOLDER}")
@pytest.mark.parametrize("name", CASES)
def test_case_equals_the_recording(name: str):
    case = recorded.load(name)
    CHECKS[case.request["kind"]](case)  # an unknown kind of case fails, it is never skipped
    assert case.tensors.unseen() == set()


# ---------------------------------------------------------------------------- inference


@torch.no_grad()
def check_inference(case: Case) -> None:
    args = recorded.ARGUMENTS | case.request["args"]
    parts: list[Part] = [
        part["text"] if "text" in part else case.picture(part["image"])
        for part in case.request["inputs"]
    ]
    conditioner = Conditioner(case.pipe.model, case.pipe.vae, case.pipe.tokenizer)
    check_pictures(case, conditioner, parts)
    understand = args["understanding_output"]
    prompt = REASONING_PROMPT if understand else PLANNING_PROMPT
    (branches,) = conditioner.encode(
        [parts],
        system_prompt=prompt if args["think"] else None,
        with_latents=not understand,
        reference_noise=case.stacked("noise.{}"),
    )
    check_events(case, conditioner, [prompt, *parts] if args["think"] else parts)
    if "logits" in case.tensors:
        text = check_writing(case, branches.cond)
        if is_planned(case):
            plan, before = conditioner.text(text), branches.cond
            written = case.result["events"][-1]
            assert written["op"] == "text"
            assert (written["kv"], written["pos"][0]) == ([before.tokens], before.position)
            assert written["ids"][1:-1] == plan.token_ids
            branches = branches._replace(cond=extend_context(case.pipe.model, before, plan))
    if understand:
        check_answer(case, parts, args)
        return
    check_branches(case, branches, args)
    check_picture(case, parts, args)


def check_answer(case: Case, parts: list[Part], args: dict) -> None:
    """The public call takes pictures, then a question; `check_writing` has seen any order."""
    *images, question = parts
    if isinstance(question, str) and all(isinstance(part, Image.Image) for part in images):
        limit = args["max_think_token_n"] - 1
        answer = case.pipe.understand(images, question, max_new_tokens=limit, think=args["think"])
        assert [answer] == case.result["texts"]


def check_pictures(case: Case, conditioner: Conditioner, parts: list[Part]) -> None:
    """What the references become: resized pixels, latents, patches and position ids."""
    config, noises = case.pipe.model.config, case.stacked("noise.{}")
    for index, picture in enumerate(p for p in parts if isinstance(p, Image.Image)):
        resized = case.vae_rule.resize(to_rgb(picture))
        if f"vae{index}.image" in case.tensors:
            pixels = to_pixels(resized)
            close(pixels[None], case.tensors[f"vae{index}.image"], 0)
            latent = conditioner.encode_picture(pixels, noises[index])
            close(latent[None], case.tensors[f"vae{index}.latent"])
            rows, columns = (side // 2 for side in latent.shape[1:])
            ids = grid_position_ids(rows, columns, config.max_latent_size)
            assert torch.equal(ids, case.tensors[f"vae{index}.position_ids"])
        pixels = to_pixels(case.vit_rule.resize(resized))
        close(patchify(pixels, config.vit_patch_size), case.tensors[f"vit{index}.tokens"], 0)
        rows, columns = (side // config.vit_patch_size for side in pixels.shape[1:])
        ids = grid_position_ids(rows, columns, config.vit_max_num_patch_per_side)
        assert torch.equal(ids, case.tensors[f"vit{index}.position_ids"])


def check_context(case: Case, name: str, context: Context) -> None:
    keys, values = case.tensors[f"ctx.{name}.key"], case.tensors[f"ctx.{name}.value"]
    for layer, (key, value) in enumerate(zip(keys, values, strict=True)):
        ours = context.cache.read(layer, context.row, context.tokens)
        close(ours[0].transpose(0, 1), key)
        close(ours[1].transpose(0, 1), value)


def check_writing(case: Case, cond: Context) -> str:
    """Logits and tokens of a decoded text; the recorded run fed its last prediction to nobody."""
    check_context(case, "text", cond)
    assert case.result["text_start"] == {"pos": [cond.position], "kv": [cond.tokens]}
    logits = case.tensors["logits"]
    written = list(decode_tokens(case.pipe.model, cond, max_new_tokens=len(logits)))
    close(torch.stack([row for _, row in written]), logits)
    tokens = [token for token, _ in written]
    assert tokens == case.result["argmax_tokens"]
    kept = tokens[: len(case.result["returned_tokens"]) - 1]
    assert [case.pipe.model.config.bos_token_id, *kept] == case.result["returned_tokens"]
    tokenizer, config = case.pipe.tokenizer, case.pipe.model.config
    marks = tokenizer.convert_ids_to_tokens([config.bos_token_id, config.eos_token_id])
    text = text_between(tokenizer.decode([config.bos_token_id, *kept]), *marks)
    assert [text] == case.result["texts"]
    return text


def check_branches(case: Case, branches: Branches, args: dict) -> None:
    """Contexts, raw velocities of every branch, and the guided velocity, step by step."""
    contexts = {"cond": branches.cond, "cfg_text": branches.text, "cfg_img": branches.image}
    for name, facts in case.result["gen"].items():
        if name in contexts:
            context = contexts[name]
            assert (facts["kv"], facts["pos"]) == ([context.tokens], [context.position])
            if f"ctx.{name}.key" in case.tensors:
                check_context(case, name, context)
    draws = case.stacked("noise.{}")
    assert [list(noise.shape) for noise in draws] == case.result["noise_order"]
    assert torch.equal(draws[-1], case.tensors["init_noise"])
    height, width = case.tensors["decode.image"].shape[2:]
    grid = height // 16, width // 16
    config = case.pipe.model.config
    places = grid_position_ids(*grid, config.max_latent_size, interpolate=config.interpolate_pos)
    assert places.tolist() == case.result["gen"]["latent_position_ids"]
    targets = {name: prepare_target(case.pipe.model, [c], *grid) for name, c in contexts.items()}
    guidance = guidance_of(args)
    times = case.result["timesteps"]
    scheduler = FlowMatchEulerDiscreteScheduler(shift=args["timestep_shift"])
    scheduler.set_timesteps(sigmas=sigma_grid(args["num_timesteps"] - 1))
    assert scheduler.sigmas[:-1].tolist() == times
    for step, (time, x) in enumerate(zip(times, case.tensors["steps.x_t"], strict=True)):
        raw = {
            name: predict_velocity(case.pipe.model, x[None], time, target)
            for name, target in targets.items()
        }
        for name, velocity in raw.items():
            if f"steps.{step}.v_{name}" in case.tensors:
                close(velocity[0], case.tensors[f"steps.{step}.v_{name}"])
        text, image = guidance.branches(time)
        needed = {"cond"} | ({"cfg_text"} if text else set()) | ({"cfg_img"} if image else set())
        assert needed <= set(case.result["branches"][step])
        guided = guidance.combine(
            raw["cond"], raw["cfg_text"] if text else None, raw["cfg_img"] if image else None
        )
        close(guided[0], case.tensors["steps.v_t"][step])


def guidance_of(args: dict) -> Guidance:
    return Guidance(
        text_scale=args["cfg_text_scale"],
        image_scale=args["cfg_img_scale"],
        interval=tuple(args["cfg_interval"]),
        renorm=args["cfg_renorm_type"],
        renorm_min=args["cfg_renorm_min"],
    )


def check_picture(case: Case, parts: list[Part], args: dict) -> None:
    """The whole call: states of every step, final latent, decoded picture, 8-bit picture."""
    has_picture = any(isinstance(part, Image.Image) for part in parts)
    states: list[Tensor] = []

    def keep(pipe, step: int, timestep: Tensor, values: dict) -> None:
        states.append(values["latents"][0])

    call = {
        "segments": parts,
        "num_inference_steps": args["num_timesteps"] - 1,
        "guidance_scale": args["cfg_text_scale"],
        "image_guidance_scale": args["cfg_img_scale"],
        "guidance_interval": tuple(args["cfg_interval"]),
        "guidance_renorm": args["cfg_renorm_type"],
        "guidance_renorm_min": args["cfg_renorm_min"],
        "timestep_shift": args["timestep_shift"],
        "think": args["think"],
        "max_think_tokens": args["max_think_token_n"] - 1,
        "latents": case.tensors["init_noise"][None],
        "reference_noise": case.stacked("noise.{}")[:-1],
        "callback_on_step_end": keep,
    }
    if not has_picture:
        call |= {"height": args["image_shapes"][0], "width": args["image_shapes"][1]}
    result = case.pipe(**call, output_type="latent")
    assert (result.thoughts or []) == case.result["texts"]
    wanted = [*case.tensors["steps.x_t"][1:], case.tensors["final_latent"]]
    for ours, theirs in zip(states, wanted, strict=True):
        close(ours, theirs)
    close(result.images[0], case.tensors["final_latent"])
    height, width = case.tensors["decode.image"].shape[2:]
    grid = height // 16, width // 16
    close(unpatchify(result.images[0][None], *grid, 2), case.tensors["decode.latent_in"])
    pixels = case.pipe.decode_latents(result.images[0][None], grid)
    close(pixels, case.tensors["decode.image"])
    levels = torch.from_numpy(to_uint8(pixels)[0]).int() - case.tensors["image_u8"].int()
    assert levels.abs().max() <= 1


# ---------------------------------------------------------------------------- the rest


@torch.no_grad()
def check_rest(case: Case) -> None:
    check_resizing(case)
    check_integers(case)
    check_autoencoder(case)
    check_modules(case)


def digest(array) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def check_resizing(case: Case) -> None:
    vae, vit = ResizeRule(1024, 512, 16), ResizeRule(980, 224, 14)
    for name, facts in case.result["images"].items():
        rgb = to_rgb(case.picture(name))
        assert (case.picture(name).mode, list(rgb.size)) == (facts["mode"], facts["size_wh"])
        assert hashlib.sha256(rgb.tobytes()).hexdigest() == facts["rgb_sha256"]
        first = vae.resize(rgb)
        made = {
            "vae_1024_512_16": first,
            "vit_980_224_14": vit.resize(rgb),
            "infer_vae_twice": vae.resize(first),
            "infer_vit_after_vae_resize": vit.resize(first),
        }
        for kind, picture in made.items():
            pixels = to_pixels(picture)
            assert list(pixels.shape) == facts[kind]["shape"]
            assert hashlib.sha256(picture.tobytes()).hexdigest() == facts[kind]["u8_hwc_sha256"]
            assert digest(pixels.contiguous().numpy()) == facts[kind]["f32_chw_sha256"]
            kept = recorded.FOLDER / "preprocess_png" / f"{name.removesuffix('.png')}.{kind}.png"
            if kept.is_file():
                assert Image.open(kept).tobytes() == picture.tobytes()
        for kind, rule in (("small_vae", case.vae_rule), ("small_vit", case.vit_rule)):
            if f"pre.{name}.{kind}" in case.tensors:
                close(to_pixels(rule.resize(rgb)), case.tensors[f"pre.{name}.{kind}"], 0)
        if f"rgb.{name}" in case.tensors:
            close(thumbnail(rgb, case.tensors[f"rgb.{name}"]), case.tensors[f"rgb.{name}"], 0)
    for text, number, width, height, out_height, out_width in case.result["resize_table"]["rows"]:
        longest, shortest, stride, *more = text.split(",")
        limit = int(more[0].removeprefix("max_pixels=")) if more else MAX_PIXELS
        rule = ResizeRule(int(longest), int(shortest), int(stride), limit)
        made_size = rule.size(width, height, num_images=number)
        assert made_size == (out_width, out_height), (text, number, width, height)


def thumbnail(picture: Image.Image, like: Tensor) -> Tensor:
    """Small pictures are recorded as they are, larger ones reduced to their nearest pixels."""
    height, width, _ = like.shape
    return torch.from_numpy(np.array(picture.resize((width, height), Image.Resampling.NEAREST)))


def check_integers(case: Case) -> None:
    for key, interpolate in (("pos_extrapolate", False), ("pos_interpolate", True)):
        for height, width, patch, side, ids in case.result[key]:
            rows, columns = height // patch, width // patch
            made = grid_position_ids(rows, columns, side, interpolate=interpolate)
            assert made.tolist() == ids
    for facts in case.result["schedules"]:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=facts["shift"])
        scheduler.set_timesteps(sigmas=sigma_grid(facts["num_timesteps"] - 1))
        assert scheduler.sigmas[:-1].tolist() == facts["t"]
        close(-scheduler.sigmas.diff(), torch.tensor(facts["dt"]), 1e-7)
    tokenizer, config = case.pipe.tokenizer, case.pipe.model.config
    for text, ids, decoded in case.result["tokenizer"]:
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids
        assert tokenizer.decode(ids) == decoded
    assert case.result["special"] == {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "start_of_image": config.vision_start_token_id,
        "end_of_image": config.vision_end_token_id,
    }
    for length, weight in case.result["len2weight"]["square"].items():
        if int(length) > 1:
            words = TextSegment([5] * (int(length) - 1), loss=True)
            weights = pack([[words]], config).ce_weights
            close(weights, torch.full((int(length),), weight), 1e-6)


def check_autoencoder(case: Case) -> None:
    conditioner = Conditioner(case.pipe.model, case.pipe.vae, case.pipe.tokenizer)
    vae = case.pipe.vae
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor
    for index, inputs in enumerate(case.stacked("ae{}.in")):
        stored = case.tensors.below(f"ae{index}.")
        moments = vae.encode(inputs).latent_dist
        close(moments.mean, stored["mean"])
        close(moments.logvar, stored["logvar"])
        close(scale * (moments.mean - shift), stored["mode_scaled"])
        close(vae.decode(moments.mean).sample, stored["decode_mode"])
        sampled = conditioner.encode_picture(inputs[0], stored["sample_noise"])
        close(sampled[None], stored["sample_scaled"])
    moments = vae.encode(case.tensors["aepad.in"]).latent_dist
    close(scale * (moments.mean - shift), case.tensors["aepad.mode_scaled"])
    sampled = moments.mean + moments.std * case.tensors["aepad.sample_noise"]
    close(scale * (sampled - shift), case.tensors["aepad.sample_scaled"])


def check_modules(case: Case) -> None:
    model, tensors = case.pipe.model, case.tensors
    close(time_sinusoid(tensors["time.t"], 256), tensors["time.freq"])
    close(model.time_embedder(tensors["time.t"]), tensors["time.emb"])
    lens = tensors["vit.cu_seqlens"].diff().tolist()
    features = model.vit_model(tensors["vit.tokens"], tensors["vit.pos"], lens)
    close(features, tensors["vit.out"])
    close(model.connector(features), tensors["vit.connector"])
    for name in ("latent_pos_embed", "vit_pos_embed"):
        side = math.isqrt(len(tensors[name]))
        close(sin_cos_table(side, tensors[name].shape[1]), tensors[name], 1e-7)
        close(model.get_submodule(name).pos_embed, tensors[name], 1e-7)


CHECKS: dict[str, Callable[[Case], None]] = {
    "infer": check_inference,
    "train": check_training,
    "misc": check_rest,
}
"""All kinds of recorded cases there are."""
