"""Publishing a dataset folder on the sandbox Hub and loading it back by id."""

import json
import shutil
import subprocess
import sys

import authors_layout as layout
import datasets
import pytest
from huggingface_hub.utils import httpx
from rights_file import write_release

from echo4o.cli import main
from echo4o.dataset_builder import import_release
from echo4o.dataset_builder.insight import stats
from echo4o.dataset_builder.look import check_folder, compare
from echo4o.errors import Echo4oError
from echo4o.records import RunRecord

REPO = "echo4o-sandbox/pushed-image"
RELEASE = "echo4o-sandbox/release-in-the-authors-layout"
# HF_ENDPOINT is read when the libraries are imported, so this runs in a process of its own.
SCRIPT = f"""
import json, shutil, sys
from datasets import load_dataset
from huggingface_hub import HfApi
from echo4o.cli import main
folder = sys.argv[1]
rights = ["--rights", sys.argv[5]]
main(["data", "push", folder, "{REPO}", "--tag", "v1", "--dry-run", *rights])
assert not HfApi().repo_exists("{REPO}", repo_type="dataset")
main(["data", "push", folder, "{REPO}", "--tag", "v1", *rights])
main(["data", "push", folder, "{REPO}", "--tag", "v1"])
main(["data", "stats", "{REPO}", "--revision", "v1"])
api = HfApi()
api.create_repo("{RELEASE}", repo_type="dataset")
commit = api.upload_folder(
    repo_id="{RELEASE}", repo_type="dataset", folder_path=sys.argv[2]
).oid
main(["data", "import", "{RELEASE}", "--out", sys.argv[3]])
for form in ("omnigen2", "blip3o", "bagel"):
    main(["data", "export", "{REPO}", form, "--revision", "v1", "--out", sys.argv[4] + "/" + form])
next_version = shutil.copytree(folder, sys.argv[6] + "/echo-4o-image")
gone = load_dataset("{REPO}", revision="v1", split="train", streaming=True)
gone = next(iter(gone.decode(False)))["id"]
open(sys.argv[6] + "/ids.txt", "w").write(gone + "\\n")
main(["data", "remove", next_version, "--ids", sys.argv[6] + "/ids.txt", "--reason", "asked"])
main(["data", "push", next_version, "{REPO}", "--tag", "v2"])
print("====")
found = {{"gone": gone}}
for tag in ("v1", "v2"):
    rows = load_dataset("{REPO}", revision=tag, split="train", streaming=True)
    found[tag] = [row["id"] for row in rows.decode(False)]
for config in ("all", "multi_reference"):
    rows = load_dataset("{REPO}", config, revision="v1", split="train", streaming=True)
    found[config] = [
        [row["id"], *(one["bytes"].hex() for one in (*row["input_images"], row["output_image"]))]
        for row in rows.decode(False)
    ]
refs = HfApi().list_repo_refs("{REPO}", repo_type="dataset")
found["tags"] = [ref.name for ref in refs.tags]
found["imported"] = [commit, open(sys.argv[3] + "/record.json").read()]
found["commits"] = len(HfApi().list_repo_commits("{REPO}", repo_type="dataset"))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("push")
    layout.write_t2i(root / "release", rows=5)
    layout.write_collection(root / "release", [[0, 1], [1, 0, 2]], pool=3)
    import_release(str(root / "release"), root / "echo-4o-image")
    return root / "echo-4o-image"


def test_published_dataset_loads_by_id(sandbox, dataset, tmp_path):
    folders = [str(dataset), str(dataset.parent / "release"), str(tmp_path / "imported")]
    folders += [str(tmp_path / "exported"), str(write_release(tmp_path)), str(tmp_path / "next")]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *folders],
        env=sandbox.environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    said, _, found = done.stdout.partition("====")
    assert said.count("it loads back the same") == 3
    assert "nothing was written" in said
    assert '"rows": 7' in said
    found = json.loads(found)
    assert len(found["all"]) == 7
    assert [row[1:] for row in found["multi_reference"]] == [
        [layout.picture(n).hex() for n in numbers]
        for numbers in ([1000, 1001, 2000], [1001, 1000, 1002, 2001])
    ]
    assert sorted(found["tags"]) == ["v1", "v2"]
    assert found["v2"] == [name for name in found["v1"] if name != found["gone"]]
    assert len(found["v2"]) == 6
    records = [RunRecord.load(path) for path in (tmp_path / "exported").rglob("*.record.json")]
    assert sorted(sum(record.metrics["rows"].values()) for record in records) == [5, 7, 7]
    assert {record.inputs[0].id for record in records} == {REPO}
    commit, record = found["imported"][0], json.loads(found["imported"][1])
    assert record["inputs"] == [
        {"kind": "dataset", "id": RELEASE, "revision": commit, "sha256": None}
    ]
    assert record["metrics"] == json.loads((dataset / "record.json").read_text())["metrics"]
    # The repo's own first commit and two publications (the parts of each are one merge); pushing
    # the same again makes none.
    assert found["commits"] <= 4


def test_a_file_that_was_changed_after_the_build_is_not_pushed(dataset, tmp_path):
    copy = shutil.copytree(dataset, tmp_path / "echo-4o-image")
    shard = min(copy.glob("data/*/*.parquet"))
    data = shard.read_bytes()
    shard.write_bytes(data[:-20] + bytes(20))
    with pytest.raises(Echo4oError, match=f"{shard.name} was changed after the dataset was built"):
        check_folder(copy)
    shard.write_bytes(data)
    (copy / "README.md").write_text((copy / "README.md").read_text() + "More.\n")
    check_folder(copy)
    shutil.copy(shard, shard.with_name("other.parquet"))
    with pytest.raises(Echo4oError, match=r"other.parquet, which its record does not name"):
        check_folder(copy)
    shard.with_name("other.parquet").unlink()
    shard.unlink()
    with pytest.raises(Echo4oError, match=f"lacks data/.*{shard.name}"):
        check_folder(copy)


def test_a_root_script_is_refused(dataset, tmp_path):
    script = dataset / "echo-4o-image.py"
    script.write_text("")
    try:
        with pytest.raises(Echo4oError, match="breaks load_dataset"):
            check_folder(dataset)
    finally:
        script.unlink()


def test_what_is_no_dataset_is_not_pushed(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["data", "push", str(tmp_path), "a/b"])
    assert "is no built dataset" in capsys.readouterr().err


def test_a_connection_that_is_cut_is_tried_again(dataset, monkeypatch):
    wanted, cut = check_folder(dataset), []
    real = datasets.load_dataset

    def flaky(path, config, **options):
        if config not in cut:
            cut.append(config)
            raise httpx.RemoteProtocolError("Server disconnected without sending a response.")
        return real(path, config, **options)

    monkeypatch.setattr(datasets, "load_dataset", flaky)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    compare(wanted, str(dataset), "v1")
    assert sorted(cut) == sorted(wanted)
    cut.clear()
    assert stats(str(dataset))["rows"] == 7


def test_stats_of_a_folder(dataset, capsys):
    main(["data", "stats", str(dataset), "--config", "multi_reference"])
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 2
    assert found["by_references"] == {"2": 1, "3": 1}
