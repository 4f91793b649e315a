"""BLIP3-o as a family: its losses, features in memory and on disk, what it cannot learn."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from encoded_runs import batch_of, family_of, losses
from training_rows import make_question, make_row, write_dataset

from echo4o.errors import Echo4oError
from echo4o.models.blip3o import Blip3oPipeline
from echo4o.models.blip3o.tower import EvaTower
from echo4o.training import draws
from echo4o.training.blip3o_rows import Blip3oCodec, Tower
from echo4o.training.caching import fill_store
from echo4o.training.config import TrainConfig
from echo4o.training.data import decode_picture, load_rows
from echo4o.training.encoded import Key
from echo4o.training.order import Visit
from echo4o.training.overrides import SettingError, override
from echo4o.training.parts import Blip3oSettings
from echo4o.training.recipes import RECIPES, blip3o_dit, tiny_blip3o
from echo4o.training.store import DiskShelf
from echo4o.training.train import _trained, train

CPU = torch.device("cpu")


@pytest.fixture
def config(config_of: Callable[[str], TrainConfig]) -> TrainConfig:
    return config_of("blip3o")


@pytest.fixture
def run(run_of: Callable[[str], Path]) -> Path:
    return run_of("blip3o")


def test_the_loss_is_the_velocity_error_of_the_towers_features(
    config: TrainConfig, run: Path, tmp_path: Path
):
    family = family_of(override(config, ["drop_text=0.5"]), run / "base", tmp_path)
    batch = batch_of(family, 0, 1, 2, 3)
    pipe = Blip3oPipeline.from_pretrained(run / "base")
    tower = EvaTower.open(str(run / "base/vision_tower"))
    dropped, total = 0, 0.0
    for row in range(4):
        cells = load_rows(config)[row]
        assert cells.target is not None
        clean = tower.features([decode_picture(cells.target)])
        assert torch.allclose(clean[0], batch.features[row], atol=1e-5)
        text = f"<|im_start|>system\n<|im_end|>\n<|im_start|>user\n{cells.instruction}<|im_end|>\n"
        condition = pipe.encode_texts([text + "<|im_start|>assistant\n"])
        without = not batch.condition()[row].any()
        dropped += without
        for copy in (2 * row, 2 * row + 1):
            sigma, noise = batch.sigmas[copy], batch.noise[copy]
            velocity = pipe.transformer(
                (1 - sigma) * clean + sigma * noise,
                sigma[None],
                torch.zeros_like(condition) if without else condition,
            )[0]
            total += (velocity - (noise - clean[0])).square().mean(-1).sum().item()
    assert 0 < dropped < 4
    found = batch.losses()
    assert found.mse is not None
    assert found.mse.item() == pytest.approx(total, rel=1e-4)
    assert batch.counts.mse == 4 * 2 * 4  # four rows, two copies, a grid of two by two
    # Copies of one row lie half the scale apart, on the thousand levels of the released recipe.
    first, second = (1000 * batch.sigmas).round().view(4, 2).T
    assert set((first - second).abs().tolist()) <= {499.0, 500.0, 501.0}
    places = [draws.uniform(*family.key(Visit(row, 0), "time")) for row in range(4)]
    assert first.tolist() == [int(1000 * place) + 1 for place in places]
    assert not torch.equal(batch.sigmas, batch_of(family, 0, 1, 2, 3, visit=1).sigmas)
    shifted = family_of(override(config, ["timestep_shift=3"]), run / "base", tmp_path)
    wanted = 3 * batch.sigmas / (1 + 2 * batch.sigmas)
    assert torch.allclose(batch_of(shifted, 0, 1, 2, 3).sigmas, wanted, atol=4e-3)


def test_frozen_queries_spare_the_way_back_through_the_text_model(
    config: TrainConfig, run: Path, tmp_path: Path
):
    for word, wanted in (("freeze=queries", False), ("freeze=heads", True)):
        changed = override(config, [word])
        family = family_of(changed, run / "base", tmp_path)
        trained = _trained(family, changed)
        assert ("latent_queries" in trained) == wanted
        assert batch_of(family, 0).condition().requires_grad == wanted
        assert any(name.startswith("dit.norm_out.") for name in trained) != wanted


def test_rows_with_references_are_counted_in_the_record(run: Path):
    record = json.loads((run / "record.json").read_text())
    reason = "it has references, and BLIP3-o draws from text alone"
    assert record["metrics"]["rows_skipped"] == {reason: 6}


def fail(*_: object, **__: object) -> None:
    raise AssertionError("the tower was opened")


def test_features_may_stay_on_disk(
    run: Path, config: TrainConfig, tmp_path: Path, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    config = override(config, ["latent_cache_mb=0"])
    cached = override(config, [f"latent_store={tmp_path / 'store'}"])
    for name, settings in {"tower": config, "disk": cached}.items():
        shutil.copytree(run / "base", tmp_path / name / "base")
        if name == "disk":
            fill_store(cached, tmp_path / name)
            monkeypatch.setattr(EvaTower, "open", fail)
        assert train(settings, tmp_path / name).finished
    wanted = pytest.approx(losses(tmp_path / "tower"), rel=1e-5)
    assert losses(tmp_path / "disk") == wanted
    assert caplog.text.count("opening the vision tower") == 2  # to train, and to fill the store


def test_features_in_bfloat16_are_kept_as_they_are(run: Path, tmp_path: Path):
    settings = Blip3oSettings(tower_side=32)
    towers = [
        Tower(settings, run / "base", dtype=dtype, device=CPU)
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert towers[0].name != towers[1].name
    (found,) = towers[1].features([np.full((32, 32, 3), 200, np.uint8)])
    assert found.dtype == torch.bfloat16
    shelf, key, codec = DiskShelf(tmp_path), Key("0" * 64, (32, 32)), Blip3oCodec(towers[1])
    codec.keep(shelf, key, found)
    shelf.flush()
    again = codec.find(DiskShelf(tmp_path), key)
    assert again is not None
    assert torch.equal(again, found)
    assert codec.find(shelf, Key("1" * 64, (32, 32))) is None
    wrong = Tower(Blip3oSettings(), run / "base", dtype=torch.float32, device=CPU)
    with pytest.raises(Echo4oError, match=r"sees pictures of 32 pixels, and .* is 448"):
        wrong.features([np.zeros((448, 448, 3), np.uint8)])


def test_rows_it_cannot_learn_are_counted(config: TrainConfig, run: Path, tmp_path: Path):
    rows = [make_row(0), make_question(1, pictures=0), make_row(2, references=2)]
    rows += [make_row(3) | {"output_image": {"bytes": b"no picture", "path": "x.png"}}]
    data = write_dataset(tmp_path / "data", rows)
    family = family_of(override(config, [f"data={data}"]), run / "base", tmp_path)
    assert family.prepare() == [0]
    assert [family.length(row) for row in (1, 2, 3)] == [None] * 3
    assert sorted(family._rows.skipped) == [
        "a picture does not decode",
        "it has no picture to draw, which is all that BLIP3-o learns",
        "it has references, and BLIP3-o draws from text alone",
    ]
    assert family.length(0) == batch_of(family, 0).tokens


@pytest.mark.parametrize("most", [4, 512])
def test_tokens_are_those_that_the_text_model_reads(
    config: TrainConfig, run: Path, tmp_path: Path, most: int
):
    family = family_of(override(config, [f"blip3o.max_text_tokens={most}"]), run / "base", tmp_path)
    read = []
    family._pipeline.mllm.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["inputs_embeds"].shape[1]),
        with_kwargs=True,
    )
    batch = batch_of(family, 0)
    batch.condition()
    assert batch.text_tokens == read[0]
    assert (batch.text_tokens == 4 + 1 + 6) == (most == 4)  # the image token and six queries


def test_the_tower_gives_its_memory_back(config: TrainConfig, run: Path, tmp_path: Path):
    for words, is_open in (([], False), (["latent_cache_mb=0"], True)):
        family = family_of(override(config, words), run / "base", tmp_path)
        batch_of(family, 0)
        assert (family._tower._tower is not None) == is_open


def test_the_subset_with_references_is_refused():
    with pytest.raises(ValueError, match="BLIP3-o draws from text alone; take it out"):
        override(blip3o_dit(), ["mixture=surreal_fantasy:1,multi_reference:1"])
    assert dict(blip3o_dit().mixture) == {"surreal_fantasy": 1, "instruction_following": 1}


@pytest.mark.parametrize("word", ["layout=bagel", "drop_vit=0.1", "freeze=vit", "ce_weight=2"])
def test_settings_of_other_families_are_refused(word: str):
    with pytest.raises(ValueError, match=r"has no meaning for blip3o|unknown groups"):
        override(tiny_blip3o(), [word])
    with pytest.raises(SettingError, match="trains another family"):
        override(RECIPES["tiny_omnigen2"](), ["blip3o.tower_side=32"])


def test_the_released_recipe_keeps_its_numbers():
    recipe = blip3o_dit()
    assert (recipe.learning_rate, recipe.steps, recipe.weight_decay) == (1e-4, 10_000, 0.0)
    assert (recipe.drop_text, recipe.samples_per_pack, recipe.schedule) == (0.1, 16, "cosine")
