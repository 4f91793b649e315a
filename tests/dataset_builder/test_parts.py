"""Shards, splits and the picture pool on their own."""

import dataclasses
import errno
import fcntl
import os
import random
import subprocess
import sys
import threading
import time

import authors_layout as layout
import pyarrow.parquet as pq
import pytest
from datasets import Features

from echo4o.dataset_builder.background import Background, read_ahead
from echo4o.dataset_builder.hashed_file import HashedFile
from echo4o.dataset_builder.pool import PicturePool
from echo4o.dataset_builder.shards import ShardWriter
from echo4o.dataset_builder.splits import Candidate, choose_validation
from echo4o.errors import Echo4oError
from echo4o.model_cards.dataset_parts import front_matter_configs
from echo4o.records import sha256_bytes, sha256_file
from echo4o.schema import Picture, Row, features


def row(number, size=10_000):
    return Row(
        id=f"r-{number}",
        task_type="t2i",
        subset="surreal_fantasy",
        instruction=f"row {number}",
        output_image=Picture(data=bytes([number]) * size, name=f"{number}.png"),
        width=1,
        height=1,
    )


def write(folder, **limits):
    writer = ShardWriter(folder, "train", **limits)
    for number in range(20):
        writer.add(row(number))
    return writer.close()


def test_groups_and_shards_stay_under_their_limits(tmp_path):
    shards = write(tmp_path, max_group_bytes=40_000, max_shard_bytes=100_000)
    assert [shard.path.name for shard in shards] == [
        f"train-{index:05d}-of-{len(shards):05d}.parquet" for index in range(len(shards))
    ]
    assert sum(shard.rows for shard in shards) == 20
    assert sorted(path.name for path in tmp_path.iterdir()) == [s.path.name for s in shards]
    ids = []
    for shard in shards:
        assert shard.path.stat().st_size < 150_000
        assert shard.sha256 == sha256_file(shard.path)
        file = pq.ParquetFile(shard.path)
        assert Features.from_arrow_schema(file.schema_arrow) == features()
        for group in range(file.num_row_groups):
            facts = file.metadata.row_group(group)
            assert facts.total_byte_size < 60_000
            columns = {facts.column(i).path_in_schema: facts.column(i) for i in range(19)}
            assert columns["output_image.bytes"].compression == "UNCOMPRESSED"
            assert columns["output_image.bytes"].statistics is None
            assert columns["instruction"].has_column_index
        ids += file.read(columns=["id"])["id"].to_pylist()
    assert ids == [f"r-{number}" for number in range(20)]


def noise(number):
    return random.Random(number).randbytes(128_000)


def test_chunking_keeps_most_of_a_changed_file(tmp_path):
    """Content-defined chunking: without the first row, later pages are still the same bytes."""
    files = []
    for start in (0, 1):
        writer = ShardWriter(tmp_path / str(start), "train", max_group_bytes=10**9)
        for number in range(start, 40):
            picture = Picture(data=noise(number), name="x")
            writer.add(dataclasses.replace(row(number), output_image=picture))
        files.append(writer.close()[0].path.read_bytes())
    assert files[0][-2_000_000:-1_500_000] in files[1]


def test_shards_are_byte_identical(tmp_path):
    one, two = write(tmp_path / "1"), write(tmp_path / "2")
    assert [shard.sha256 for shard in one] == [shard.sha256 for shard in two]


def test_validation_groups_are_never_torn():
    rows = [Candidate(f"r{n}", (f"k{n // 2}", f"p{n // 4}")) for n in range(100)]
    held = choose_validation(rows, 40)
    assert 36 <= len(held) <= 40
    for block in range(25):
        assert len({f"r{n}" for n in range(4 * block, 4 * block + 4)} & held) in (0, 4)
    assert choose_validation(rows[::-1], 40) == held
    assert choose_validation(rows, 0) == frozenset()


@pytest.mark.parametrize("count", [-1, 51])
def test_too_many_validation_rows_are_refused(count):
    rows = [Candidate(f"r{n}", ()) for n in range(100)]
    with pytest.raises(Echo4oError, match="give 0 to 50"):
        choose_validation(rows, count)


def test_pool_spills_to_one_unnamed_file(tmp_path):
    pictures = {n: layout.picture(n) for n in range(50)}
    with PicturePool[int](tmp_path, memory_bytes=5_000) as pool:
        for name, data in pictures.items():
            pool.put(name, data, sha256_bytes(data))
        assert not list(tmp_path.iterdir())
        assert all(pool.get(name) == data for name, data in pictures.items())
        assert pool.sha256(7) == sha256_bytes(pictures[7])
        pool.drop(7)
        assert 7 not in pool


def test_all_is_the_union_of_the_subsets():
    files = {
        f"data/{name}-00000-of-00001.parquet": name
        for name in (
            "preview/train",
            "multi_reference/train",
            "surreal_fantasy/train",
            "surreal_fantasy/validation",
        )
    }
    configs = {one["config_name"]: one for one in front_matter_configs(files)}
    assert len({one["description"] for one in configs.values()}) == len(configs)
    assert list(configs) == ["all", "surreal_fantasy", "multi_reference", "preview"]
    assert configs["all"]["default"] is True
    assert configs["all"]["data_files"] == [
        {
            "split": "train",
            "path": [
                "data/surreal_fantasy/train-*.parquet",
                "data/multi_reference/train-*.parquet",
            ],
        },
        {"split": "validation", "path": ["data/surreal_fantasy/validation-*.parquet"]},
    ]


@pytest.mark.parametrize("size", [0, 5, 4 << 20, (4 << 20) + 4_096, (9 << 20) + 1])
@pytest.mark.parametrize("is_direct", [True, False])
@pytest.mark.parametrize("is_threaded", [True, False])
def test_a_hashed_file_holds_what_it_was_given(tmp_path, monkeypatch, size, is_direct, is_threaded):
    data = random.Random(size).randbytes(size)
    if not is_direct:
        monkeypatch.setattr("os.O_DIRECT", 0)
    with Background() as disk:
        file = HashedFile(tmp_path / "file", disk if is_threaded else None)
        for start in range(0, size, 777_777):
            file.write(data[start : start + 777_777])
        file.finish()
        assert file.closed
    assert (tmp_path / "file").read_bytes() == data
    assert file.sha256() == sha256_bytes(data)


def test_a_disk_that_refuses_direct_blocks_gets_them_through_the_cache(tmp_path, monkeypatch):
    write, refused = os.write, []

    def picky(number, data):
        if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(len(data))
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(number, data)

    monkeypatch.setattr("os.write", picky)
    data = random.Random(0).randbytes(9_000_000)
    file = HashedFile(tmp_path / "file")
    file.write(data)
    file.finish()
    assert len(refused) == 1
    assert (tmp_path / "file").read_bytes() == data


def test_a_full_disk_is_told_by_the_thread_that_writes(tmp_path):
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from echo4o.dataset_builder.background import Background\n"
        "from echo4o.dataset_builder.hashed_file import HashedFile\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6_000_000, 6_000_000))\n"
        "with Background() as disk:\n"
        "    file = HashedFile(Path(sys.argv[1]), disk)\n"
        "    try:\n"
        "        file.write(bytes(20_000_000)); file.finish()\n"
        "    except OSError as error: print(error.strerror)\n"
        "    file.close()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "File too large"


def test_what_is_read_ahead_keeps_its_order_and_its_error_and_ends_with_its_reader():
    made = []

    def items(most):
        for number in range(most):
            made.append(number)
            yield number
        raise OSError("the line is cut")

    found = []
    with pytest.raises(OSError, match="the line is cut"):
        found.extend(read_ahead(items(90), lambda _: 1 << 18))
    assert found == [*range(88)], "whole groups of four"
    made.clear()
    reader = read_ahead(items(10**9), lambda _: 1 << 20)
    assert next(reader) == 0
    time.sleep(0.1)
    assert len(made) < 12, "memory is bounded"
    reader.close()
    threads = [one for one in threading.enumerate() if one.name == "echo4o-read"]
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
