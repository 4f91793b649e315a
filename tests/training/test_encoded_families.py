"""What OmniGen2 and BLIP3-o share as families: resume to the last bit, adapters, pushes."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from encoded_runs import TRIED, WEIGHTS, Tried, losses, pixels, same_run
from safetensors.torch import load_file
from training_runs import take_over

from echo4o.errors import Echo4oError
from echo4o.models.blip3o import EvaTower
from echo4o.training.caching import fill_store
from echo4o.training.config import TrainConfig
from echo4o.training.latents import Encoder
from echo4o.training.overrides import override
from echo4o.training.train import train


@pytest.fixture(params=TRIED)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def tried(family: str) -> Tried:
    return TRIED[family]


@pytest.fixture
def run(family: str, run_of: Callable[[str], Path]) -> Path:
    return run_of(family)


@pytest.fixture
def config(family: str, config_of: Callable[[str], TrainConfig]) -> TrainConfig:
    return config_of(family)


@pytest.fixture
def resumable(run: Path, tmp_path: Path) -> Path:
    """A copy of the run as it was after step 3."""
    again = tmp_path / "again"
    take_over(run, again)
    shutil.rmtree(again / "model")
    return again


def test_training_moves_all_of_the_transformer_and_nothing_else(run: Path):
    found = losses(run)
    assert len(found) == 6
    assert min(found[-2:]) < found[0]
    before, after = load_file(run / "base" / WEIGHTS), load_file(run / "model" / WEIGHTS)
    assert before.keys() == after.keys()
    assert not [name for name in before if before[name].equal(after[name])]
    for part in ("mllm/model", "vae/diffusion_pytorch_model"):
        file = f"{part}.safetensors"
        frozen = [load_file(run / kind / file) for kind in ("base", "model")]
        assert all(tensor.equal(frozen[1][name]) for name, tensor in frozen[0].items())


def test_a_resumed_run_ends_with_the_same_bits(resumable: Path, run: Path, config: TrainConfig):
    assert train(config, resumable).finished
    assert same_run(resumable, run)


def fail(*_: object, **__: object) -> None:
    raise AssertionError("pictures were encoded")


def test_what_lies_on_disk_is_not_encoded_again(
    family: str, resumable: Path, run: Path, config: TrainConfig, tmp_path: Path, monkeypatch
):
    cached = override(config, [f"latent_store={tmp_path / 'store'}"])
    filled = fill_store(cached, resumable)
    skipped = {"omnigen2": 0, "blip3o": 6}[family]
    assert (filled.rows, filled.skipped) == (18 - skipped, skipped)
    monkeypatch.setattr(Encoder, "moments", fail)
    monkeypatch.setattr(EvaTower, "open", fail)
    assert train(cached, resumable).finished
    assert same_run(resumable, run)


def test_an_adapter_reloads_and_equals_the_merged_model(
    family: str, tried: Tried, run: Path, config: TrainConfig, tmp_path: Path
):
    words = [f"base_model={run / 'model'}", "lora.rank=4", "lora.merged=true", "autoencoder=none"]
    adapted = override(config, [*words, "learning_rate=0.05"])
    if family == "blip3o":
        with pytest.raises(Echo4oError, match=r"no vision tower .*set blip3o\.tower"):
            train(adapted, tmp_path / "run")
        adapted = override(adapted, [f"blip3o.tower={run / 'base/vision_tower'}"])
    assert train(adapted, tmp_path / "run").finished
    names = load_file(tmp_path / "run/adapter/pytorch_lora_weights.safetensors")
    assert {name.split(".")[0] for name in names} == {"transformer"}
    assert family != "omnigen2" or any("context_refiner" in name for name in names)
    if family == "blip3o":
        saved = json.loads((tmp_path / "run/config.json").read_text())
        assert saved["blip3o"]["tower"].startswith("vision_tower (")
    pipe = tried.pipeline.from_pretrained(run / "model")
    plain = pixels(pipe, **tried.drawing)
    pipe.load_lora_weights(tmp_path / "run/adapter")
    unmerged = pixels(pipe, **tried.drawing)
    merged = pixels(tried.pipeline.from_pretrained(tmp_path / "run/model"), **tried.drawing)
    assert np.abs(unmerged - merged).max() < 1e-5
    assert np.abs(unmerged - plain).max() > 1e-3


_LOAD = """
import sys
from echo4o.models import {family}
pipe = {family}.{pipeline}.from_pretrained(sys.argv[1])
assert pipe.source_revision is not None
pipe.save_pretrained(sys.argv[2])
"""


@pytest.mark.slow
def test_a_pushed_run_loads_by_its_id(
    family: str,
    tried: Tried,
    run: Path,
    config: TrainConfig,
    sandbox,
    monkeypatch,
    tmp_path: Path,
):
    for name, value in sandbox.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    shutil.copytree(run, tmp_path / "run")
    repo = f"echo4o-sandbox/{family}-tiny"
    assert train(override(config, [f"push={repo}"]), tmp_path / "run").finished
    code = _LOAD.format(family=family, pipeline=tried.pipeline.__name__)
    subprocess.run([sys.executable, "-c", code, repo, str(tmp_path / "there")], check=True)
    here, there = (
        pixels(tried.pipeline.from_pretrained(folder), **tried.drawing)
        for folder in (run / "model", tmp_path / "there")
    )
    assert np.abs(there - here).max() < 1e-5
