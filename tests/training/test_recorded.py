"""The recorded training cases: losses and gradient norm (e1), four optimiser steps (e5)."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from echo4o import Echo4oPipeline
from echo4o.models.bagel.packing import (
    PackedBatch,
    Sample,
    TextSegment,
    VaeSegment,
    VitSegment,
    pack,
)
from echo4o.models.bagel.processor import ResizeRule
from echo4o.models.pixels import to_pixels, to_rgb
from echo4o.sampler import shift_times
from echo4o.training.groups import parameter_group
from echo4o.training.loss import Counts, Subsets, sums, weighted
from echo4o.training.optimise import Trained, learning_rate
from echo4o.training.overrides import override
from echo4o.training.recipes import echo4o_7b

pytestmark = pytest.mark.shared


class Case(NamedTuple):
    """A recorded case with the model it was recorded on."""

    request: dict[str, Any]
    result: dict[str, Any]
    tensors: dict[str, Tensor]
    pipeline: Echo4oPipeline
    batch: PackedBatch
    times: Tensor


def load_case(shared: Path, name: str) -> Case:
    folder = shared / "goldens/bagel/goldens_dev"
    recorded = json.loads((folder / f"{name}.json").read_text())
    request, result = recorded["case"], recorded["result"]
    tensors = load_file(folder / f"{name}.safetensors")
    pipeline = Echo4oPipeline.from_pretrained(
        shared / "goldens/bagel/tiny_upstream", dtype=torch.float32
    )
    latents = iter(
        padded[:, : 2 * rows, : 2 * columns]
        for padded, (rows, columns) in zip(
            tensors["padded_latent"], result["patchified_vae_latent_shapes"], strict=True
        )
    )
    rule = ResizeRule(*request["vit_transform"])

    def vit(image: str) -> VitSegment:
        picture = to_rgb(Image.open(folder / "images" / image))
        return VitSegment(to_pixels(rule.resize(picture)))

    def text(words: str, loss: int = 0) -> TextSegment:
        return TextSegment(pipeline.tokenizer.encode(words), loss=bool(loss))

    def sample(of: dict[str, Any]) -> Sample:
        if of["type"] == "t2i":
            return [text(of["text"]), VaeSegment(next(latents), noised=True)]
        if of["type"] == "multi_ref":
            references = [
                segment
                for image in of["images"][:-1]
                for segment in (VaeSegment(next(latents), noised=False), vit(image))
            ]
            return [*references, text(of["text"]), VaeSegment(next(latents), noised=True)]
        return [
            vit(part["image"]) if "image" in part else text(part["text"], part["loss"])
            for part in of["parts"]
        ]

    batch = pack([sample(of) for of in request["samples"]], pipeline.model.config)
    raw = tensors["in.packed_timesteps"]
    firsts = [int((batch.latent_image == i + 1).nonzero()[0]) for i in range(batch.num_noised)]
    return Case(request, result, tensors, pipeline, batch, shift_times(raw[firsts].sigmoid(), 1.0))


def forward(case: Case) -> tuple[Tensor, float, float]:
    out = case.pipeline.model(case.batch, timesteps=case.times, noise=case.tensors["noise.1"])
    counts = Counts(mse=len(case.batch.noised_rows), ce=len(case.batch.ce_rows))
    places = [torch.zeros(count, dtype=torch.long) for count in (counts.mse, counts.ce)]
    losses = sums(out.mse, out.ce, Subsets(count=1, mse=places[0], ce=places[1]))
    assert losses.mse is not None
    assert losses.ce is not None
    total = weighted(losses, counts, mse_weight=1.0, ce_weight=1.0)
    return total, losses.mse.item() / counts.mse, losses.ce.item() / counts.ce


def trained(case: Case) -> dict[str, torch.nn.Parameter]:
    named = case.pipeline.model.named_parameters()
    return {name: p for name, p in named if name in case.result["grad_norm"]}


def test_losses_and_gradients_of_the_mixed_batch(shared):
    case = load_case(shared, "e1_train_mixed")
    total, mse, ce = forward(case)
    expected = case.result["loss"]
    assert mse == pytest.approx(expected["mse"], rel=1e-5)
    assert ce == pytest.approx(expected["ce"], rel=1e-5)
    assert total.item() == pytest.approx(expected["total"], rel=1e-5)
    total.backward()
    norms = case.result["grad_norm"]
    parameters = trained(case)
    assert len(parameters) == len(norms)
    for name, parameter in parameters.items():
        found = 0.0 if parameter.grad is None else parameter.grad.norm().item()
        assert found == pytest.approx(norms[name], rel=1e-4, abs=1e-5), name
    assert {parameter_group(name) for name in parameters} == {
        *("und", "gen", "vit", "embeddings", "heads")
    }


def test_optimiser_steps_and_moving_average(shared):
    case = load_case(shared, "e5_train_opt_steps")
    asked = case.request["opt"]
    config = override(
        echo4o_7b(),
        [
            *(f"learning_rate={asked['lr']}", f"warmup_steps={asked['warmup']}"),
            f"ema_decay={asked['ema']}",
        ],
    )
    state = Trained(trained(case), config)
    for step, expected in enumerate(case.result["opt_trace"]):
        total, _, _ = forward(case)
        assert total.item() == pytest.approx(expected["loss"], rel=1e-4)
        total.backward()
        assert state.clip(config.max_grad_norm) == pytest.approx(expected["total_norm"], rel=1e-4)
        rate = learning_rate(step, config)
        assert rate == pytest.approx(expected["lr_used"])
        state.step(rate)
    for prefix, found in (("after.", state.weights()), ("ema_after.", state.average())):
        names = [n.removeprefix(prefix) for n in case.tensors if n.startswith(prefix)]
        assert names
        for name in names:
            # Adam divides tiny gradients by their own size: isolated elements may differ by a step.
            wrong = (found[name] - case.tensors[prefix + name]).abs() > asked["lr"] * 0.05
            assert wrong.float().mean() < 0.002, name
