"""What a manifest promises: the same again, one changed byte found, hostile ones refused."""

import random

import pytest
from release_lab import change_one, forge, target_of, write

from echo4o.manifest import (
    MANIFEST,
    SIGNATURE,
    Manifest,
    ManifestError,
    Release,
    check_signature,
    compare_files,
    compare_records,
    installed_packages,
    read_manifest,
    seal,
)
from echo4o.records import RunRecord, sha256_file
from echo4o.release.sample import make_keys
from echo4o.release.table import Table
from echo4o.release.verify import check_repo


def test_a_seal_is_the_same_again_and_finds_nothing_wrong(sealed):
    folder, release, public = sealed
    before = [(folder / name).read_bytes() for name in (MANIFEST, SIGNATURE)]
    seal(folder, "org/a", "dataset", release)
    assert [(folder / name).read_bytes() for name in (MANIFEST, SIGNATURE)] == before
    manifest = read_manifest(folder)
    assert manifest.records == ("record.json",)
    assert not compare_files(folder, manifest)
    assert not compare_records(folder, manifest)
    assert not check_signature(folder, public)


@pytest.mark.parametrize("name", ["README.md", "data/a.dat", "record.json", MANIFEST])
def test_one_changed_byte_is_found_and_named(sealed, name):
    folder, _, public = sealed
    target = target_of(folder, pinned=True)
    write(folder / name, change_one((folder / name).read_bytes(), random.Random(4)))
    for key, pinned in ((public, target._replace(manifest=None)), (None, target)):
        table = Table()
        check_repo(folder, pinned, key, table)
        assert any(name in " ".join(row) for row in (r[:4] for r in table.bad_rows)), table.lines()


def test_files_that_come_and_go_are_found(sealed):
    folder, _, public = sealed
    (folder / "data/b.py").write_text("print('hello')")
    (folder / "data/a.dat").unlink()
    manifest = read_manifest(folder)
    assert [(one.place, one.found) for one in compare_files(folder, manifest)][0] == (
        "data/a.dat",
        "missing",
    )
    assert compare_files(folder, manifest)[1].place == "data/b.py"
    assert "b.py" in check_signature(folder, public)[0].found
    (folder / "data/a.dat").symlink_to("/etc/hostname")
    assert compare_files(folder, manifest)[0].found == "no regular file"


def test_a_consistent_forgery_needs_a_pin_or_a_key_to_be_seen(sealed, tmp_path):
    folder, _, public = sealed
    target = target_of(folder, pinned=True)
    write(folder / "README.md", b"# A\n\n161 rows\n")
    other, _ = make_keys(tmp_path / "other")
    assert other.stat().st_mode & 0o777 == 0o600
    forge(folder, "README.md", other, tmp_path / "other/kept")
    for pinned, key, rows in (
        (target._replace(manifest=None), None, []),
        (target, None, [f"{MANIFEST} sha256"]),
        (target._replace(manifest=None), public, [f"signature: {SIGNATURE}"]),
    ):
        table = Table()
        check_repo(folder, pinned, key, table)
        assert [row.check for row in table.bad_rows] == rows


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"\xff", b"{}", b'{"format": 2}', b"[" * 100_000,
        b'{"format": 1, "release": 1, "version": "v", "repo": "a/b", "type": "model", '
        b'"files": {"a": "zz"}, "records": [], "after": [], "packages": {}}',
        b'{"format": 1, "release": "a", "version": "v", "repo": "a/b", "type": "model", '
        b'"files": {}, "records": [], "after": [], "packages": {"x": "1\\n--index-url=evil"}}',
    ],
)  # fmt: skip
def test_a_hostile_manifest_is_refused_in_a_sentence(text):
    with pytest.raises(ManifestError, match="no manifest"):
        Manifest.from_bytes(text, "release.json")


def test_a_record_cannot_point_out_of_its_repo(tmp_path):
    folder = tmp_path / "repo"
    folder.mkdir()
    (tmp_path / "secret").write_text("s")
    RunRecord(name="a", command="b").save(folder)
    seal(folder, "org/a", "model", Release(name="n", version="v1"))
    files = {"../secret": sha256_file(tmp_path / "secret")}
    RunRecord(name="a", command="b", files=files).save(folder)
    assert [one.found for one in compare_records(folder, read_manifest(folder))] == ["no record"]
    seal(folder, "org/a", "model", Release(name="n", version="v1"))
    assert read_manifest(folder).records == ()
    (folder / "own").write_text("s")
    RunRecord(name="a", command="b", files={"own": files["../secret"]}).save(folder)
    seal(folder, "org/a", "model", Release(name="n", version="v1"))
    assert not compare_records(folder, read_manifest(folder))
    (folder / "own").unlink()
    (folder / "own").symlink_to(tmp_path / "secret")
    assert [one.found for one in compare_records(folder, read_manifest(folder))] == ["missing"]


def test_a_manifest_tells_of_no_package_that_echo4o_does_not_need():
    found = installed_packages()
    assert {"torch", "datasets", "huggingface-hub", "safetensors"} <= found.keys()
    assert not {"pytest", "ruff", "echo4o", "playwright"} & found.keys()
    assert found["torch"].count("+") == 0
