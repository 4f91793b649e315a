"""Other ways to run the model: attention back-ends, compilation, 8 and 4 bits, weights elsewhere.

What needs a GPU is marked `gpu` and unverified: nobody has run it yet.
"""

import accelerate
import numpy as np
import pytest
import torch
from diffusers.hooks import apply_group_offloading
from PIL import Image
from tiny_pipeline import make_pipeline
from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, IntxWeightOnlyConfig
from transformers import TorchAoConfig

from echo4o import Echo4oPipeline
from echo4o.errors import Echo4oError
from echo4o.models.bagel import functional

CPU = torch.device("cpu")
CALL = {"num_inference_steps": 2, "output_type": "latent"}


def edited(pipe) -> torch.Tensor:
    """A picture that uses both experts, the vision tower and the autoencoder's encoder."""
    noise = np.random.default_rng(4).integers(0, 255, (32, 48, 3), dtype=np.uint8)
    seed = torch.Generator().manual_seed(1)
    return pipe("a hat", Image.fromarray(noise), generator=seed, **CALL).images[0]


def drawn(pipe) -> torch.Tensor:
    """A picture with few shapes of tensors: what is compiled takes half a minute for each."""
    seed = torch.Generator().manual_seed(1)
    return pipe("a hat", height=32, width=48, generator=seed, **CALL).images[0]


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "made"), [("eager", edited), ("flex_attention", drawn)])
def test_attention_backends_agree(pipe, backend, made):
    other = make_pipeline()
    other.model.set_attn_implementation(backend)
    torch.testing.assert_close(made(other), made(pipe), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_step_gives_the_same_numbers(pipe):
    compiled = make_pipeline()
    compiled.model.language_model.model.compile()
    torch.testing.assert_close(drawn(compiled), drawn(pipe), rtol=0, atol=1e-4)


OFFLOADS = {
    "whole parts": lambda p: p.enable_model_cpu_offload(device=CPU),
    "groups of leaves": lambda p: p.enable_group_offload(
        onload_device=CPU, offload_device=CPU, offload_type="leaf_level"
    ),
    "groups of blocks": lambda p: apply_group_offloading(
        p.model,
        onload_device=CPU,
        offload_device=CPU,
        offload_type="block_level",
        num_blocks_per_group=1,
    ),
    "every layer": lambda p: accelerate.cpu_offload(p.model, execution_device=CPU),
}


@pytest.mark.parametrize("way", OFFLOADS)
def test_weights_that_lie_elsewhere_give_the_same_picture(pipe, way):
    offloaded = make_pipeline()
    OFFLOADS[way](offloaded)
    assert torch.equal(edited(offloaded), edited(pipe))
    assert offloaded.understand(None, "why?", max_new_tokens=3) == pipe.understand(
        None, "why?", max_new_tokens=3
    )


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without one")
@pytest.mark.parametrize("device", [None, "cpu"])
def test_offloading_from_nowhere_is_refused_in_words(device):
    pipe = make_pipeline()
    with pytest.raises(Echo4oError, match="none is visible; leave it out"):
        pipe.enable_sequential_cpu_offload(device=device)
    if device is None:
        with pytest.raises(Echo4oError, match="none is visible; leave it out"):
            pipe.enable_model_cpu_offload()
    assert torch.isfinite(edited(pipe)).all()


@pytest.mark.parametrize("layout", ["ours", "authors"])
@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (Int8WeightOnlyConfig(), 0.03),
        (TorchAoConfig(Int8WeightOnlyConfig()), 0.03),
        (IntxWeightOnlyConfig(weight_dtype=torch.int4), 0.5),
    ],
)
def test_quantised_weights_stay_close(pipe, layout, config, limit, request):
    small = Echo4oPipeline.from_pretrained(
        request.getfixturevalue(layout), quantization_config=config
    )
    assert type(small.model.language_model.model.layers[0].mlp.up_proj.weight) is not (
        torch.nn.Parameter
    )
    exact, close = edited(pipe), edited(small)
    assert 1e-5 < (close - exact).norm() / exact.norm() < limit


@pytest.mark.parametrize(("limit", "value"), [("ONEDNN_VALUES", 0), ("FEW", 2**40)])
def test_faster_products_are_the_same_and_leave_quantised_weights_alone(
    pipe, ours, monkeypatch, limit, value
):
    small = Echo4oPipeline.from_pretrained(ours, quantization_config=Int8WeightOnlyConfig())
    monkeypatch.setattr(functional, "ONEDNN_VALUES", 2**40)
    monkeypatch.setattr(functional, "FEW", 0)
    before = edited(pipe), edited(small)
    monkeypatch.setattr(functional, limit, value)
    torch.testing.assert_close(edited(pipe), before[0], rtol=0, atol=1e-5)
    used = limit == "FEW" or functional._has_onednn()
    assert torch.equal(edited(pipe), before[0]) is not used, "it was not used"
    torch.testing.assert_close(edited(small), before[1], rtol=0, atol=1e-5)


def test_moving_and_placing(pipe, ours):
    for placed in (
        Echo4oPipeline.from_pretrained(ours, device_map="auto"),
        Echo4oPipeline.from_pretrained(ours, device_map="cpu"),
        make_pipeline().to("cpu"),
    ):
        assert torch.equal(edited(placed), edited(pipe))


@pytest.mark.gpu
def test_packed_int4_runs(ours, pipe):
    packed = Echo4oPipeline.from_pretrained(
        ours,
        dtype=torch.bfloat16,
        device_map="cuda",
        quantization_config=Int4WeightOnlyConfig(group_size=32),
    )
    assert torch.isfinite(edited(packed)).all()


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["balanced", "model", "sequential", "group"])
def test_a_gpu_gives_the_picture_of_the_cpu(ours, pipe, way):
    loaded = Echo4oPipeline.from_pretrained(ours, device_map=way if way == "balanced" else None)
    if way == "model":
        loaded.enable_model_cpu_offload()
    elif way == "sequential":
        loaded.enable_sequential_cpu_offload()
    elif way == "group":
        loaded.enable_group_offload(
            onload_device=torch.device("cuda"), offload_type="leaf_level", use_stream=True
        )
    torch.testing.assert_close(edited(loaded).cpu(), edited(pipe), rtol=0, atol=1e-3)
