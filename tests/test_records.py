"""Atomic writes and run records."""

import errno
import json
import os
import platform

import pytest

from echo4o.records import (
    Input,
    RecordError,
    RunRecord,
    environment,
    refuse_foreign,
    sha256_file,
    write_atomic,
)


def test_write_atomic_replaces_the_whole_file(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    write_atomic(path, "old")
    write_atomic(path, "new\n")
    assert path.read_bytes() == b"new\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_full_disk_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    write_atomic(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_record_round_trips(tmp_path):
    record = RunRecord(
        name="thing",
        command="echo4o data build",
        inputs=(Input(kind="plan", id="shapes", sha256="0" * 64), Input(kind="model", id="a/b")),
        parameters={"rows": 3, "mix": None, "list": [1, 2.5, "x"]},
        seed=7,
        metrics={"rows": {"train": 3}},
        files={"README.md": "1" * 64},
        started="2026-01-01T00:00:00+00:00",
        seconds=1.5,
    )
    path = record.save(tmp_path)
    assert path == tmp_path / "record.json"
    assert RunRecord.load(tmp_path) == record
    assert RunRecord.load(record.save(tmp_path / "other.json")) == record
    assert len(sha256_file(path)) == 64


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no record"),
        ("{", "not JSON"),
        ("{}", "not a run record"),
        ("[]", "not a run record"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_bad_records_are_told_in_one_sentence(tmp_path, content, said):
    if content is not None:
        (tmp_path / "record.json").write_text(content)
    with pytest.raises(RecordError, match=said):
        RunRecord.load(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("files", []),
        ("files", {"../outside.parquet": "0" * 64}),
        ("files", {"data/../../outside.parquet": "0" * 64}),
        ("files", {"/etc/hostname": "0" * 64}),
        ("files", {"a.parquet": None}),
        ("inputs", [1]),
        ("inputs", [{"kind": "plan"}]),
        ("inputs", None),
        ("parameters", [1]),
        ("command", 1),
    ],
)
def test_a_strangers_record_is_checked(tmp_path, field, value):
    """It may be downloaded with a dataset; `data remove` links the files that it names."""
    path = RunRecord(name="thing", command="echo4o data build").save(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(RecordError, match=f"not a run record: `{field}`"):
        RunRecord.load(tmp_path)


def test_a_folder_of_another_noun_is_refused(tmp_path):
    refuse_foreign(tmp_path, "eval")
    RunRecord(name="tiny", command="echo4o train run tiny").save(tmp_path)
    refuse_foreign(tmp_path, "model", "train")
    with pytest.raises(RecordError, match="holds what `echo4o train run tiny` made; give another"):
        refuse_foreign(tmp_path, "eval")


def test_environment_names_versions_and_no_secrets(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = environment()
    assert found["python"].startswith("3.")
    assert "pillow" in found
    assert platform.system() in found["platform"]
    assert platform.release() not in found["platform"], "the kernel's build names the machine"
    assert "hf_secret" not in str(found)
