"""`echo4o card`: from the records on disk to a card, and findings as an exit status."""

import json
import subprocess
import sys

import pytest
from huggingface_hub import DatasetCard, ModelCard

from echo4o.cli import main
from echo4o.model_cards.gather import GatherError, model_facts, scores_of
from echo4o.records import Input, RecordError, RunRecord

SCORE = {"score": 0.5, "low": 0.4, "high": 0.6, "items": 30}


@pytest.fixture
def trained(tmp_path):
    folder = tmp_path / "run"
    (folder / "model").mkdir(parents=True)
    RunRecord(
        name="tiny",
        command="echo4o train run tiny",
        inputs=(
            Input(kind="dataset", id="acme/data", revision="a" * 40),
            Input(kind="model", id="base"),
        ),
        seed=3,
        metrics={"steps": 10, "first_loss": 2.0, "last_loss": 1.0, "parameters_trained": 1234},
    ).save(folder)
    return folder


@pytest.fixture
def judged(tmp_path):
    folder = tmp_path / "eval"
    folder.mkdir()
    scores = {"overall": SCORE, "one_or_two_objects": None, "by_tag": {"color": SCORE}}
    run = {
        "task": "geneval_plus_plus",
        "judge": {"model": "j"},
        "protocol": {"name": "kit", "version": "1"},
        "items": {"source": "kit"},
        "scores": scores,
    }
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def test_model_card_from_records(trained, judged, capsys):
    main(["card", "render", "model", str(trained), "--repo", "acme/m", "--eval", str(judged)])
    text = (trained / "README.md").read_text()
    card = ModelCard(text).data
    assert (card.datasets, card.base_model) == (["acme/data"], None)
    assert card.eval_results[0].metric_value == 0.5
    row = "| kit | overall | 50.0% [40.0%, 60.0%] | 30 | `j` | kit |"
    assert row in text
    assert "10 optimiser steps; loss 2.0000 at the first step, 1.0000 over" in text
    assert "1,234 parameters" in text
    assert "wrote" in capsys.readouterr().out


def test_dataset_card_keeps_what_the_builder_declared(tmp_path, capsys):
    RunRecord(name="d", command="echo4o data build").save(tmp_path)
    (tmp_path / "statistics.json").write_text(json.dumps({"rows": 19, "by_split": {"train": 19}}))
    readme = "---\nlicense: mit\nconfigs:\n- config_name: all\n  data_files: x\n---\n"
    (tmp_path / "README.md").write_text(readme)
    for _ in range(2):  # a card that is rendered again is the same card
        main(["card", "render", "dataset", str(tmp_path), "--repo", "acme/d"])
    card = DatasetCard((tmp_path / "README.md").read_text())
    assert (card.data.license, card.data.configs[0]["config_name"]) == ("mit", "all")
    assert "19 rows (19 in `train`)" in card.text
    main(["card", "check", str(tmp_path), "--kind", "dataset"])
    assert "fine" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["dataset", "model"])
def test_a_card_of_another_kind_takes_nobodys_place(kind, trained, tmp_path, capsys):
    folder = trained if kind == "dataset" else tmp_path
    RunRecord(name="d", command="echo4o data build").save(tmp_path)
    (folder / "README.md").write_text("its card")
    with pytest.raises(SystemExit):
        main(["card", "render", kind, str(folder)])
    assert "made; give another folder" in capsys.readouterr().err
    assert (folder / "README.md").read_text() == "its card"


def test_nothing_is_invented_without_a_record(tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["card", "render", "model", str(tmp_path)])
    assert stop.value.code == 1
    assert not list(tmp_path.iterdir())
    with pytest.raises(RecordError):
        RunRecord.load(tmp_path)


def test_unfinished_evaluation_is_refused(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(GatherError, match="no finished evaluation"):
        scores_of(tmp_path)


NO_CARD = [
    ("space", {"README.md": "---\ntitle: x\n---\n"}, "has no `emoji`"),
    ("metric", {"README.md": "---\na: x\n---\n", "m.py": "evaluate.Metric ("}, "no Python module"),
    ("dataset", {"statistics.json": "[" * 100_000}, "is not JSON"),
]


@pytest.mark.parametrize(("kind", "files", "said"), NO_CARD)
def test_folders_of_strangers_are_a_sentence(kind, files, said, tmp_path, capsys):
    record(tmp_path, {})
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit) as stop:
        main(["card", "render", kind, str(tmp_path), "--out", "-"])
    assert stop.value.code == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("card", [{"x": 1}, {"title": "t"}, {"title": "t", "origin": None}, [1]])
def test_statistics_that_are_none_are_left_out(card, tmp_path, capsys):
    record(tmp_path, {"card": card})
    (tmp_path / "statistics.json").write_text(
        '{"rows": "x", "by_subset": [1], "by_split": {"a": "b"}}'
    )
    main(["card", "render", "dataset", str(tmp_path), "--out", "-"])
    assert "## Rights" in capsys.readouterr().out


def record(folder, parameters):
    command = "echo4o data build"
    RunRecord(name="echo-4o-image", command=command, parameters=parameters).save(folder)


def test_findings_end_in_status_1(tmp_path, capsys):
    (tmp_path / "README.md").write_text("TODO")
    with pytest.raises(SystemExit) as stop:
        main(["card", "check", str(tmp_path)])
    assert stop.value.code == 1
    assert "placeholder" in capsys.readouterr().out


def test_importing_the_cards_is_light():
    code = (
        "import echo4o.model_cards, sys;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'jinja2', 'huggingface_hub')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_what_no_record_knows_comes_from_card_json(trained):
    told = {
        "license": "apache-2.0",
        "limits": ["Hands."],
        "contact": "me@example.org",
        "parts": [{"name": "BAGEL", "role": "base model", "license": "apache-2.0"}],
    }
    (trained / "card.json").write_text(json.dumps(told))
    main(["card", "render", "model", str(trained)])
    text = (trained / "README.md").read_text()
    assert ModelCard(text).data.license == "apache-2.0"
    assert "- Hands." in text
    assert "| BAGEL | base model | `apache-2.0` |" in text
    main(["card", "check", str(trained), "--kind", "model"])


@pytest.mark.parametrize(
    "told",
    [{"licence": "x"}, {"limits": "x"}, {"limits": [1]}, {"parts": [{"x": 1}]}, {"license": 1}],
)
def test_a_card_json_with_something_else_is_refused(trained, told):
    (trained / "card.json").write_text(json.dumps(told))
    with pytest.raises(GatherError, match="card.json") as error:
        model_facts(trained)
    assert "__init__" not in str(error.value)
