"""Importing the authors' layout: the real sample, its quirks, and everything that is hostile."""

import json
import tarfile
from collections import Counter

import authors_layout as layout
import mlcroissant
import pytest
from datasets import get_dataset_config_names, load_dataset

from echo4o.dataset_builder import import_release
from echo4o.dataset_builder.tars import MAX_MEMBER_BYTES
from echo4o.errors import Echo4oError
from echo4o.records import RunRecord, sha256_bytes

COUNTS = {"all": 19, "surreal_fantasy": 10, "multi_reference": 2, "instruction_following": 7}


@pytest.fixture(scope="module")
def sample(shared, tmp_path_factory):
    out = tmp_path_factory.mktemp("sample") / "echo-4o-image"
    import_release(str(shared / "sample" / "Echo-4o-Image"), out)
    return out


@pytest.fixture(scope="module")
def originals(shared):
    """The sample's rows with the bytes of their tar members, read in the plainest way."""
    root = shared / "sample" / "Echo-4o-Image"
    members = {}
    for path in root.rglob("*.tar.gz"):
        with tarfile.open(path) as archive:
            for info in archive:
                place = path.parent / info.name.removeprefix("./").removeprefix("images/")
                members["/" + str(place.relative_to(root.parent))] = archive.extractfile(
                    info
                ).read()
    rows = [json.loads(line) for path in root.rglob("*.jsonl") for line in path.open()]
    return {
        row["instruction"]: [
            *(members[path] for path in row.get("input_images", [])),
            members[row["output_image"]],
        ]
        for row in rows
    }


def pictures(row):
    return [cell["bytes"] for cell in (*row["input_images"], row["output_image"])]


def left_out(folder):
    lines = (folder / "left_out.jsonl").read_text().splitlines()
    return Counter(json.loads(line)["reason"] for line in lines)


@pytest.mark.shared
@pytest.mark.parametrize("config", COUNTS)
@pytest.mark.parametrize("streaming", [False, True])
def test_sample_loads_byte_for_byte(sample, originals, config, streaming, monkeypatch, tmp_path):
    monkeypatch.chdir(sample.parent)
    options = {} if streaming else {"cache_dir": str(tmp_path)}
    loaded = load_dataset("echo-4o-image", config, streaming=streaming, split="train", **options)
    encoded = loaded.decode(False) if streaming else loaded.with_format("arrow")[:].to_pylist()
    rows = list(encoded)
    assert len(rows) == COUNTS[config]
    for row in rows:
        assert pictures(row) == originals[row["instruction"]]
        hashes = json.loads(row["provenance"])["sha256"]
        assert hashes["output_image"] == sha256_bytes(row["output_image"]["bytes"])
        assert [one["sha256"] for one in json.loads(row["references"])] == hashes["input_images"]


@pytest.mark.shared
def test_sample_default_config_and_preview(sample, tmp_path):
    assert get_dataset_config_names(str(sample)) == [*COUNTS, "preview"]
    rows = load_dataset(str(sample), split="train", cache_dir=str(tmp_path))
    assert len(rows) == 19
    assert rows[0]["output_image"].size == (rows[0]["width"], rows[0]["height"])
    assert Counter(rows["task_type"]) == {"t2i": 17, "ic": 2}
    assert sorted(map(len, rows["input_images"]))[-2:] == [3, 4]
    assert len(set(rows["id"])) == 19
    preview = load_dataset(str(sample), "preview", streaming=True, split="train")
    assert all(max(row["output_image"].size) <= 512 for row in preview)
    record = RunRecord.load(sample)
    assert record.metrics["left_out"] == {}
    assert all((sample / name).is_file() for name in record.files)


def test_two_imports_are_byte_identical(tmp_path):
    layout.write_t2i(tmp_path / "release", rows=6)
    layout.write_collection(tmp_path / "release", [[0, 1], [2, 1, 0]], pool=3)
    files = []
    for name in ("one", "two"):
        result = import_release(str(tmp_path / "release"), tmp_path / name, validation=2)
        files.append(result.record.files)
    assert files[0] == files[1]
    assert "data/instruction_following/validation-00000-of-00001.parquet" in files[0]


def test_names_that_repeat_in_every_subset_do_not_mix(tmp_path):
    for subset, shift in ((layout.INSTRUCTION, 0), (layout.SURREAL, 100)):
        folder = layout.write_t2i(tmp_path / "release" / "Echo-4o-Image", subset)
        members = [(f"images/{n:05d}.jpg", layout.picture(n + shift)) for n in range(3)]
        layout.write_tar(folder / "images" / "0-5000.tar.gz", members)
    import_release(str(tmp_path / "release"), tmp_path / "out")
    rows = list(load_dataset(str(tmp_path / "out"), streaming=True, split="train").decode(False))
    assert len(rows) == 6
    for row in rows:
        number = int(row["id"][-5:]) + (100 if row["subset"] == "surreal_fantasy" else 0)
        assert row["output_image"]["bytes"] == layout.picture(number)


def glued(rows):
    return "".join(json.dumps(row) for row in rows)


@pytest.mark.parametrize(
    "spell",
    [glued, json.dumps, lambda rows: json.dumps(rows, indent=2), lambda r: "\ufeff" + glued(r)],
)
def test_lines_arrays_and_glued_objects(tmp_path, spell):
    folder = layout.write_t2i(tmp_path / "release", rows=5)
    rows = [layout.row(layout.INSTRUCTION, number) for number in range(5)]
    (folder / f"{layout.INSTRUCTION}.jsonl").write_text(spell(rows), encoding="utf-8")
    assert import_release(str(tmp_path / "release"), tmp_path / "out").tally.rows == 5


def test_malformed_rows_are_left_out_and_listed(tmp_path):
    folder = layout.write_t2i(tmp_path / "release", rows=10)
    rows = [layout.row(layout.INSTRUCTION, number) for number in range(10)]
    rows[1]["instruction"] = 7
    rows[2]["output_image"] = "/Echo-4o-Image/Instruction-Following-Image/images/../../x.jpg"
    rows[3]["output_image"] = "C:\\images\\00003.jpg"
    rows[4]["output_image"] = "/Echo-4o-Image/Surrel-Fantasy-Image/images/00004.jpg"
    rows[5]["input_images"] = ["/a/images/1.jpg"] * 5
    rows[6]["instruction"] = "a\x07b"
    rows[7]["task_type"] = "ic"
    lines = [json.dumps(row) for row in rows]
    lines[8] = lines[8][:40]
    lines.insert(0, "[" * 100_000 + "7, null")
    (folder / f"{layout.INSTRUCTION}.jsonl").write_text("\n".join(lines))
    result = import_release(str(tmp_path / "release"), tmp_path / "out")
    assert result.tally.rows == 2
    assert result.record.metrics["left_out"]["malformed row"] == 10  # 8 rows, `7` and `null`
    assert left_out(tmp_path / "out")["surplus picture"] == 8


def test_pictures_missing_surplus_cut_and_bombs(tmp_path):
    folder = layout.write_t2i(tmp_path / "release", rows=6)
    members = [
        ("00000.jpg", layout.picture(0)),
        ("00001.jpg", layout.picture(1)[:-40]),
        ("00002.jpg", layout.bomb()),
        ("00003.jpg", b"no picture at all"),
        ("00004.jpg", b""),
        ("99999.jpg", layout.picture(9)),
    ]
    layout.write_tar(folder / "images" / "0-5000.tar.gz", members)
    result = import_release(str(tmp_path / "release"), tmp_path / "out")
    assert result.tally.rows == 1
    assert left_out(tmp_path / "out") == {
        "unusable picture": 4,
        "missing picture": 1,
        "surplus picture": 1,
    }
    assert "40000x40000" in (tmp_path / "out" / "left_out.jsonl").read_text()


def test_verify_finds_a_picture_that_does_not_decode(tmp_path):
    folder = layout.write_t2i(tmp_path / "release", rows=2)
    good = layout.picture(1, size=(64, 64), kind="PNG")
    damaged = good[:60] + b"\0" * 20 + good[80:]
    layout.write_tar(folder / "images" / "a.tar", [("00000.jpg", good), ("00001.jpg", damaged)])
    (folder / "images" / "0-5000.tar.gz").unlink()
    result = import_release(str(tmp_path / "release"), tmp_path / "out", verify=True)
    assert result.tally.rows == 1
    assert left_out(tmp_path / "out") == {"unusable picture": 1}


def test_rows_without_their_reference_are_left_out(tmp_path):
    layout.write_collection(tmp_path / "release", [[0, 1], [1, 0], [1, 7]], pool=2)
    result = import_release(str(tmp_path / "release"), tmp_path / "out")
    assert result.tally.rows == 2
    assert left_out(tmp_path / "out") == {"missing reference": 1, "surplus picture": 1}
    rows = list(load_dataset(str(tmp_path / "out"), streaming=True, split="train").decode(False))
    assert [[cell["bytes"] for cell in row["input_images"]] for row in rows] == [
        [layout.picture(1000), layout.picture(1001)],
        [layout.picture(1001), layout.picture(1000)],
    ]


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_hostile_members_are_refused_and_nothing_leaves_the_folder(tmp_path):
    folder = layout.write_t2i(tmp_path / "deep" / "release", rows=8)
    huge = tarfile.TarInfo("00002.jpg")
    huge.size = MAX_MEMBER_BYTES + 1
    members = [
        ("../00000.jpg", layout.picture(0)),
        ("/00000.jpg", layout.picture(0)),
        ("images/../../00000.jpg", layout.picture(0)),
        ("elsewhere/00000.jpg", layout.picture(0)),
        link("00001.jpg", "/etc/passwd"),
        link("00001.jpg", "00003.jpg", tarfile.LNKTYPE),
        link("00001.jpg", "", tarfile.FIFOTYPE),
        ("00003.jpg", layout.picture(3)),
        ("./00003.jpg", layout.picture(3)),
        ("00004.jpg", layout.picture(4)),
        ("images/00004.jpg", layout.picture(5)),
        ("00006.JPG", layout.picture(6)),
        ("00007.jpg", layout.picture(7)),
    ]
    layout.write_tar(folder / "images" / "0-5000.tar.gz", members)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    result = import_release(str(tmp_path / "deep" / "release"), tmp_path / "out")
    rows = load_dataset(str(tmp_path / "out"), streaming=True, split="train")
    assert [row["id"][-5:] for row in rows] == ["00003", "00007"]
    found = left_out(tmp_path / "out")
    assert found["refused member"] == 7
    assert found["repeated picture"] == 1
    assert found["unusable picture"] == 1  # 00004: two different pictures, so neither is taken
    assert found["missing picture"] == 5
    after = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert all(path.is_relative_to(tmp_path / "out") for path in after - before)
    assert result.record.metrics["left_out"] == dict(found)


def test_huge_members_and_headers_are_not_read(tmp_path):
    folder = layout.write_t2i(tmp_path / "release", rows=3)
    path = folder / "images" / "0-5000.tar.gz"
    members = [("00000.jpg", b"\0" * (MAX_MEMBER_BYTES + 1)), ("00001.jpg", layout.picture(1))]
    layout.write_tar(path, members)
    result = import_release(str(tmp_path / "release"), tmp_path / "out")
    assert result.tally.rows == 1
    assert left_out(tmp_path / "out") == {"refused member": 1, "missing picture": 2}
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("00000.jpg")
        info.pax_headers = {"comment": "x" * 2_000_000}
        archive.addfile(info)
    with pytest.raises(Echo4oError, match="not a single row.*a header claims 2000"):
        import_release(str(tmp_path / "release"), tmp_path / "out")
    assert RunRecord.load(tmp_path / "out").metrics["rows"] == 1, "the earlier dataset stays"


def test_an_empty_list_is_told(tmp_path):
    folder = layout.write_t2i(tmp_path / "release", rows=2)
    lines = [json.dumps(layout.row(layout.INSTRUCTION, number)) for number in range(2)]
    (folder / f"{layout.INSTRUCTION}.jsonl").write_text(f"{lines[0]}\n[]\n{lines[1]}\n[ ]")
    assert import_release(str(tmp_path / "release"), tmp_path / "out").tally.rows == 2
    told = (tmp_path / "out" / "left_out.jsonl").read_text().splitlines()
    assert [json.loads(line)["where"].rpartition(" ")[2] for line in told] == ["2", "4"]


def test_names_in_two_cases_stay_two_rows(tmp_path):
    folder = layout.write_t2i(tmp_path / "release", rows=0)
    places = [f"/x/{layout.INSTRUCTION}/images/{name}.jpg" for name in ("Cat", "cat")]
    rows = [layout.row(layout.INSTRUCTION, 0, output_image=place) for place in places]
    layout.write_rows(folder / f"{layout.INSTRUCTION}.jsonl", rows)
    members = [("Cat.jpg", layout.picture(1)), ("cat.jpg", layout.picture(2))]
    layout.write_tar(folder / "images" / "0-5000.tar.gz", members)
    import_release(str(tmp_path / "release"), tmp_path / "out")
    rows = list(load_dataset(str(tmp_path / "out"), streaming=True, split="train").decode(False))
    assert len({row["id"].casefold() for row in rows}) == 2
    assert [row["output_image"]["bytes"] for row in rows] == [data for _, data in members]


def test_nano_consistent_has_the_same_rows(tmp_path):
    layout.write_nano(tmp_path / "nano", rows=4)
    result = import_release(str(tmp_path / "nano"), tmp_path / "out")
    rows = list(load_dataset(str(tmp_path / "out"), streaming=True, split="train").decode(False))
    assert [pictures(row) for row in rows] == [
        [layout.picture(n % 2), layout.picture(100 + n)] for n in range(4)
    ]
    assert {(row["task_type"], row["subset"], row["category"], row["type"]) for row in rows} == {
        ("ic", "multi_reference", None, "action")
    }
    assert {row["generator"] for row in rows} == {"nano-banana"}
    assert {row["license"] for row in rows} == {None}
    assert json.loads(rows[0]["provenance"])["general_prompt"].startswith("The actions")
    assert left_out(tmp_path / "out") == {"superseded file": 1, "surplus picture": 1}
    assert "# nano-consistent-150k" in (tmp_path / "out" / "README.md").read_text()
    assert result.tally.rows == 4


@pytest.mark.shared
def test_croissant_is_valid_and_its_library_reads_the_rows(originals, sample):
    dataset = mlcroissant.Dataset(jsonld=str(sample / "croissant.json"))
    assert not dataset.metadata.issues.errors
    assert dataset.metadata.data_limitations
    assert dataset.metadata.personal_sensitive_information
    found = list(dataset.records("multi_reference"))
    assert len(found) == 2
    texts = [row["multi_reference/instruction"].decode() for row in found]
    assert all(text in originals for text in texts)
    sizes = [len(row["multi_reference/input_images"]) for row in found]
    assert sizes == [len(originals[text]) - 1 for text in texts]
    described = json.loads((sample / "croissant.json").read_text())["distribution"]
    shards = {one["name"]: one["sha256"] for one in described if "sha256" in one}
    assert shards == {
        name: digest for name, digest in RunRecord.load(sample).files.items() if "parquet" in name
    }


def test_gallery_escapes_foreign_text(tmp_path):
    folder = layout.write_t2i(tmp_path / "release", rows=2)
    nasty = "</p><script>alert(1)</script><img src=x onerror=alert(2)>"
    rows = [layout.row(layout.INSTRUCTION, n, instruction=f"{nasty} {n}") for n in range(2)]
    layout.write_rows(folder / f"{layout.INSTRUCTION}.jsonl", rows)
    import_release(str(tmp_path / "release"), tmp_path / "out")
    page = (tmp_path / "out" / "gallery" / "instruction_following.html").read_text()
    assert page.count("<article") == 2
    assert page.count("<script>") == 1
    assert "&lt;script&gt;alert(1)" in page
    assert "<img src=x" not in page
    assert "default-src 'none'" in page
    for name in ("README.md", "croissant.json"):
        assert "<script>alert" not in (tmp_path / "out" / name).read_text()


@pytest.mark.parametrize("cut", [0.8, 0.99])
def test_a_cut_archive_gives_what_came_before_the_cut(tmp_path, cut):
    folder = layout.write_t2i(tmp_path / "release", rows=40)
    path = folder / "images" / "0-5000.tar.gz"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * cut)])
    result = import_release(str(tmp_path / "release"), tmp_path / "out")
    found = left_out(tmp_path / "out")
    assert 0 < result.tally.rows <= 40
    assert found["damaged archive"] == 1
    assert result.tally.rows + found["missing picture"] == 40


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: root, "neither a folder here nor a Hub id"),
        (lambda root: root.mkdir() or root, "none of the folders"),
        (lambda root: layout.write_t2i(root, rows=0) and root, "not a single row"),
    ],
)
def test_wrong_sources_end_in_one_sentence(tmp_path, make, said):
    with pytest.raises(Echo4oError, match=said) as caught:
        import_release(str(make(tmp_path / "release")), tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_other_files_are_never_overwritten(tmp_path):
    layout.write_t2i(tmp_path / "release")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(Echo4oError, match="holds other files"):
        import_release(str(tmp_path / "release"), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_validation_shares_no_reference_and_no_instruction(tmp_path):
    pairs = [[2 * (n // 3), 2 * (n // 3) + 1] for n in range(30)]
    layout.write_collection(tmp_path / "release", pairs, pool=20)
    folder = layout.write_t2i(tmp_path / "release", rows=30)
    rows = [layout.row(layout.INSTRUCTION, n, instruction=f"Scene {n // 2}") for n in range(30)]
    layout.write_rows(folder / f"{layout.INSTRUCTION}.jsonl", rows)
    import_release(str(tmp_path / "release"), tmp_path / "out", validation=15)
    loaded = load_dataset(str(tmp_path / "out"), streaming=True)
    splits = {split: list(rows.decode(False)) for split, rows in loaded.items()}
    assert 13 <= len(splits["validation"]) <= 15
    for facts in (
        lambda row: {row["instruction"]},
        lambda row: {one["sha256"] for one in json.loads(row["references"])},
    ):
        train, held = (set().union(*map(facts, splits[name])) for name in ("train", "validation"))
        assert not train & held
    with pytest.raises(Echo4oError, match="--validation 31"):
        import_release(str(tmp_path / "release"), tmp_path / "out", validation=31)
