"""Adapters: which weights move, what is left behind, and that every way to load it is the same."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from echo4o import Echo4oPipeline
from echo4o.errors import Echo4oError
from echo4o.training.adapters import quantization
from echo4o.training.config import TrainConfig
from echo4o.training.overrides import override
from echo4o.training.parts import LoraSettings
from echo4o.training.plan import needs
from echo4o.training.recipes import echo4o_7b_lora, tiny
from echo4o.training.train import train

LORA = ["lora.rank=4", "learning_rate=0.05", "ema_decay=0.5"]


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "loss.jsonl").open()]


def drawn(pipe: Echo4oPipeline) -> np.ndarray:
    """A picture with one reference, as float pixels."""
    pipe.set_progress_bar_config(disable=True)
    reference = Image.new("RGB", (32, 32), "red")
    made = pipe(
        "A photo of a red circle",
        image=[reference],
        num_inference_steps=3,
        output_type="np",
        generator=torch.Generator().manual_seed(0),
    )
    return made.images[0]


@pytest.fixture(scope="module")
def base(settings, mixed, tmp_path_factory) -> Path:
    """A model that has learned a little: the velocity head of an untrained one is zero."""
    out = tmp_path_factory.mktemp("base")
    train(override(tiny(), [*settings, f"data={mixed}", "ema_decay=0.5"]), out)
    return out / "model"


@pytest.fixture
def config(config: TrainConfig, base: Path) -> TrainConfig:
    """The mixed rows on that base, with an adapter on the generation expert."""
    return override(config, [f"base_model={base}", *LORA])


@pytest.fixture(scope="module", params=["gen", "und"])
def run(request, settings, mixed, base, tmp_path_factory) -> Path:
    """A finished run that adapts one expert, with the merged model beside the adapter."""
    out = tmp_path_factory.mktemp(request.param) / "run"
    words = [w for w in settings if not w.startswith(("tiny.", "autoencoder"))]
    words += [*LORA, f"data={mixed}", f"base_model={base}", f"lora.experts={request.param}"]
    train(override(tiny(), [*words, "lora.merged=true"]), out)
    return out


def test_only_the_chosen_expert_is_adapted(run: Path):
    expert = run.parent.name[:3]
    adapter = load_file(run / "adapter/adapter_model.safetensors")
    assert {("moe_gen" in name) for name in adapter} == {expert == "gen"}
    assert all(tensor.any() for name, tensor in adapter.items() if "layers.0." in name)
    checkpoint = next((run / "checkpoints").iterdir()) / "weights.safetensors"
    assert set(load_file(checkpoint)) == {
        name.removeprefix("base_model.model.").replace(".weight", ".default.weight")
        for name in adapter
    }
    # Half of the way to the newest weights: the average of the adapter is saved, not the weights.
    raw = load_file(sorted((run / "checkpoints").iterdir())[-1] / "weights.safetensors")
    assert any(
        not raw[name.removeprefix("base_model.model.").replace(".weight", ".default.weight")].equal(
            tensor
        )
        for name, tensor in adapter.items()
    )


def test_peft_pipeline_and_merged_model_draw_the_same(run: Path, base: Path):
    from peft import PeftModel

    pipe = Echo4oPipeline.from_pretrained(base)
    untrained = drawn(pipe)
    pipe.load_lora_weights(run / "adapter")
    adapted = drawn(pipe)
    assert np.abs(adapted - untrained).max() > 1e-3
    other = Echo4oPipeline.from_pretrained(base)
    PeftModel.from_pretrained(other.model, run / "adapter")  # injects in place
    assert np.array_equal(drawn(other), adapted)
    merged = Echo4oPipeline.from_pretrained(run / "model")
    np.testing.assert_allclose(drawn(merged), adapted, atol=1e-5)


def test_an_adapter_alone_is_left_and_a_second_call_does_nothing(config: TrainConfig, tmp_path):
    config = override(config, ["steps=2"])
    out = tmp_path / "run"
    assert train(config, out).finished
    assert (out / "adapter/adapter_config.json").exists()
    assert not (out / "model").exists()
    before = (out / "record.json").read_bytes()
    assert train(config, out).finished
    assert (out / "record.json").read_bytes() == before
    with pytest.raises(Echo4oError, match=r"lora\.rank: 4 -> 8"):
        train(override(config, ["lora.rank=8"]), out)
    # Another base of the same name.
    other = shutil.copytree(config.base_model or "", tmp_path / "other/model")
    with (other / "model/model.safetensors").open("r+b") as file:
        file.seek(-8000, 2)
        file.write(b"\x01" * 8000)
    with pytest.raises(Echo4oError, match=r"base_model: 'model \(\w+\)' -> 'model \(\w+\)'"):
        train(override(config, [f"base_model={other}"]), out)


def test_gradients_flow_through_a_quantised_base_and_checkpointed_layers(config, tmp_path):
    config = override(config, ["steps=8", "lora.experts=gen,und"])
    train(config, tmp_path / "plain")
    train(override(config, ["gradient_checkpointing=true"]), tmp_path / "checkpointed")
    train(override(config, ["lora.quantize=int8"]), tmp_path / "int8")
    plain, checkpointed, int8 = (
        losses(tmp_path / name) for name in ("plain", "checkpointed", "int8")
    )
    assert checkpointed == pytest.approx(plain, rel=1e-5)
    assert int8 != plain
    assert int8 == pytest.approx(plain, rel=0.05)
    adapter = load_file(tmp_path / "int8/adapter/adapter_model.safetensors")
    assert all(tensor.any() for name, tensor in adapter.items() if "layers.0." in name)


def test_four_bits_without_the_hardware_end_in_a_sentence():
    if torch.cuda.is_available():
        pytest.skip("there is a device for it")
    with pytest.raises(Echo4oError, match="CUDA device and bitsandbytes"):
        quantization(LoraSettings(quantize="nf4"))


def test_the_plan_counts_adapters_only():
    found = needs(echo4o_7b_lora())
    # Rank 64 on q, k, v, o, gate, up, down of 28 layers: 64 x (in + out) each.
    widths = [3584 + 3584] * 2 + [3584 + 512] * 2 + [3584 + 18944] * 3
    assert found.trained == 28 * 64 * sum(widths)


def test_the_plan_reads_the_sizes_of_a_local_base(config: TrainConfig):
    found = needs(config)
    assert 0 < found.trained < found.frozen < 1_000_000
