"""A release that another echo4o worded: no false alarm, and a false figure on its card is found."""

import json
import random
import re
import time

import pytest

from echo4o.cli import run_verb
from echo4o.maker import maker
from echo4o.manifest import Manifest, Release, read_manifest, seal
from echo4o.records import Input, RunRecord, sha256_file
from echo4o.release.card_facts import compare_card
from echo4o.release.table import Table
from echo4o.release.uses import check_model_card, check_results, check_scores
from echo4o.release.verify import Target, check_repo

REPO, OLDER = "acme/echo-4o-tiny", "echo4o 0.0.9+0123456789ab"


def score(share, items):
    return {"score": share, "low": share - 0.09, "high": share + 0.08, "items": items}


@pytest.fixture
def model(tmp_path):
    """A model repo with record, scores of two tags, told facts, and the card that they give."""
    folder = tmp_path / "model"
    (folder / "scores/run").mkdir(parents=True)
    (folder / "weights.dat").write_bytes(b"w" * 100)
    told = {"license": "apache-2.0", "limits": ["Knows 8 shapes at 64 pixels."]}
    told["parts"] = [{"name": "acme/ae", "role": "image autoencoder", "sha256": "cd" * 32}]
    (folder / "card.json").write_text(json.dumps(told))
    run = {
        "task": "geneval_plus_plus",
        "judge": {"model": "judge-7"},
        "protocol": {"name": "kit", "version": "2"},
        "items": {"source": "kit"},
        "scores": {
            "overall": score(0.5034, 210),
            "one_or_two_objects": None,
            "by_tag": {"counting": score(0.3, 33), "color_attr": score(0.7021, 31)},
        },
    }
    (folder / "scores/run/run.json").write_text(json.dumps(run))
    RunRecord(
        name="tiny",
        command="echo4o train run tiny",
        inputs=(
            Input(kind="dataset", id="acme/echo-4o-image", revision="a1" * 20),
            Input(kind="model", id="acme/base", revision="b2" * 20),
        ),
        seed=37,
        environment={"echo4o": "0.0.9", "torch": "2.13.0"},
        metrics={
            "steps": 1300,
            "first_loss": 2.125,
            "last_loss": 0.4375,
            "parameters_trained": 371,
        },
        files={"weights.dat": sha256_file(folder / "weights.dat")},
        started="2026-01-02T03:04:05Z",
        seconds=61.4,
    ).save(folder)
    render(folder)
    return folder


def render(folder):
    words = ["model", str(folder), "--repo", REPO, "--eval", str(folder / "scores/run")]
    run_verb("card", "render", words)


def older(card):
    """The same facts in other words, another order, other figures' length, and less of it."""
    matter, body = card.split("---\n", 2)[1:]
    matter = matter.replace("any-to-any", "text-to-image").replace("- echo-4o\n", "- echo4o-kit\n")
    table = ["| part | judge | points | of |", "|---|---|---|---|"]
    head, _, rest = body.partition("## Scores")
    scores, _, rest = rest.partition("## How it was trained")
    for row in re.findall(r"^\| geneval.*$", scores, re.M):
        _, _, tag, told, items, judge, _ = row.strip("| ").split(" | ")
        whole = re.sub(r"(\d+\.\d)%", lambda found: f"{float(found[1]):.0f} %", told)
        table.append(f"| {tag} | {judge} | {whole} | {items} |")
    rest = rest.partition("## Citation")[0]
    head = head.replace("A unified model that makes", "One of 3 models here, which makes up to 4")
    rest = rest.replace("optimiser steps; loss", "steps, with a loss of")
    rest = re.sub(r", in \d+ s", "", rest.replace("Started from", "From"))
    news = "## Thanks\n\nTo everybody, see [it](https://arxiv.org/abs/2508.09987), 2 times.\n"
    told = "\n".join(table)
    return f"---\n{matter}---\n{head}## What it reaches\n\n{told}\n\n## Making\n{rest}{news}"


def verified(folder, made_by):
    release = Release(name="n", version="v1", packages={}, made_by=made_by)
    seal(folder, REPO, "model", release)
    table = Table()
    manifest = check_repo(folder, Target("model", REPO, None), None, table)
    check_model_card(folder, "model", REPO, table, made_by=manifest.made_by)
    return table


def test_the_same_version_compares_every_line(model):
    assert not verified(model, maker()).bad_rows
    card = (model / "README.md").read_text()
    (model / "README.md").write_text(card.replace("## Use", "## How to use"))
    (row,) = verified(model, maker()).bad_rows
    assert "## How to use" in row.found


def test_a_card_in_other_words_is_honest(model):
    card = older((model / "README.md").read_text())
    assert "| counting |" in card
    assert "30 % [21 %, 38 %]" in card
    (model / "README.md").write_text(card)
    table = verified(model, OLDER)
    assert not table.bad_rows, table.lines()
    assert OLDER in " ".join(row.found for row in table.rows)


def test_every_false_figure_or_name_on_such_a_card_is_found(model):
    """Also where whoever forged it wrote the manifest anew, so that every hash fits."""
    card = older((model / "README.md").read_text())
    records = [json.loads(path.read_text()) for path in model.rglob("*.json")]
    wanted = (model / "README.md").read_text()
    assert not compare_card(card, wanted, records)
    # Words of sentences are not facts: one-digit numbers in prose, tags, the snippet's prompt.
    draw, missed, tried = random.Random(8), [], 0
    for found in [*re.finditer(r"\d+(?:\.\d+)?", card)] * 5:
        line = card[card.rfind("\n", 0, found.start()) + 1 : card.find("\n", found.end())]
        is_word = len(found[0]) == 1 and not line.startswith("|")
        place = found.start() + draw.randrange(len(found[0]))
        if is_word or re.search(r"^- echo|^- arxiv|^from |image|pipe|arxiv.org|sha256 ", line):
            continue
        if card[place] != ".":
            other = draw.choice([digit for digit in "123456789" if digit != card[place]])
            tried += 1
            if not compare_card(card[:place] + other + card[place + 1 :], wanted, records):
                missed.append((found[0], other, line[:60]))
    assert tried > 250
    assert not missed, (len(missed), tried, missed[:10])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("license: apache-2.0", "license: mit"),
        ("acme/echo-4o-image", "acme/other-image"),
        ("from_pretrained(\"acme/echo-4o-tiny\")", "from_pretrained(\"evil/echo-4o-tiny\")"),
        ("| 30 % [21 %, 38 %] |", "| 70 % [61 %, 78 %] |"),
        ("| `judge-7` |", "| `judge-8` |"),
        ("value: 0.5034", "value: 0.9034"),
        ("To everybody", "See https://evil.example/download to"),
        ("To everybody", "Right in 97.5 % of cases. To everybody"),
        ("To everybody", "Trained on 178,228 rows. To everybody"),
    ],
)  # fmt: skip
def test_a_forgery_in_other_words_is_found_and_named(model, old, new):
    card = older((model / "README.md").read_text())
    assert old in card
    (model / "README.md").write_text(card.replace(old, new))
    bad = [
        row for row in verified(model, OLDER).bad_rows if row.check.startswith("card: README.md")
    ]
    assert bad


def test_a_hostile_row_takes_no_time():
    row = "| a | " + " | ".join(["0.5"] * 60) + " |"
    record = {"a": dict.fromkeys(map(str, range(59)), 0.5)}
    began = time.process_time()  # of this process alone: others may have the machine
    assert compare_card(f"---\n---\n{row}\n", "---\n---\n", [record])
    assert time.process_time() - began < 2


def test_a_manifest_without_a_maker_is_read_and_compared_by_facts(model):
    seal(model, REPO, "model", Release(name="n", version="v1", packages={}))
    value = json.loads((model / "release.json").read_bytes())
    del value["made_by"]
    (model / "release.json").write_text(json.dumps(value))
    assert read_manifest(model).made_by == ""
    assert isinstance(read_manifest(model), Manifest)


def test_intervals_of_another_version_may_differ_a_little_and_scores_may_not(rehearsed, tmp_path):
    import shutil

    results = tmp_path / "results"
    source = next((rehearsed / "verified/repos").glob("datasets--*results*"))
    shutil.copytree(source, results, ignore=shutil.ignore_patterns(".cache"))
    model = next(p for p in (rehearsed / "verified/repos").iterdir() if (p / "scores").is_dir())

    def moved(key, by):
        """The stored runs with one number of the overall score moved."""
        for file in results.glob("runs/*/run.json"):
            value = json.loads((source / file.relative_to(results)).read_bytes())
            value["scores"]["overall"][key] += by
            file.write_text(json.dumps(value))
        tables = []
        for made_by in (maker(), OLDER):
            table = Table()
            check_results(results, "results", table, made_by=made_by)
            tables.append([row for row in table.bad_rows if "run.json" in row.check])
        return tables

    same, other = moved("low", -0.01)
    assert same
    assert not other
    assert all(moved("score", 0.01))
    assert all(moved("low", -0.2))
    table = Table()
    runs = check_results(source, "results", table, made_by=OLDER)
    assert check_scores(model, "model", runs, table, made_by=OLDER)
    assert not table.bad_rows, table.lines()
