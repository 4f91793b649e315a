"""Encoded pictures on disk: made once, found by content, whole or not at all."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from training_rows import make_question, make_row, write_dataset

from echo4o.models.bagel.processor import ResizeRule
from echo4o.training import examples, store
from echo4o.training.caching import fill_store
from echo4o.training.config import TrainConfig
from echo4o.training.latents import Moments
from echo4o.training.overrides import override
from echo4o.training.store import DiskShelf, Key
from echo4o.training.train import train

RULE = ResizeRule(32, 16, 16)


def moments(seed: int) -> Moments:
    rng = np.random.default_rng(seed)
    mean, std = rng.normal(size=(2, 16, 4, 4)).astype(np.float32)
    return Moments(mean, std)


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "loss.jsonl").open()]


def test_what_is_put_is_found_again(tmp_path):
    shelf = DiskShelf(tmp_path / "store")
    pixels = np.arange(28 * 14 * 3, dtype=np.uint8).reshape(28, 14, 3)
    keys = [Key(f"{n:064x}", RULE) for n in range(5)]
    for n, key in enumerate(keys):
        shelf.put_moments(key, moments(n))
        shelf.put_pixels(key, pixels + n)
    assert shelf.moments(keys[0]) is None
    shelf.flush()
    for found in (shelf, DiskShelf(tmp_path / "store")):
        assert len(found) == 10
        for n, key in enumerate(keys):
            got = found.moments(key)
            assert got is not None
            assert all(np.array_equal(a, b) for a, b in zip(got, moments(n), strict=True))
            assert np.array_equal(found.pixels(key), pixels + n)
    for other in ((64, 16, 16), (32, 32, 16), (32, 16, 32), (32, 16, 16, 900)):
        assert shelf.moments(keys[0]._replace(rule=ResizeRule(*other))) is None, other
    assert shelf.pixels(keys[0]._replace(images=2)) is None
    assert shelf.moments(Key("f" * 64, RULE)) is None


def test_files_are_written_whole_as_they_fill_up(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(store, "_PART_BYTES", 5000)
    shelf = DiskShelf(tmp_path)
    for n in range(7):
        shelf.put_moments(Key(f"{n:064x}", RULE), moments(n))
    parts = sorted(tmp_path.glob("part-*.arrow"))
    assert len(parts) == 2  # three pictures of 2 KB each; the seventh waits
    assert not list(tmp_path.glob(".*"))
    parts[0].write_bytes(parts[0].read_bytes()[:900])
    again = DiskShelf(tmp_path)
    assert len(again) == 3
    assert "is damaged and left out" in caplog.text


@pytest.fixture
def cached(config: TrainConfig, tmp_path, monkeypatch) -> TrainConfig:
    """Drawn rows and questions, whose pictures are in a store of their own."""
    rows = [make_row(n, references=n % 3) for n in range(6)] + [make_question(6, pictures=2)]
    data = write_dataset(tmp_path / "rows", rows)
    return override(config, [f"data={data}", f"latent_store={tmp_path / 'store'}", "steps=6"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "memory", [pytest.param("latent_cache_mb=64", marks=pytest.mark.slow), "latent_cache_mb=0"]
)
def test_a_run_takes_its_pictures_from_disk(cached, tmp_path, monkeypatch, memory, caplog):
    cached = override(cached, [memory])
    train(cached, tmp_path / "plain")
    filled = fill_store(cached, tmp_path / "cache")
    assert (filled.rows, filled.skipped) == (7, 0)
    before = {path: path.stat().st_mtime_ns for path in filled.folder.iterdir()}

    def fail(*_: object) -> None:
        raise AssertionError("a picture was decoded")

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(examples, "decode_picture", fail)
    train(cached, tmp_path / "run")
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "plain"), abs=1e-5)
    assert "encoded pictures are on disk" in caplog.text
    # Again: everything is there, nothing is written.
    fill_store(cached, tmp_path / "cache")
    assert {path: path.stat().st_mtime_ns for path in filled.folder.iterdir()} == before


def test_another_autoencoder_or_padding_does_not_use_it(cached, tmp_path, settings):
    from echo4o.training.tiny import load_autoencoder

    vae = load_autoencoder(cached.autoencoder)

    def name() -> str:
        return store.autoencoder_hash(vae)

    first = store.store_folder(cached, name())
    assert store.open_store(cached, name) is None
    with torch.no_grad():
        vae.encoder.conv_out.bias += 1e-3
    assert store.store_folder(cached, name()) != first
    (tmp_path / "store").mkdir()
    assert store.open_store(cached, name) is not None
    assert store.open_store(override(cached, ["pad_pictures=true"]), name) is None


def test_the_store_lies_beside_the_cached_dataset(config):
    from datasets import config as settings

    for data in (str(config.data), "org/name"):
        folder = store._store_root(override(config, [f"data={data}"]))
        assert folder.is_relative_to(settings.HF_DATASETS_CACHE)
    assert folder.name == "org--name"
