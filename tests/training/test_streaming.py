"""Rows that stay where they are: the same content, block after block, over HTTP too."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from training_rows import make_row, write_dataset

from echo4o import schema
from echo4o.errors import Echo4oError
from echo4o.training.config import TrainConfig
from echo4o.training.data import load_rows
from echo4o.training.order import Order, Source
from echo4o.training.overrides import override
from echo4o.training.recipes import tiny
from echo4o.training.remote import BLOCKS_TOGETHER, RemoteRows
from echo4o.training.train import train


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 rows in two files with blocks of three."""
    rows = [make_row(n, references=n % 3) for n in range(24)]
    folder = write_dataset(tmp_path_factory.mktemp("blocks"), rows)
    table = pq.read_table(folder / "data/train-00000.parquet")
    pq.write_table(table.slice(0, 15), folder / "data/train-00000.parquet", row_group_size=3)
    pq.write_table(table.slice(15), folder / "data/train-00001.parquet", row_group_size=3)
    return folder


def test_rows_are_those_of_the_loaded_dataset(config: TrainConfig, blocks):
    loaded = load_rows(override(config, [f"data={blocks}"]))
    streamed = load_rows(override(config, [f"data={blocks}", "streaming=true"]))
    assert [streamed[n] for n in range(24)] == [loaded[n] for n in range(24)]
    assert streamed.instructions() == loaded.instructions()
    assert streamed.subsets == loaded.subsets
    assert [len(block) for block in streamed.blocks()[0] or ()] == [3] * 8
    assert streamed.digest != loaded.digest


def test_every_block_is_fetched_about_once_an_epoch(monkeypatch):
    ranges = [range(start, start + 10) for start in range(0, 400, 10)]
    order = Order([Source(range(400), 1.0, ranges), Source(range(400, 420), 2.0)], seed=1)
    for epoch in (0, 1):
        visits = order.epoch(epoch)
        assert Counter(v.row for v in visits) == Counter([*range(400), *[*range(400, 420)] * 2])
        seen = [visit.row // 10 for visit in visits if visit.row < 400]
        # At any time the rows come from one group of blocks, whose blocks lie anywhere.
        groups = [set(seen[i : i + 10 * BLOCKS_TOGETHER]) for i in range(0, 400, 40)]
        assert all(len(group) == BLOCKS_TOGETHER for group in groups)
        assert max(max(group) - min(group) for group in groups) > 10
        assert seen[:40] != sorted(seen[:40])
    assert order.epoch(0) != order.epoch(1)


def test_blocks_are_read_once_each(blocks, monkeypatch):
    read: Counter[int] = Counter()
    real = pq.ParquetFile.read_row_group

    def counted(self, group, **options):
        read[group] += 1
        return real(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    files = sorted(str(path) for path in (blocks / "data").iterdir())
    rows = RemoteRows(files, ("id", "instruction"))
    assert [rows[n]["id"] for n in range(24)] == [f"row-{n:04d}" for n in range(24)]
    assert read.total() == 8


def test_what_cannot_be_streamed(config, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(Echo4oError, match="cannot be streamed"):
        load_rows(override(config, [f"data={tmp_path / 'empty'}", "streaming=true"]))


@pytest.mark.slow
def test_a_run_streams_from_the_hub_without_a_copy(sandbox, settings, blocks, tmp_path):
    name = "echo4o-sandbox/streamed-rows"
    words = [f"--set={setting}" for setting in [*settings, "streaming=true", "steps=4"]]
    words += ["--set=latent_cache_mb=0", "--set=workers=1", "--data", name]
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("HF_")},
        "HF_ENDPOINT": sandbox.hub,
        "HF_TOKEN": sandbox.token,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
    }
    upload = (
        "from huggingface_hub import HfApi; api = HfApi(); "
        f"api.create_repo('{name}', repo_type='dataset'); "
        f"api.upload_folder(repo_id='{name}', repo_type='dataset', folder_path='{blocks}')"
    )
    subprocess.run([sys.executable, "-c", upload], env=environment, check=True, timeout=100)
    command = [sys.executable, "-m", "echo4o.training", "run", "tiny", *words]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "run/loss.jsonl").read_text().splitlines()) == 4
    record = json.loads((tmp_path / "run/record.json").read_text())
    assert record["inputs"][0]["id"] == name
    kept = [
        path for path in (tmp_path / "home").rglob("*") if path.suffix in (".parquet", ".arrow")
    ]
    assert not kept


@pytest.mark.slow
def test_a_streamed_run_resumes_to_the_same_bytes(config, blocks, tmp_path):
    words = [f"data={blocks}", "streaming=true", "latent_cache_mb=0", "tokens_per_pack=150"]
    words += ["samples_per_pack=none", "checkpoint_every=4", "steps=12", "schedule=constant"]
    train(override(config, words), tmp_path / "whole")
    train(override(config, [*words, "steps=8"]), tmp_path / "parts")
    (tmp_path / "parts/record.json").unlink()
    train(override(config, [*words, "resume_force=true"]), tmp_path / "parts")
    whole, parts = (
        (tmp_path / name / "model/model/model.safetensors").read_bytes()
        for name in ("whole", "parts")
    )
    assert parts == whole


def test_every_file_is_looked_at_before_anything_is_trained(settings, tmp_path):
    """The first one alone says nothing of the others, which somebody may have added."""
    good = [make_row(n) for n in range(2)]
    kinds = {name: kind for name, kind in schema.features().items() if name in good[0]}
    words = [*settings, f"data={tmp_path}", "mixture=default:1", "streaming=true"]

    def write(number: int, rows: list[dict[str, object]], **other: object) -> None:
        own = {name: kind for name, kind in (kinds | other).items() if name in rows[0]}
        data = datasets.Dataset.from_list(rows, features=datasets.Features(own))
        data.to_parquet(tmp_path / "data" / f"train-0000{number}.parquet")

    write(0, good)
    write(1, [{name: row[name] for name in row if name != "subset"} for row in good])
    rows = load_rows(override(tiny(), words))
    assert rows.subsets == ("instruction_following", "rows")
    assert [rows.subsets[rows.subset_of(number)] for number in (1, 2)] == [*rows.subsets]
    write(1, [row | {"instruction": 3} for row in good], instruction=datasets.Value("int64"))
    with pytest.raises(Echo4oError, match=r"train-00001\.parquet of .*instruction holds int64"):
        load_rows(override(tiny(), words))
