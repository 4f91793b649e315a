"""What `echo4o space run|push explore` can be told to load, and what it says to nonsense."""

import pytest
from huggingface_hub import SpaceCard

from echo4o import space_cli
from echo4o.cli import main


def test_staged_space_names_its_data_and_its_card_links_them(tmp_path):
    told = space_cli.stage(
        "explore", tmp_path / "told", dataset="acme/rows@v1", results="acme/results"
    )
    assert (told / "dataset.txt").read_text() == "acme/rows@v1\n"
    assert (told / "results.txt").read_text() == "acme/results\n"
    card = SpaceCard((told / "README.md").read_text())
    assert (card.data.datasets, card.data.sdk) == (["acme/rows", "acme/results"], "gradio")
    assert card.data.title == "Echo-4o explorer"
    assert len(card.data.short_description) <= 60


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["explore", "--model", "a/b"], "the Space explore loads no model; it takes --dataset and"),
        (["generate", "--dataset", "a/b"], "the Space generate loads no dataset; it takes --model"),
        (["explore", "--results", "nowhere"], "there is no folder 'nowhere', and it is no Hub id"),
    ],
)
def test_what_a_space_cannot_load_is_one_sentence(capsys, words, sentence):
    with pytest.raises(SystemExit) as stop:
        main(["space", "run", *words, "--port", "0"])
    assert stop.value.code == 1
    assert sentence in capsys.readouterr().err


def test_a_source_comes_from_the_environment_or_a_file_beside_the_app(
    module, tmp_path, monkeypatch
):
    stores = module("stores")
    monkeypatch.setattr(stores, "HERE", tmp_path)
    monkeypatch.delenv("ECHO4O_DATASET", raising=False)
    assert stores.configured("dataset") is None
    (tmp_path / "dataset.txt").write_text("acme/rows\n")
    assert stores.configured("dataset") == "acme/rows"
    monkeypatch.setenv("ECHO4O_DATASET", "other/rows")
    assert stores.configured("dataset") == "other/rows"
    assert stores.shown_name("/nowhere/secret/rows") == "rows"
