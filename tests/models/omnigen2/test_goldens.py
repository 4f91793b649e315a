"""The recorded outputs of the released code: forwards, guidance loops, sizes and times."""

import json
import re

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file

from echo4o.models.omnigen2.denoising import (
    Conditions,
    DoubleGuidance,
    denoise,
    sampling_times,
    training_times,
)
from echo4o.models.omnigen2.processor import reference_size
from echo4o.models.omnigen2.transformer import OmniGen2Transformer2DModel

pytestmark = pytest.mark.shared

RULES = {("v1", True): "by_tokens", ("v2", True): "as_sampling", ("v1", False): "constant"}


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "goldens" / "omnigen2"


@pytest.fixture(scope="module")
def transformer(folder):
    config = json.loads((folder / "transformer_config.json").read_text())
    model = OmniGen2Transformer2DModel(**config).eval()
    model.load_state_dict(load_file(folder / "transformer.safetensors"))
    return model


def read(folder, name):
    cases = json.loads((folder / f"{name}.json").read_text())
    return cases, load_file(folder / f"{name}.safetensors")


@torch.no_grad()
def test_forwards(folder, transformer):
    cases, tensors = read(folder, "transformer_cases")
    for case in cases:
        name, count = case["name"], len(case["sizes"])
        latents = [tensors[f"{name}.x.{b}"] for b in range(count)]
        references = [
            None if sizes is None else [tensors[f"{name}.ref.{b}.{k}"] for k in range(len(sizes))]
            for b, sizes in enumerate(case["refs"])
        ]
        rest = [tensors[f"{name}.{part}"] for part in ("t", "text", "mask")]
        found = transformer(latents, *rest, references)
        for b, velocity in enumerate(found):
            torch.testing.assert_close(velocity, tensors[f"{name}.out.{b}"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_guidance_loops(folder, transformer):
    cases, tensors = read(folder, "cfg_cases")
    scale, shift = map(float, re.findall(r"0\.\d+", cases["note"]))
    for case in cases["cases"]:
        number = case["case"]
        references = [tensors[f"{number}.ref.{k}"] for k in range(len(case["refs"] or []))]
        guidance = DoubleGuidance(
            text_scale=case["text_guidance"],
            image_scale=case["image_guidance"],
            interval=tuple(case["cfg_range"]),
        )
        final = denoise(
            transformer,
            FlowMatchEulerDiscreteScheduler(),
            tensors[f"{number}.lat"],
            [Conditions(tensors[f"{number}.pe"][0], tensors[f"{number}.ne"][0], references)],
            guidance,
            case["steps"],
        )
        # Recorded behind an identity decoder that divides, and so enlarges rounding by 2.8.
        recorded = (tensors[f"{number}.final_over_scale_plus_shift"] - shift) * scale
        torch.testing.assert_close(final, recorded, atol=1e-5, rtol=0)


def test_sizes(folder):
    rows = json.loads((folder / "scalar_cases.json").read_text())["image_resize"]
    assert [list(reference_size(*row[:4])) for row in rows] == [row[4:] for row in rows]


def test_times(folder):
    cases = json.loads((folder / "scalar_cases.json").read_text())
    for case in cases["scheduler"]:
        found = sampling_times(case["steps"], (case["num_tokens"], 1))
        assert [*found.tolist(), 1.0] == case["timesteps"]
    for case in cases["train_time"]:
        rule = RULES[case["version"], case["dynamic"]]
        for size, draw, time in zip(case["latent_hw"], case["u"], case["t"], strict=True):
            found = training_times(torch.tensor(draw), size, rule)
            assert found.item() == pytest.approx(time, abs=1e-6)


def test_full_size_counts():
    with torch.device("meta"):
        model = OmniGen2Transformer2DModel(
            hidden_size=2520,
            num_layers=32,
            num_attention_heads=21,
            num_kv_heads=7,
            axes_dim_rope=(40, 40, 40),
            axes_lens=(10000, 10000, 10000),
            text_feat_dim=2048,
            timestep_scale=1000.0,
        )
    assert sum(value.numel() for value in model.parameters()) == 3_967_161_400
    assert len(model.state_dict()) == 582
