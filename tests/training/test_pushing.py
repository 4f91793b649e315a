"""A run that publishes itself while it trains, on the sandbox's Hub with the real client."""

import json
import logging
import shutil
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from safetensors.torch import load_file

from echo4o import Echo4oPipeline
from echo4o.errors import Echo4oError
from echo4o.training.config import TrainConfig
from echo4o.training.overrides import override
from echo4o.training.train import train


@pytest.fixture
def api(sandbox, monkeypatch, tmp_path) -> HfApi:
    for name, value in sandbox.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    return HfApi(endpoint=sandbox.hub, token=sandbox.token)


@pytest.mark.slow
def test_a_run_is_on_the_hub_while_it_trains_and_at_its_end(
    config: TrainConfig, api: HfApi, tmp_path: Path, caplog
):
    caplog.set_level(logging.INFO)
    settings = ["steps=150", "push=echo4o-sandbox/trained", "push_every=10", "checkpoint_every=500"]
    settings += ['sample_prompts=["A photo of a red circle"]', "sample_every=150"]
    out = tmp_path / "run"
    assert train(override(config, settings), out).finished
    titles = [commit.title for commit in api.list_repo_commits("echo4o-sandbox/trained")]
    assert any("Step 150 of 150" in title for title in titles)
    early = [title for title in titles if "Step" in title and "Step 150" not in title]
    assert early, titles
    # Sending took many steps, and none of them waited for it.
    assert "is not pushed: step 10 is still sent" in caplog.text
    copy = Path(api.snapshot_download("echo4o-sandbox/trained", local_dir=tmp_path / "copy"))
    for name in ("README.md", "record.json", "loss.jsonl", "samples/step-0000150.png"):
        assert (copy / name).is_file(), name
    mine, theirs = (
        load_file(folder / "model/model.safetensors") for folder in (out / "model", copy)
    )
    assert all(tensor.equal(theirs[name]) for name, tensor in mine.items())
    assert Echo4oPipeline.from_pretrained(copy).model.config.hidden_size == 32
    # Nothing is left to send, and the finished run sends nothing again.
    assert [path.name for path in (out / "push").glob("step-*")] == []
    before = len(titles)
    assert train(override(config, settings), out).finished
    assert len(list(api.list_repo_commits("echo4o-sandbox/trained"))) == before


@pytest.mark.slow
def test_what_the_hub_refused_is_sent_by_the_next_call(
    config: TrainConfig, api: HfApi, tmp_path: Path, monkeypatch
):
    wanted = override(config, ["push=echo4o-sandbox/later"])
    with monkeypatch.context() as patch:
        patch.setenv("HF_TOKEN", "hf_wrong")
        with pytest.raises(Echo4oError, match=r"not on the Hub \(.*same command again"):
            train(wanted, tmp_path / "run")
    assert (tmp_path / "run/record.json").is_file()
    shutil.rmtree(tmp_path / "run/checkpoints")  # it does not train again
    assert train(wanted, tmp_path / "run").finished
    assert "model/model.safetensors" in api.list_repo_files("echo4o-sandbox/later")
    assert json.loads((tmp_path / "run/push/pushed.json").read_text())["step"] == 12
