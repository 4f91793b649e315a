"""`data remove`: the next version without some rows, and what `data push` asks for before."""

import hashlib
import json
import shutil
from dataclasses import replace

import authors_layout as layout
import pytest
from datasets import load_dataset
from rights_file import release_text, write_release

from echo4o.cli import main
from echo4o.dataset_builder import folder as folders
from echo4o.dataset_builder import import_release, removing
from echo4o.dataset_builder.folder import FolderWriter, staged
from echo4o.dataset_builder.look import check_folder
from echo4o.dataset_builder.removing import read_ids, remove
from echo4o.dataset_builder.shards import ShardWriter
from echo4o.dataset_builder.signing_off import check_rights
from echo4o.errors import Echo4oError
from echo4o.records import RunRecord
from echo4o.rights import RightsError


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("remove")
    layout.write_t2i(root / "release", rows=9)
    layout.write_collection(root / "release", [[0, 1], [1, 0, 2]], pool=3)
    with pytest.MonkeyPatch.context() as patch:
        small = {"max_shard_bytes": 1, "max_group_bytes": 6_000}
        for name, size in small.items():
            patch.setitem(ShardWriter.__init__.__kwdefaults__, name, size)
        import_release(str(root / "release"), root / "echo-4o-image")
    return root / "echo-4o-image"


@pytest.fixture
def dataset(built, tmp_path):
    return shutil.copytree(built, tmp_path / "echo-4o-image")


def ids_of(path, config="all"):
    rows = load_dataset(str(path), config, split="train", streaming=True)
    return [row["id"] for row in rows.decode(False)]


def hashes(path):
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.rglob("*.parquet")
    }


def inodes(path):
    return {file.stat().st_ino for file in path.rglob("*.parquet")}


def test_rows_go_and_other_shards_stay(dataset):
    files = inodes(dataset)
    before, all_ids = hashes(dataset), ids_of(dataset)
    gone = [all_ids[0], all_ids[4]]
    done = remove(dataset, gone, "they show <b>somebody</b>", is_legal=True)
    assert (done.version, done.rows) == (2, 2)
    left = [name for name in all_ids if name not in gone]
    assert ids_of(dataset) == left
    assert set(gone).isdisjoint(ids_of(dataset, "preview"))
    after = hashes(dataset)
    # Numbers move up where a shard had no other row; bytes never change.
    assert len(set(before.values()) & set(after.values())) == done.kept >= 5
    assert done.shards >= 2
    assert len(files & inodes(dataset)) == done.kept  # not even written again
    record = RunRecord.load(dataset)
    assert record.files.items() >= after.items()
    assert record.metrics["rows"] == len(left)
    assert record.parameters["legal_take_down"] is True
    for name, digest in record.files.items():
        assert hashlib.sha256((dataset / name).read_bytes()).hexdigest() == digest
    text = "".join(
        file.read_text()
        for file in dataset.rglob("*")
        if file.suffix in (".html", ".json", ".md") and file.name != "record.json"
    )
    assert not [name for name in gone if f'"{name}"' in text or f">{name}<" in text]
    card = (dataset / "README.md").read_text()
    assert "Version 2" in card
    assert "&lt;b>somebody" in card
    assert "may be rewritten" in (dataset / "CHANGELOG.md").read_text()
    stones = [json.loads(line) for line in (dataset / "tombstones.jsonl").read_text().splitlines()]
    assert {one["id"] for one in stones} == set(gone)
    check_folder(dataset)
    # Once more: both are remembered, and what is gone stays gone.
    done = remove(dataset, [left[0]], "another reason")
    assert done.version == 3
    assert len((dataset / "tombstones.jsonl").read_text().splitlines()) == 3
    with pytest.raises(Echo4oError, match="was removed before"):
        remove(dataset, [gone[0]], "again")
    with pytest.raises(Echo4oError, match="would come back"):
        folders.check_target(dataset)
    assert sorted(read_ids(dataset / "tombstones.jsonl")) == sorted([*gone, left[0]])


def test_a_split_can_vanish_but_not_everything(dataset):
    all_ids = ids_of(dataset)
    references = ids_of(dataset, "multi_reference")
    remove(dataset, references, "a whole subset")
    assert ids_of(dataset) == [name for name in all_ids if name not in references]
    assert "multi_reference" not in (dataset / "README.md").read_text().split("---")[1]
    before = hashes(dataset)
    with pytest.raises(Echo4oError, match="not a single row would be left"):
        remove(dataset, ids_of(dataset), "all of it")
    assert hashes(dataset) == before
    assert [path.name for path in dataset.parent.iterdir()] == [dataset.name]


def test_a_stop_in_the_middle_changes_nothing(dataset, monkeypatch):
    before = hashes(dataset)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(removing, "swap", stop)
    with pytest.raises(KeyboardInterrupt):
        remove(dataset, ids_of(dataset)[:1], "x")
    assert hashes(dataset) == before
    assert [path.name for path in dataset.parent.iterdir()] == [dataset.name]


@pytest.mark.parametrize("told", [{"card": [1]}, {"card": {"x": 1}}, {"version": "new"}])
def test_a_record_of_another_form_is_a_sentence(told, dataset):
    record = RunRecord.load(dataset)
    replace(record, parameters=record.parameters | told).save(dataset)
    ids = ids_of(dataset)[:1]
    with pytest.raises(Echo4oError, match="was built by another echo4o; build it again"):
        remove(dataset, ids, "x")
    assert [path.name for path in dataset.parent.iterdir()] == [dataset.name]


def test_what_another_process_writes_is_left_alone(dataset, tmp_path, capsys):
    """Removing and exporting made their folders where a build that was at work had its own."""
    ids = ids_of(dataset)[:1]
    with FolderWriter(dataset, preview=frozenset()) as writer:
        (writer.staging / "half").touch()
        with pytest.raises(Echo4oError, match="is being written by another process"):
            remove(dataset, ids, "x")
        assert (writer.staging / "half").exists()
    shutil.rmtree(writer.staging)
    with staged(tmp_path / "out") as staging:
        (staging / "half").touch()
        with pytest.raises(SystemExit):
            main(["data", "export", str(dataset), "bagel", "--out", str(tmp_path / "out")])
        assert "is being written by another process" in capsys.readouterr().err
        assert (staging / "half").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "names no row"),
        (b"# only a remark\n", "names no row"),
        (b"\xff\xfe", "not UTF-8"),
        (b"../../etc/passwd\n", "is no row id"),
        (b'{"name": "x"}\n', "is no row id"),
        (b"{broken\n", "is no row id"),
        (b"nobody-000001\n", "is not in the dataset"),
    ],
)
def test_a_file_of_ids_that_is_wrong(content, said, dataset, tmp_path, capsys):
    path = tmp_path / "ids.txt"
    path.write_bytes(content)
    words = ["data", "remove", str(dataset), "--ids", str(path), "--reason", "x"]
    with pytest.raises(SystemExit):
        main(words)
    assert said in capsys.readouterr().err
    for reason in (" ", "x" * 600, "a\x07b"):
        with pytest.raises(Echo4oError, match="--reason needs"):
            remove(dataset, ["a"], reason)
    with pytest.raises(SystemExit):
        main([*words[:2], str(tmp_path), *words[3:]])


def test_push_wants_signed_rights(dataset, tmp_path):
    with pytest.raises(RightsError, match="nobody has signed"):
        check_rights(dataset, None)
    bare = write_release(tmp_path, register="")
    with pytest.raises(RightsError, match="not in the register"):
        check_rights(dataset, bare)
    file = write_release(tmp_path)
    check_rights(dataset, file, dry_run=True)
    assert "rights" not in RunRecord.load(dataset).parameters
    check_rights(dataset, file, repo="me/mine")
    check_rights(dataset, None)  # it carries them now
    assert 'load_dataset("me/mine", "preview"' in (dataset / "README.md").read_text()
    assert "removal@example.org" in (dataset / "README.md").read_text()
    record = RunRecord.load(dataset)
    readme = hashlib.sha256((dataset / "README.md").read_bytes()).hexdigest()
    assert record.files["README.md"] == readme
    check_folder(dataset)
    # They stay in the next version.
    remove(dataset, ids_of(dataset)[:1], "somebody asked")
    assert "removal@example.org" in (dataset / "README.md").read_text()
    assert check_rights(dataset, None).signed_off == "A. Person"
    file.write_text(release_text().replace("A. Person", "B. Person"))
    assert check_rights(dataset, file).signed_off == "B. Person"
