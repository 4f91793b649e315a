"""The explorer from a push to a row on the screen, with only the wheel and its requirements."""

import os
import sys
from pathlib import Path

import pytest
from fresh import environment, run, started
from gradio_client import Client
from huggingface_hub import snapshot_download

REPO = "echo4o-sandbox/fresh-explorer"


@pytest.mark.slow
def test_a_pushed_explorer_starts_in_a_clean_environment(sandbox, published, wheel, tmp_path):
    dataset, results = published
    told = {**os.environ, **sandbox.environment(tmp_path / "home")}
    push = ["space", "push", "explore", REPO, "--dataset", dataset, "--results", results]
    run([sys.executable, "-m", "echo4o.cli", *push], env=told)
    space = Path(
        snapshot_download(
            REPO,
            repo_type="space",
            endpoint=sandbox.hub,
            token=sandbox.token,
            local_dir=tmp_path / "s",
        )
    )
    assert (space / "dataset.txt").read_text() == f"{dataset}\n"
    programs = environment(tmp_path / "clean", wheel, space)
    hub = {"HF_ENDPOINT": sandbox.hub, "HF_HUB_DISABLE_XET": "1"}
    with started(programs, space, tmp_path, hub) as (url, _):
        client = Client(url, verbose=False)
        listed = client.predict(subset="multi_reference", api_name="/rows")
        assert listed["total"] == 6
        row = client.predict(listed["rows"][3]["id"], api_name="/row")
        assert [one["width"] > 0 for one in (row["picture"], *row["references"])] == [True] * 5
        runs = client.predict(api_name="/results")["runs"]
        assert {run["model"] for run in runs} == {"good-model", "bad-model"}
