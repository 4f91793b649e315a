"""The same packs for any number of workers and processes, and exactly once after a resume."""

import json
from collections import Counter

import pytest
import torch
from training_rows import make_row, write_dataset

from echo4o.errors import Echo4oError
from echo4o.training.config import TrainConfig
from echo4o.training.feed import Feed, Loaded
from echo4o.training.order import Order, Packer, Source, Visit
from echo4o.training.overrides import override
from echo4o.training.processes import make_accelerator
from echo4o.training.train import train

ROWS = 40


def load(visit: Visit) -> Loaded[int]:
    return Loaded(visit, visit.row * 1000 + visit.visit, "")


def make_feed(*, rank: int = 0, world: int = 1, workers: int = 0) -> Feed[int]:
    order = Order([Source(range(30), 1.0), Source(range(30, ROWS), 2.0)], seed=3)
    packer = Packer(order, lambda row: 10 + 7 * (row % 5), budget=100, lookahead=4)
    return Feed(packer, load, packs_per_step=4, rank=rank, world=world, workers=workers)


def taken(feed: Feed[int], steps: int) -> list[list[list[Visit]]]:
    """Visits of the next steps, by pack."""
    return [[[row.visit for row in pack] for pack in feed.next()] for _ in range(steps)]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers):
    alone, helped = make_feed(), make_feed(workers=workers)
    assert taken(helped, 12) == taken(alone, 12)
    # Workers have read ahead; the position is that of what was taken.
    assert helped.position == alone.position
    resumed = make_feed(workers=workers)
    resumed.position = helped.position
    assert taken(resumed, 3) == taken(alone, 3)


def test_two_processes_then_one_lose_and_repeat_nothing():
    expected = taken(make_feed(), 30)
    ranks = [make_feed(rank=rank, world=2) for rank in range(2)]
    shares = [taken(feed, 11) for feed in ranks]
    for step in range(11):
        first, second = shares[0][step], shares[1][step]
        # Packs have global numbers: rank 0 of 2 takes the even ones, rank 1 the odd ones.
        assert [first[0], second[0], first[1], second[1]] == expected[step]
    assert ranks[0].position == ranks[1].position
    alone = make_feed()
    alone.position = ranks[0].position
    assert taken(alone, 19) == expected[11:]
    seen = Counter(visit for step in expected for pack in step for visit in pack)
    waiting = alone.position.waiting
    assert set(seen.values()) == {1}
    assert not set(waiting) & set(seen)
    # An epoch shows the first 30 rows once and the others twice.
    epochs = alone.position.epoch
    complete = Counter(v.row for v in (*seen, *waiting) if v.visit < epochs)
    assert complete == Counter(dict.fromkeys(range(ROWS), epochs))
    assert epochs >= 3


@pytest.mark.slow
def test_a_run_with_workers_gives_the_bytes_of_one_without(config: TrainConfig, tmp_path):
    rows = [make_row(n, references=n % 3) for n in range(9)]
    rows[4]["output_image"] = {"bytes": png_cut(rows[4]), "path": "x.png"}
    data = write_dataset(tmp_path / "rows", rows)
    words = [f"data={data}", "latent_cache_mb=0", "tokens_per_pack=150", "samples_per_pack=none"]
    traces = []
    for workers in (0, 2):
        out = tmp_path / f"{workers}"
        train(override(config, [*words, f"workers={workers}", "steps=8"]), out)
        record = json.loads((out / "record.json").read_text())
        assert record["metrics"]["rows_skipped"] == {"a picture does not decode": 1}
        assert 0.5 < record["metrics"]["fill_rate"] <= 1
        traces.append((out / "loss.jsonl").read_bytes())
    assert traces[0] == traces[1]


def png_cut(row: dict[str, object]) -> bytes:
    data = row["output_image"]["bytes"]  # type: ignore[index]
    return bytes(data[: len(data) // 2])


def test_more_processes_than_devices_are_refused(config: TrainConfig, monkeypatch, tmp_path):
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(Echo4oError, match="3 processes need a GPU each and this machine has 2"):
        make_accelerator(config, tmp_path)
