"""Replacing a dataset folder: whole at every moment, and nothing of others is lost."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import authors_layout as layout
import pytest
from datasets import load_dataset

from echo4o.cli import main
from echo4o.dataset_builder import import_release
from echo4o.dataset_builder.folder import FolderWriter
from echo4o.errors import Echo4oError
from echo4o.records import RunRecord

# Kills itself before or after the n-th rename that touches the dataset folder.
KILLED = """
import os, pathlib, signal, sys
from echo4o.dataset_builder import import_release
source, out, number, moment = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
rename, seen = pathlib.Path.rename, 0
def counting(self, target):
    global seen
    ours = out.name in (self.name, pathlib.Path(target).name)
    seen += ours
    if ours and seen == number and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = rename(self, target)
    if ours and seen == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
pathlib.Path.rename = counting
import_release(source, out)
"""


@pytest.fixture
def place(tmp_path):
    """Two releases, and a dataset of the first."""
    for rows in (3, 5):
        layout.write_t2i(tmp_path / f"release-{rows}", rows=rows)
    import_release(str(tmp_path / "release-3"), tmp_path / "home/echo-4o-image")
    return tmp_path


def rows_of(out):
    rows = load_dataset(str(out), split="train", streaming=True).decode(False)
    count = sum(1 for _ in rows)
    assert RunRecord.load(out).metrics["rows"] == count
    return count


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("number", "moment", "left"), [(1, "before", 3), (1, "after", None), (2, "after", 5)]
)
def test_a_kill_between_the_steps_loses_nothing(place, number, moment, left):
    out = place / "home/echo-4o-image"
    words = [str(place / "release-5"), str(out), str(number), moment]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert (rows_of(out) if out.exists() else None) == left
    # Even a run that then fails brings the old dataset back.
    (place / "empty").mkdir()
    with pytest.raises(Echo4oError):
        import_release(str(place / "empty"), out)
    assert rows_of(out) == (left or 3)
    import_release(str(place / "release-5"), out)
    assert rows_of(out) == 5
    assert names(out.parent) == ["echo-4o-image"]


@pytest.mark.parametrize("number", [1, 2])
def test_an_error_between_the_steps_keeps_the_old_one(place, monkeypatch, number):
    out, rename, seen = place / "home/echo-4o-image", Path.rename, []

    def failing(self, target):
        if out.name in (self.name, Path(target).name):
            seen.append(target)
            if len(seen) == number:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="Input/output"):
        import_release(str(place / "release-5"), out)
    monkeypatch.undo()
    assert rows_of(out) == 3
    assert names(out.parent) == ["echo-4o-image"]


@pytest.mark.parametrize("name", ["notes.txt", "data/more.parquet", ".partial/anything"])
def test_files_of_others_are_never_replaced(place, name):
    out = place / "home/echo-4o-image"
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    with pytest.raises(Echo4oError, match=name):
        import_release(str(place / "release-5"), out)
    assert (out / name).read_text() == "mine"
    assert rows_of(out) == 3


def test_a_foreign_folder_with_our_staging_name_is_refused(place):
    (place / "theirs/.partial").mkdir(parents=True)
    (place / "theirs/thesis.txt").write_text("mine")
    with pytest.raises(Echo4oError, match="holds other files"):
        import_release(str(place / "release-3"), place / "theirs")
    assert names(place / "theirs") == [".partial", "thesis.txt"]


def test_two_at_once_are_told_apart(place):
    out = place / "home/echo-4o-image"
    with (
        pytest.raises(Echo4oError, match="is being written by another process; wait for it"),
        FolderWriter(out, preview=frozenset()),
    ):
        import_release(str(place / "release-5"), out)
    assert rows_of(out) == 3
    import_release(str(place / "release-5"), out)  # nobody holds it any more
    assert rows_of(out) == 5
    assert names(out.parent) == ["echo-4o-image"]


def test_a_link_stays_a_link(place):
    (place / "link").symlink_to(place / "home/echo-4o-image")
    import_release(str(place / "release-5"), place / "link")
    assert (place / "link").is_symlink()
    assert rows_of(place / "home/echo-4o-image") == 5


def test_an_unknown_config_is_one_sentence(place, capsys):
    with pytest.raises(SystemExit):
        main(["data", "stats", str(place / "home/echo-4o-image"), "--config", "surreal"])
    assert "surreal" in capsys.readouterr().err
