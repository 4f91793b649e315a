"""`echo4o.load_dataset` finds the dataset."""

import authors_layout
import datasets
import pytest
from hub_server import HubServer

from echo4o import load_dataset
from echo4o.dataset_builder import import_release
from echo4o.errors import Echo4oError
from echo4o.loading import source


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("loading")
    authors_layout.write_t2i(root / "release", rows=4)
    import_release(str(root / "release"), root / "echo-4o-image", validation=1)
    return root / "echo-4o-image"


def test_order_of_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ECHO4O_DATASET", raising=False)
    with pytest.raises(Echo4oError, match=r"\./echo-4o-image.*`path`.*\$ECHO4O_DATASET"):
        source()
    (tmp_path / "echo-4o-image").mkdir()
    assert source() == "echo-4o-image"
    monkeypatch.setenv("ECHO4O_DATASET", "me/mine")
    assert source() == "me/mine"
    assert source("you/yours") == "you/yours"


def test_loads_from_the_folder_and_the_variable(dataset, monkeypatch):
    monkeypatch.chdir(dataset.parent)
    monkeypatch.delenv("ECHO4O_DATASET", raising=False)
    rows = list(load_dataset(split="train", streaming=True))
    assert len(rows) == 3
    monkeypatch.chdir("/")
    monkeypatch.setenv("ECHO4O_DATASET", str(dataset))
    loaded = load_dataset("instruction_following", streaming=True, columns=["id"])
    assert {split: [*rows][0].keys() for split, rows in loaded.items()} == {
        "train": {"id"},
        "validation": {"id"},
    }


@pytest.mark.parametrize("load", [datasets.load_dataset, load_dataset], ids=["plain", "echo4o"])
def test_a_rebuilt_folder_and_a_namesake_are_read_anew(tmp_path, monkeypatch, load):
    """`datasets` alone keys its cache by the folder's bare name and the README's front matter."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def rows_of(place, rows):
        authors_layout.write_t2i(tmp_path / f"release-{rows}", rows=rows)
        out = tmp_path / place / "echo-4o-image"
        import_release(str(tmp_path / f"release-{rows}"), out)
        monkeypatch.chdir(out.parent)
        words = {"path": "echo-4o-image"} | ({"name": "all"} if load is not load_dataset else {})
        return len(load(**words, split="train"))

    assert [rows_of("a", 3), rows_of("a", 4), rows_of("b", 5), rows_of("a", 3)] == [3, 4, 5, 3]


def test_unknown_config_names_the_known_ones():
    with pytest.raises(ValueError, match="surreal_fantasy.*got 'surreal'"):
        load_dataset("surreal")


# HF_ENDPOINT is read when the libraries are imported, so these run in processes of their own.
ONLINE = """
import os, sys, time
from huggingface_hub import HfApi
from echo4o import load_dataset
from echo4o.dataset_builder.look import configs_of
from echo4o.hub_errors import HubError, patiently

root, server = sys.argv[1], int(sys.argv[2])
api, name, commits = HfApi(), "rehearsal/two-states", {}
api.create_repo(name, repo_type="dataset")
for rows in (3, 4):
    sent = api.upload_folder(repo_id=name, repo_type="dataset", folder_path=f"{root}/{rows}")
    commits[rows] = sent.oid
assert len(load_dataset(path=name, split="train", revision=commits[3])) == 2
os.kill(server, 9)
time.sleep = lambda seconds: None
try:
    found = load_dataset(path=name, split="train", revision=commits[4])
except HubError as error:
    assert "check the network" in str(error), error
else:
    raise AssertionError(f"{len(found)} rows of another revision")
assert len(load_dataset(path=name, split="train")) == 2  # as `datasets` does, which warns
try:
    found = patiently("look", lambda: configs_of(name, commits[4]))
except HubError:
    pass
else:
    raise AssertionError(f"{found} of another revision")
print(commits[3], commits[4])
"""
OFFLINE = """
import dataclasses, sys
from echo4o.errors import Echo4oError
from echo4o.training.data import load_rows
from echo4o.training.recipes import tiny

config = dataclasses.replace(tiny(), data="rehearsal/two-states")

def rows(revision):
    return len(load_rows(dataclasses.replace(config, revision=revision)))

assert rows(sys.argv[1]) == 2
try:
    rows(sys.argv[2])
except Echo4oError as error:
    assert f"{sys.argv[1][:12]} instead of {sys.argv[2][:12]}" in str(error), error
else:
    raise AssertionError("rows of another revision")
"""


def test_no_other_revision_than_the_one_that_was_asked_for(tmp_path):
    for rows in (3, 4):
        authors_layout.write_t2i(tmp_path / f"release-{rows}", rows=rows)
        import_release(str(tmp_path / f"release-{rows}"), tmp_path / str(rows), validation=1)
    hub, home = HubServer(tmp_path / "hub"), tmp_path / "home"
    try:
        words = hub.run(ONLINE, home, str(tmp_path), str(hub.process.pid))
    finally:
        hub.kill()
    hub.run(OFFLINE, home, *words.split(), HF_HUB_OFFLINE="1")
