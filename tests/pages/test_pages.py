"""Every block of every page runs or says why not; the quick ones run here, all others are slow."""

import argparse
import importlib
import re
import shlex

import pytest
from page_blocks import ROOT, block, blocks, changed, commands, pages, reason
from page_table import CANNOT, CHANGES, STORIES
from PIL import Image
from tests_sandbox import image_api

from echo4o.cli import VERBS
from echo4o.rights import Rights, RightsError
from echo4o.sandbox import world

ALL = [one for page in pages() for one in blocks(page)]
QUICK = {
    ("README.md", "[rights]"),
    ("training/README.md", "from pathlib import Path"),
    ("eval/README.md", "import evaluate"),
    *((page, "import evaluate") for page in pages() if page.startswith("eval/metrics/")),
}
"""Blocks that run below; `test_stories.py` has the others."""


def test_every_block_is_run_by_a_test_or_cannot_run_here():
    told = QUICK | {(page, first) for page, firsts in STORIES for first in firsts}
    for one in ALL:
        assert one.language in ("sh", "bash", "python", "toml", "bibtex", ""), one
        if one.language in ("", "bibtex") or (lines := commands(one)) and all(map(reason, lines)):
            continue
        assert any(one.page == page and one.first.startswith(first) for page, first in told), one
    names = {(one.page, one.first) for one in ALL}
    for page, first in told:  # no entry outlives its block
        assert any(page == name and text.startswith(first) for name, text in names), (page, first)


def test_what_is_changed_or_cannot_run_still_stands_on_a_page():
    for page, changes in CHANGES.items():
        text = "\n".join([*(one.text for one in blocks(page)), *map(" ".join, _commands(page))])
        for old in changes:
            assert old in text, f"{page}: no block has {old!r} any more"
    every = [line for page in pages() for (line,) in _commands(page)]
    for words in CANNOT:
        assert any(re.match(words, line) for line in every), f"no page has {words!r} any more"
    kept_back = [line for line in every if reason(line)]
    assert len(kept_back) <= 25, kept_back
    assert len(kept_back) < len(every) / 2
    print(*(f"cannot run here: {line} ({reason(line)})" for line in kept_back), sep="\n")


def _commands(page: str) -> list[tuple[str]]:
    return [(line,) for one in blocks(page) for line in commands(one)]


@pytest.mark.parametrize("page", [page for page in pages() if any(_commands(page))])
def test_every_command_of_a_page_has_the_options_that_it_names(page):
    for (line,) in _commands(page):
        found = re.search(r"\becho4o (?!-)(.*)", line)
        if found is None:
            continue
        noun, *rest = shlex.split(found[1])
        verb = "" if "" in VERBS[noun] else rest.pop(0)
        module, function = VERBS[noun][verb][0].split(":")
        parser = argparse.ArgumentParser(prog=line, exit_on_error=False)
        getattr(importlib.import_module(module), f"{function}_arguments")(parser)
        try:
            parser.parse_args(rest)
        except (SystemExit, argparse.ArgumentError) as error:
            pytest.fail(f"{page}: `{line}`: {error}")


def test_the_rights_of_the_readme_are_read_once_they_are_filled_in(tmp_path):
    file = tmp_path / "RELEASE.toml"
    file.write_text(block("README.md", "[rights]").text)
    with pytest.raises(RightsError, match="is still 'MODEL of PROVIDER'"):
        Rights.load(file)
    file.write_text(changed("README.md", block("README.md", "[rights]").text))
    rights = Rights.load(file)
    assert rights.signed_off == "A. Person"
    rights.check_reference({"source": "human/1.png", "depicts_person": True}, "row 1")


def test_rows_of_ones_own_are_written_and_load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("bear", "rug", "bear-on-rug", "cube-football"):
        Image.new("RGB", (64, 64), "red").save(f"{name}.png")
    (tmp_path / "my_rows/data").mkdir(parents=True)
    exec(block("training/README.md", "from pathlib").text, {})
    import datasets

    rows = datasets.load_dataset("my_rows", split="train", cache_dir=str(tmp_path / "cache"))
    assert [len(row["input_images"]) for row in rows] == [2, 0]


@pytest.mark.parametrize(
    "page", [page for page, first in sorted(QUICK) if first == "import evaluate"]
)
def test_the_snippet_of_a_metric_judges_a_picture(page, tmp_path, tmp_path_factory, monkeypatch):
    """With the page's own words, in a folder where the metrics lie as they do in the checkout."""
    import evaluate
    from tiny_detectors import save_detectors

    snippet = changed(page, block(page, "import evaluate").text)
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval/metrics").symlink_to(ROOT / "eval/metrics")
    monkeypatch.chdir(tmp_path if page == "eval/README.md" else tmp_path / "eval/metrics")
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
    # One folder for the whole process, as in tests/eval/test_metric.py, which says why.
    modules = tmp_path_factory.getbasetemp() / "evaluate-modules"
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(modules))
    picture = tmp_path / "1.png"
    world.paint("A photo of three rings", width=64, height=64, seed=1).save(picture)
    for name in ("1.png", "1-2.png", "1-3.png", "1-4.png", "cup.png"):
        snippet = snippet.replace(f'"{name}"', repr(str(picture)))
    item = {"id": 1, "instruction": "A blue tent", "note": "Tents are green.", "type": "COLOR"}
    if page.endswith("geneval/README.md"):
        detector, clip = save_detectors(tmp_path)
        snippet = snippet.replace("references=[item] * 4)", "references=[item] * 4, **models)")
        models = {"detector": str(detector), "colours": str(clip)}
    else:
        models = {}
    with image_api(tmp_path / "sandbox") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai)
        monkeypatch.setenv("OPENAI_API_KEY", server.api_key)
        names = {"item": item, "models": models}
        # The last line shows a value; a notebook would print it.
        body, _, last = snippet.rstrip().rpartition("\n")
        exec(f"{body}\nshown = {last}", names)
    overall = names["shown"]
    assert 0 <= overall["low"] <= overall["score"] <= overall["high"]
    assert overall["items"] == 1
