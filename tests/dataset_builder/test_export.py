"""Exports are read back by the rules of the trainers that they are for."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import authors_layout as layout
import pyarrow.parquet as pq
import pytest
import webdataset
import yaml
from datasets import load_dataset
from PIL import Image
from rights_file import write_release as write_rights

from echo4o.cli import main
from echo4o.dataset_builder import trainer_forms
from echo4o.records import RunRecord

ROWS = 25


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A dataset of all three subsets, imported from the authors' layout."""
    root = tmp_path_factory.mktemp("data")
    write_release(root / "release")
    out = root / "echo-4o-image"
    main(["data", "import", str(root / "release"), "--out", str(out), "--validation", "4"])
    return out


def write_release(root):
    for subset, jsonl in ((layout.INSTRUCTION, None), (layout.SURREAL, "conflict")):
        folder = root / subset
        members = [(f"images/{n:05d}.jpg", layout.picture(n)) for n in range(ROWS)]
        layout.write_tar(folder / "images" / "0-5000.tar.gz", members)
        lines = [json.dumps(layout.row(subset, n)) for n in range(ROWS)]
        (folder / f"{jsonl or subset}.jsonl").write_text("\n".join(lines))
    folder = root / layout.REFERENCES
    names = [f"{n}.png" for n in range(ROWS)]
    base = "/Echo-4o-Image/Multi-Reference-Image"
    for kind in ("human", "object"):
        number = 1000 if kind == "human" else 2000
        pictures = [(name, layout.picture(number + n, kind="PNG")) for n, name in enumerate(names)]
        place = folder / "multi_refer_images_input" / kind / f"{kind}.tar.gz"
        layout.write_tar(place, pictures)
    outputs = [(name, layout.picture(3000 + n)) for n, name in enumerate(names)]
    place = folder / "multi_refer_images_output" / "hum_obj" / "hum_obj.tar.gz"
    layout.write_tar(place, outputs)
    rows = [
        {
            "task_type": "ic",
            "instruction": f'Scene {n}: "{{quotes}}" & <b>markup</b>, ünïcode',
            "input_images": [
                f"{base}/multi_refer_images_input/{kind}/{name}" for kind in ("human", "object")
            ],
            "output_image": f"{base}/multi_refer_images_output/hum_obj/{name}",
        }
        for n, name in enumerate(names)
    ]
    (folder / "multi-ic").mkdir(parents=True)
    (folder / "multi-ic" / "hum_obj.jsonl").write_text("\n".join(map(json.dumps, rows)))


def export(dataset, name, out, *options):
    main(["data", "export", str(dataset), name, "--out", str(out), *options])
    return out


def originals(dataset, split="train"):
    """(instruction, references, output) of every row, in order."""
    rows = load_dataset(str(dataset), split=split, streaming=True).decode(False)
    return [
        (
            row["instruction"],
            tuple(one["bytes"] for one in row["input_images"]),
            row["output_image"]["bytes"],
            row["subset"],
        )
        for row in rows
    ]


def read_omnigen2(folder):
    """As its dataset class does: YAML -> JSON lines -> picture files; (..., task type)."""
    found = []
    for entry in yaml.safe_load((folder / "data.yml").read_text())["data"]:
        assert entry["ratio"] == 1.0
        with open(entry["path"], encoding="utf-8") as lines:
            for line in map(json.loads, lines):
                assert line["task_type"] == entry["type"]
                pictures = [Path(path).read_bytes() for path in line.get("input_images", [])]
                output = Path(line["output_image"]).read_bytes()
                found.append((line["instruction"], tuple(pictures), output))
    return found


def read_bagel(folder):
    """As its loaders do: row groups by the information file, one string, last picture is target."""
    found = []
    described = json.loads((folder / "dataset_info.json").read_text())
    for name, facts in described.items():
        info = json.loads(Path(facts["parquet_info_path"]).read_text())
        assert len(info) == facts["num_files"]
        assert sum(one["num_rows"] for one in info.values()) == facts["num_total_samples"]
        for path, counts in info.items():
            assert path.startswith(facts["data_dir"] + "/")
            file = pq.ParquetFile(path)
            assert file.num_row_groups == counts["num_row_groups"]
            for group in range(counts["num_row_groups"]):
                frame = file.read_row_group(group).to_pandas()
                assert len(frame) <= trainer_forms.ROWS_PER_GROUP
                for _, row in frame.iterrows():
                    if name.startswith("t2i"):
                        captions = json.loads(row["captions"])
                        found.append((next(iter(captions.values())), (), row["image"]))
                    else:
                        text = row["instruction_list"][0].item()
                        *inputs, target = row["image_list"]
                        found.append((text, tuple(inputs), target))
    return found


def read_blip3o(folder):
    """As `load_dataset("webdataset")` with the keys jpg and txt does."""
    files = sorted(map(str, folder.glob("*.tar")))
    rows = load_dataset("webdataset", data_files=files, split="train", streaming=True)
    return [(row["txt"], (), row["jpg"]) for row in rows]


def sorted_rows(rows):
    return sorted((text, references, output) for text, references, output, *_ in rows)


def test_omnigen2_reads_every_row_byte_for_byte(dataset, tmp_path):
    out = export(dataset, "omnigen2", tmp_path / "o")
    assert sorted_rows(read_omnigen2(out)) == sorted_rows(originals(dataset))
    record = RunRecord.load(out / "export.record.json")
    assert record.inputs[0].id == "echo-4o-image"
    assert sum(record.metrics["rows"].values()) == 3 * ROWS - 4


def test_bagel_reads_every_row_by_its_row_groups(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_forms, "GROUPS_PER_FILE", 2)
    out = export(dataset, "bagel", tmp_path / "b")
    assert sorted_rows(read_bagel(out)) == sorted_rows(originals(dataset))
    assert len(list(out.rglob("*.parquet"))) >= 4


def test_blip3o_reads_text_rows_and_references_are_left_out(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trainer_forms, "ROWS_PER_TAR", 10)
    out = export(dataset, "blip3o", tmp_path / "t")
    wanted = [row for row in originals(dataset) if row[3] != "multi_reference"]
    assert f"left out: {3 * ROWS - 4 - len(wanted)} rows" in capsys.readouterr().out
    read = [(text, output) for text, _, output in read_blip3o(out)]
    assert sorted(text for text, _ in read) == sorted(row[0] for row in wanted)
    assert all(isinstance(output, Image.Image) for _, output in read)
    files = sorted(map(str, out.glob("*.tar")))
    samples = webdataset.WebDataset(files, shardshuffle=False, empty_check=False)
    pairs = [(one["txt"].decode(), (), one["jpg"]) for one in samples]
    assert sorted_rows(pairs) == sorted_rows(wanted)
    for path in files:
        with tarfile.open(path) as archive:
            assert len(archive.getmembers()) <= 2 * 10


def test_paths_are_those_of_the_training_machine(dataset, tmp_path):
    options = ["--config", "multi_reference", "--seen-as", "/mnt/data set/echo/"]
    out = export(dataset, "omnigen2", tmp_path / "o", *options)
    entry = yaml.safe_load((out / "data.yml").read_text())["data"][0]
    assert entry["path"] == "/mnt/data set/echo/multi_reference.jsonl"
    line = json.loads((out / "multi_reference.jsonl").read_text().splitlines()[0])
    assert list(line) == ["task_type", "instruction", "input_images", "output_image"]
    assert line["output_image"].startswith("/mnt/data set/echo/images/multi_reference/")
    out = export(dataset, "bagel", tmp_path / "b", *options)
    facts = json.loads((out / "dataset_info.json").read_text())["multi_ref/multi_reference"]
    assert facts["data_dir"] == "/mnt/data set/echo/multi_ref/multi_reference"
    info = json.loads((out / "parquet_info" / "multi_ref_multi_reference.json").read_text())
    assert {path.rpartition("/")[0] for path in info} == {facts["data_dir"]}


def test_again_replaces_and_other_folders_are_safe(dataset, tmp_path, capsys):
    out = export(dataset, "omnigen2", tmp_path / "o")
    first = sorted(path.relative_to(out) for path in out.rglob("*"))
    (out / "images" / "stale.jpg").touch()
    export(dataset, "omnigen2", out)
    assert sorted(path.relative_to(out) for path in out.rglob("*")) == first
    assert [path.name for path in tmp_path.iterdir()] == ["o"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(SystemExit):
        export(dataset, "bagel", tmp_path / "mine")
    assert "holds something else" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("blip3o", ["--config", "multi_reference"], "not a single row"),
        ("bagel", ["--split", "test"], "has no split 'test'"),
        ("bagel", ["--config", "dreams"], "cannot be loaded"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(
    dataset, tmp_path, name, options, said, capsys
):
    with pytest.raises(SystemExit):
        export(dataset, name, tmp_path / "x", *options)
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# HF_ENDPOINT is read when the libraries are imported, so this runs in a process of its own.
FROM_THE_HUB = """
import json, sys
from datasets import get_dataset_config_names, load_dataset
from echo4o.cli import main
folder, repo, rights, out = sys.argv[1:]
main(["data", "push", folder, repo, "--tag", "v1", "--rights", rights])
for form in ("omnigen2", "bagel", "blip3o"):
    main(["data", "export", repo, form, "--revision", "v1", "--out", f"{out}/{form}"])
found = {}
for config in [None, *get_dataset_config_names(repo)]:
    rows = load_dataset(repo, config, split="train", cache_dir=f"{out}/cache")
    found[config or "no config"] = [
        (row["instruction"], [one["bytes"].hex() for one in row["input_images"]],
         row["output_image"]["bytes"].hex(), row["subset"])
        for row in rows.with_format("arrow")[:].to_pylist()
    ]
json.dump(found, open(f"{out}/found.json", "w"))
"""


@pytest.mark.shared
def test_the_real_sample_from_archives_over_the_hub_to_every_trainer(shared, sandbox, tmp_path):
    """Imported, published, loaded by its id in every config, exported from there, read back."""
    folder, repo = tmp_path / "echo-4o-image", "echo4o-sandbox/real-sample"
    main(["data", "import", str(shared / "sample" / "Echo-4o-Image"), "--out", str(folder)])
    rows = originals(folder)
    assert len(rows) == 19
    assert sorted(len(references) for _, references, *_ in rows)[-2:] == [3, 4]
    words = [str(folder), repo, str(write_rights(tmp_path)), str(tmp_path)]
    environment = sandbox.environment(tmp_path / "home")
    script = [sys.executable, "-c", FROM_THE_HUB, *words]
    done = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = {
        config: [
            (text, tuple(map(bytes.fromhex, references)), bytes.fromhex(output), subset)
            for text, references, output, subset in found
        ]
        for config, found in json.loads((tmp_path / "found.json").read_text()).items()
    }
    assert loaded.pop("no config") == loaded.pop("all") == rows
    assert sorted(row[0] for row in loaded.pop("preview")) == sorted(row[0] for row in rows)
    assert sorted(loaded) == ["instruction_following", "multi_reference", "surreal_fantasy"]
    for config, found in loaded.items():
        assert found == [row for row in rows if row[3] == config]
    assert sorted_rows(read_omnigen2(tmp_path / "omnigen2")) == sorted_rows(rows)
    assert sorted_rows(read_bagel(tmp_path / "bagel")) == sorted_rows(rows)
    pairs = read_blip3o(tmp_path / "blip3o")
    assert sorted(text for text, *_ in pairs) == sorted(text for text, refs, *_ in rows if not refs)
    by_text = {text: output for text, _, output, _ in rows}
    for text, _, picture in pairs:
        assert picture.size == Image.open(io.BytesIO(by_text[text])).size
    record = RunRecord.load(tmp_path / "bagel" / "export.record.json")
    assert (record.inputs[0].id, len(record.inputs[0].revision)) == (repo, 40)
