"""One quick rehearsal for all tests of the release verbs, and a small sealed repo."""

import os
from pathlib import Path

import pytest
from release_lab import rehearse

from echo4o.manifest import Release, seal
from echo4o.records import RunRecord, sha256_file
from echo4o.release.sample import make_keys


@pytest.fixture(scope="session")
def rehearsed(tmp_path_factory):
    """The folder of one quick rehearsal; of $ECHO4O_REHEARSED, so that it is made only once."""
    kept = os.environ.get("ECHO4O_REHEARSED")
    out = Path(kept) if kept else tmp_path_factory.mktemp("rehearsal") / "run"
    done = rehearse(out)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.fixture
def sealed(tmp_path):
    """A small sealed folder, its release and the public key."""
    private, public = make_keys(tmp_path / "keys")
    folder = tmp_path / "repo"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("# A\n\n160 rows\n")
    (folder / "data/a.dat").write_bytes(bytes(range(256)) * 40)
    files = {"data/a.dat": sha256_file(folder / "data/a.dat")}
    RunRecord(name="a", command="b", files=files).save(folder)
    release = Release(
        name="n", version="v1", packages={"x": "1"}, key=str(private), kept=str(tmp_path / "kept")
    )
    seal(folder, "org/a", "dataset", release)
    return folder, release, public
