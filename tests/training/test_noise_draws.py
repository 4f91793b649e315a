"""Several noised copies of a target: each counts as if it were alone with its text."""

import statistics

import pytest
import torch

from echo4o.training import draws
from echo4o.training.bagel import BagelBatch, BagelFamily, open_family
from echo4o.training.config import TrainConfig
from echo4o.training.data import load_rows
from echo4o.training.order import Visit
from echo4o.training.overrides import override

KEEP = ["drop_text=0", "drop_vit=0", "drop_vae=0"]


def make_family(config: TrainConfig, tmp_path, *changes: str) -> BagelFamily:
    config = override(config, [*KEEP, *changes])
    family = open_family(config, load_rows(config), tmp_path, device=torch.device("cpu"))
    family.prepare()
    # The velocity head of an untrained model is zero, which would hide what a copy sees.
    with torch.no_grad():
        family.model.llm2vae.weight.normal_(generator=torch.Generator().manual_seed(0))
    return family


def collate(family: BagelFamily, row: int) -> BagelBatch | None:
    return family.collate([family.load(Visit(row, 0))])


@pytest.mark.parametrize("row", [3, 17])
def test_each_copy_gives_the_errors_that_it_has_alone(config: TrainConfig, tmp_path, row):
    many = collate(make_family(config, tmp_path, "noise_draws=3"), row)
    alone = collate(make_family(config, tmp_path), row)
    assert many is not None
    assert alone is not None
    assert many.packed.latent_noised[-3:] == [True, True, True]
    assert len(set(many.timesteps.tolist())) == 3
    assert many.timesteps[0] == alone.timesteps[0]
    found = many.model(many.packed, timesteps=many.timesteps, noise=many.noise).mse
    cells = alone.packed.latent_lens[-1]
    references = len(alone.noise) - cells
    for copy, errors in enumerate(found.split(cells)):
        own = many.noise[references + copy * cells :][:cells]
        noise = torch.cat((alone.noise[:references], own))
        single = alone.model(alone.packed, timesteps=many.timesteps[copy : copy + 1], noise=noise)
        torch.testing.assert_close(errors, single.mse, atol=1e-5, rtol=1e-5)


def test_copies_count_as_tokens(config: TrainConfig, tmp_path):
    one, three = make_family(config, tmp_path), make_family(config, tmp_path, "noise_draws=3")
    batch = collate(three, 3)
    assert batch is not None
    assert three.length(3) == batch.tokens == (one.length(3) or 0) + 2 * 6


def test_spread_normals_cover_the_line():
    found = [draws.spread_normals(4, visit) for visit in range(500)]
    assert all(numbers[0] == draws.normal(visit) for visit, numbers in enumerate(found))
    quarters = statistics.NormalDist().quantiles(4)
    for numbers in found:
        assert sorted(sum(number > quarter for quarter in quarters) for number in numbers) == [
            *range(4)
        ]
    everything = [number for numbers in found for number in numbers]
    assert statistics.fmean(everything) == pytest.approx(0, abs=0.05)
    assert statistics.stdev(everything) == pytest.approx(1, abs=0.05)
