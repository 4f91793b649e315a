"""Fixtures of training: rows, an untrained autoencoder, a model of a few milliseconds, a run."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from encoded_runs import TRIED
from training_rows import make_row, write_dataset

from echo4o.training.autoencoder import tiny_autoencoder
from echo4o.training.config import TrainConfig
from echo4o.training.overrides import override
from echo4o.training.recipes import tiny
from echo4o.training.train import train

SETTINGS = (
    *("tiny.hidden_size=32", "tiny.layers=2", "tiny.heads=2", "tiny.kv_heads=1"),
    *("tiny.intermediate_size=64", "tiny.vit_hidden_size=16", "tiny.vit_layers=1"),
    *("tiny.vit_heads=2", "tiny.vit_intermediate_size=32", "tiny.vocab_size=400"),
    *("tiny.picture_side=32", "tiny.vit_side=28"),
    *(
        "samples_per_pack=4",
        "packs_per_step=1",
        "noise_draws=1",
        "steps=12",
        "checkpoint_every=4",
        "log_every=1000",
    ),
    *("sample_every=0", "warmup_steps=2", "sample_steps=2"),
)


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 rows: 12 from text alone, 6 with one or two references."""
    rows = [make_row(n) for n in range(12)]
    rows += [make_row(12 + n, references=1 + n % 2) for n in range(6)]
    return write_dataset(tmp_path_factory.mktemp("mixed"), rows)


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """`--set` values of a model that takes a few milliseconds a step; its autoencoder is random."""
    folder = tmp_path_factory.mktemp("autoencoder")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = tiny_autoencoder()
    # Untrained, its latents would be almost pure sampling noise: nothing could be learned.
    with torch.no_grad():
        vae.encoder.conv_out.weight[:16] *= 8
        vae.encoder.conv_out.weight[16:] *= 0
        vae.encoder.conv_out.bias[16:] = -8
    vae.save_pretrained(folder)
    return [*SETTINGS, f"autoencoder={folder}"]


@pytest.fixture(scope="session")
def finished(settings: list[str], mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of `config`, to be copied and not to be touched."""
    out = tmp_path_factory.mktemp("finished") / "run"
    train(override(tiny(), [*settings, f"data={mixed}"]), out)
    return out


@pytest.fixture
def config(settings: list[str], mixed: Path) -> TrainConfig:
    """The recipe `tiny`, much smaller, on the mixed rows."""
    return override(tiny(), [*settings, f"data={mixed}"])


@pytest.fixture(scope="session")
def config_of(
    settings: list[str], mixed: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], TrainConfig]:
    """The small run of a family of `TRIED`; nothing it encodes lies on disk."""
    nothing = tmp_path_factory.mktemp("store") / "none"
    own = (settings[-1], f"data={mixed}", f"latent_store={nothing}")
    return lambda family: override(TRIED[family].recipe(), [*TRIED[family].words, *own])


@pytest.fixture(scope="session")
def run_of(
    config_of: Callable[[str], TrainConfig], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folder of that run, finished, to be copied and not to be touched."""

    @functools.cache
    def run(family: str) -> Path:
        out = tmp_path_factory.mktemp(family) / "run"
        train(config_of(family), out)
        return out

    return run
