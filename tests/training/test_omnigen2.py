"""OmniGen2 as a family: its losses, dropped references, every way to draw."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from encoded_runs import batch_of, family_of, pixels
from PIL import ExifTags, Image
from torch.nn import functional as F
from training_rows import make_question, make_row, write_dataset

from echo4o.models.omnigen2 import OmniGen2Pipeline
from echo4o.models.pixels import to_rgb
from echo4o.training.config import TrainConfig
from echo4o.training.data import TrainRow, decode_picture
from echo4o.training.omnigen2_rows import OmniGen2Codec
from echo4o.training.overrides import SettingError, override
from echo4o.training.parts import OmniGen2Settings
from echo4o.training.recipes import RECIPES, omnigen2, tiny_omnigen2

CPU = torch.device("cpu")


@pytest.fixture
def config(config_of: Callable[[str], TrainConfig]) -> TrainConfig:
    return config_of("omnigen2")


@pytest.fixture
def run(run_of: Callable[[str], Path]) -> Path:
    return run_of("omnigen2")


def test_the_loss_is_the_velocity_error_over_latent_values(
    config: TrainConfig, run: Path, tmp_path: Path
):
    family = family_of(override(config, ["drop_text=0"]), run / "base", tmp_path)
    # None, one and two references: what has as many goes through the model together.
    batch = batch_of(family, 0, 12, 1, 13)
    assert [len(own) for own in batch.references] == [0, 1, 0, 2]
    found = batch.losses()
    total = 0.0
    of_subset = [0.0, 0.0]
    for place, seen in enumerate(batch.references):
        clean, noise, time = batch.targets[place], batch.noise[place], batch.times[place]
        velocity = family.model(
            [time * clean + (1 - time) * noise],
            time[None],
            batch.texts[place][None],
            torch.ones(1, len(batch.texts[place])),
            [batch.references[place]],
        )[0]
        error = F.mse_loss(velocity, clean - noise, reduction="sum").item()
        total += error / (4 * 16)
        of_subset[bool(seen)] += error / (4 * 16)
    assert found.mse is not None
    assert found.mse.item() == pytest.approx(total, rel=1e-5)
    assert sorted(found.by_subset[0].tolist()) == pytest.approx(sorted(of_subset), rel=1e-5)
    # 32 px: a latent of 4 x 4, patches of 2 x 2.
    assert batch.counts.mse == 4 * 4
    assert batch.tokens == sum(map(len, batch.texts)) + (4 + 3) * 4
    assert found.by_subset[1].sum() == batch.counts.mse
    assert {float(t) for t in batch.times}.isdisjoint(
        {float(t) for t in batch_of(family, 0, 12, 1, 13, visit=1).times}
    )


def test_a_dropped_text_may_take_its_references_along(
    config: TrainConfig, run: Path, tmp_path: Path
):
    family = family_of(override(config, ["drop_text=1"]), run / "base", tmp_path)
    empty = family._pipeline.encode_text([""])[0]
    seen = [batch_of(family, 13, visit=visit) for visit in range(12)]
    assert all(len(one.texts[0]) == len(empty) for one in seen)
    counts = [len(one.references[0]) for one in seen]
    assert set(counts) == {0, 2}
    assert 2 <= counts.count(0) <= 10  # about half of them


@pytest.mark.parametrize("references", [0, 1, 3])
def test_a_trained_model_draws_in_every_mode(run: Path, references: int):
    pipe = OmniGen2Pipeline.from_pretrained(run / "model")
    seen = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "white")]
    drawn = pixels(pipe, image=seen[:references] or None, height=32, width=32)
    assert drawn.shape == (32, 32, 3)
    assert drawn.std() > 0.01


def test_rows_it_cannot_learn_are_counted(config: TrainConfig, run: Path, tmp_path: Path):
    rows = [make_row(0), make_question(1), make_row(2, references=6)]
    data = write_dataset(tmp_path / "data", rows)
    family = family_of(override(config, [f"data={data}"]), run / "base", tmp_path)
    assert family.prepare() == [0]
    assert sorted(family._rows.skipped) == [
        "it has more than 5 references",
        "it has no picture to draw, which is all that OmniGen2 learns",
    ]
    assert family.length(0) == len(batch_of(family, 0).texts[0]) + 4


@pytest.mark.parametrize(
    "word", ["noise_draws=2", "layout=bagel", "lora.experts=und", "freeze=vit"]
)
def test_settings_of_other_families_are_refused(word: str):
    with pytest.raises(ValueError, match=r"ha(s|ve) no meaning for omnigen2|unknown groups"):
        override(tiny_omnigen2(), [word])
    with pytest.raises(SettingError, match="trains another family"):
        override(RECIPES["tiny"](), ["omnigen2.max_side=32"])


def test_the_released_recipe_keeps_its_numbers():
    recipe = omnigen2()
    assert (recipe.learning_rate, recipe.steps, recipe.weight_decay) == (8e-7, 4000, 0.01)
    assert recipe.omnigen2 is not None
    assert recipe.omnigen2.reference_pixels[2] == 768**2


@pytest.mark.parametrize(
    ("kind", "orientation"), [("JPEG", 6), ("PNG", 8), ("WEBP", 5), ("PNG", 3)]
)
def test_a_photo_that_lies_on_its_side_keeps_its_proportions(kind: str, orientation: int):
    """As phones write them: wide pixels and a note that the picture is tall."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    Image.new("RGB", (96, 48), "red").save(file, kind, exif=exif.tobytes())
    row = TrainRow(0, "a", "a red wall", (), file.getvalue(), None)
    codec = OmniGen2Codec(None, OmniGen2Settings())
    (wanted,) = codec.wanted(row)
    seen = to_rgb(decode_picture(file.getvalue()))
    assert wanted.size == seen.size == ((96, 48) if orientation < 5 else (48, 96))
