"""From a push to the Hub to a picture, in an environment of the wheel and requirements.txt."""

import os
import sys
import time
from pathlib import Path

import pytest
from fresh import environment, run, started
from gradio_client import Client
from huggingface_hub import snapshot_download

from echo4o.models.pictures import is_marked_machine_made

REPO = "echo4o-sandbox/fresh-demo"


@pytest.mark.slow
def test_a_pushed_space_starts_in_a_clean_environment(sandbox, wheel, tmp_path):
    told = {**os.environ, **sandbox.environment(tmp_path / "home")}
    run([sys.executable, "-m", "echo4o.cli", "space", "push", "generate", REPO], env=told)
    space = Path(
        snapshot_download(
            REPO,
            repo_type="space",
            endpoint=sandbox.hub,
            token=sandbox.token,
            local_dir=tmp_path / "s",
        )
    )
    programs = environment(tmp_path / "clean", wheel, space)
    with started(programs, space, tmp_path, {"ECHO4O_DEMO": "tiny"}) as (url, begun):
        client = Client(url, verbose=False)
        reply = client.predict(prompt="A photo of a purple apple", api_name="/generate")
        print(f"from nothing to the first picture: {time.monotonic() - begun:.1f} s")
        assert is_marked_machine_made(Path(reply["pictures"][0]["image"]))
