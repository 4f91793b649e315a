"""What OmniGen2 and BLIP3-o share as families: resume to the last bit, adapters, pushes."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from encoded_runs import TRIED, WEIGHTS, Tried, batch_of, family_of, losses, pixels, same_run
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from training_runs import take_over, tell

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


def test_models_say_nothing_of_the_machine_they_were_made_on(run: Path, finished: Path):
    """Ours as well: diffusers notes in each part where it was loaded from."""
    for home in (run, finished):
        files = [one for one in (home / "model").rglob("*") if one.suffix in (".json", ".py")]
        assert {one.name for one in files} >= {"config.json", "model_index.json", "pipeline.py"}
        assert not [one for one in files if str(home.parent) in one.read_text("utf-8")]


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


def test_recomputed_activations_give_the_same_gradients(
    run: Path, config: TrainConfig, tmp_path: Path
):
    gradients = []
    for word, times in (("false", 1), ("true", 2)):
        trained = family_of(
            override(config, [f"gradient_checkpointing={word}"]), run / "base", tmp_path
        )
        layers = [trained.model.layers[0]]
        if "latent_queries" in trained.groups().get("queries", ()):  # the text model reads them
            layers.append(trained._pipeline.mllm.model.language_model.layers[0].self_attn)
        calls: list[nn.Module] = []
        for layer in layers:
            layer.register_forward_pre_hook(lambda module, _, calls=calls: calls.append(module))
        batch_of(trained, 0, 1).losses().mse.backward()
        assert [calls.count(layer) for layer in layers] == [times] * len(layers)
        gradients.append([p.grad for p in trained.model.parameters() if p.grad is not None])
        assert not any(p.requires_grad for p in trained._pipeline.mllm.parameters())
        assert not any(p.requires_grad for p in trained._pipeline.vae.parameters())
    for plain, again in zip(*gradients, strict=True):
        assert torch.allclose(plain, again, atol=1e-6)


def as_adapter(family: str, config: TrainConfig, run: Path, *words: str) -> TrainConfig:
    """The same, on the finished model."""
    words = (*words, f"base_model={run / 'model'}", "lora.rank=1", "autoencoder=none")
    tower = [f"blip3o.tower={run / 'base/vision_tower'}"] if family == "blip3o" else []
    return override(config, [*words, *tower])


def test_an_adapter_begins_alike_everywhere_in_float32_on_what_computes_in_bfloat16(
    family: str, run: Path, config: TrainConfig, tmp_path: Path
):
    config = as_adapter(family, config, run, "precision=bf16", "latent_cache_mb=0")
    begun = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        trained = family_of(config, run / "base", tmp_path)
        named = dict(trained.model.named_parameters())
        begun.append({name: named.pop(name) for name in [*named] if ".lora_" in name})
        assert {p.dtype for p in begun[-1].values()} == {torch.float32}
        rest = [*named.values(), *trained._pipeline.mllm.parameters()]
        assert {p.dtype for p in rest} == {torch.bfloat16}
    assert all(p.equal(begun[1][name]) for name, p in begun[0].items())


@pytest.mark.parametrize("is_adapter", [False, True], ids=["whole", "adapter"])
def test_the_work_of_a_step_is_that_of_its_matrices(
    family: str, is_adapter: bool, run: Path, config: TrainConfig, tmp_path: Path
):
    if is_adapter:
        config = as_adapter(family, config, run)
    batch = batch_of(family_of(config, run / "base", tmp_path), 0, 1)
    with FlopCounterMode(display=False) as counter:
        batch.losses().mse.backward()
    assert batch.flops == pytest.approx(counter.get_total_flops(), rel=0.15)


_LOAD = """
import sys, torch
from echo4o.models import {family}
from echo4o.training.blip3o_rows import Tower
from echo4o.training.parts import Blip3oSettings
repo, there = sys.argv[1:]
pipe = {family}.{pipeline}.from_pretrained(repo)
pipe.save_pretrained(there)
# Features of a tower on the Hub are those of one commit, whatever its branch becomes.
settings, device = Blip3oSettings(tower=repo), torch.device("cpu")
assert pipe.source_revision in Tower(settings, "none", dtype=torch.float32, device=device).name
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


@pytest.mark.slow
def test_processes_that_share_the_transformer_do_what_one_does(
    tried: Tried, config: TrainConfig, tmp_path: Path
):
    words = [f"recipe={config.recipe}", *tried.words, "packs_per_step=2"]
    words += [f"autoencoder={config.autoencoder}", f"data={config.data}"]
    jobs = {"one": {}, "two": {"world": 2}, "shared": {"world": 2, "also": ["shard=full"]}}
    stories = tell(tmp_path, words, jobs).values()
    for story in stories:
        assert set(story.statuses) == {0}, story.printed
    one, *others = (losses(story.out) for story in stories)
    assert others == [pytest.approx(one, rel=1e-4)] * 2
    files = [story.out / "model/transformer/config.json" for story in stories]
    assert len({file.read_bytes() for file in files}) == 1
