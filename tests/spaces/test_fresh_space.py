"""From a push to the Hub to a picture, in an environment of the wheel and requirements.txt."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gradio_client import Client
from huggingface_hub import snapshot_download

from echo4o.models.pictures import is_marked_machine_made

ROOT = Path(__file__).parents[2]
REPO = "echo4o-sandbox/fresh-demo"


@pytest.mark.slow
def test_a_pushed_space_starts_in_a_clean_environment(sandbox, tmp_path):
    environment = {**os.environ, **sandbox.environment(tmp_path / "home")}
    tool = [sys.executable, "-m", "echo4o.cli"]
    run([*tool, "space", "push", "generate", REPO], env=environment)
    folder = snapshot_download(
        REPO, repo_type="space", endpoint=sandbox.hub, token=sandbox.token, local_dir=tmp_path / "s"
    )
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT])
    run([sys.executable, "-m", "venv", tmp_path / "clean"])
    python = tmp_path / "clean/bin/python"
    wanted = ["--find-links", tmp_path, "-r", Path(folder) / "requirements.txt"]
    run([python, "-m", "pip", "install", "-q", "--no-warn-script-location", *wanted])
    run([python, "-m", "pip", "check"])
    # Nothing of this checkout, and no sandbox: only what was downloaded.
    clean = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "ECHO4O_DEMO": "tiny",
        "OMP_NUM_THREADS": "1",
        "GRADIO_SERVER_PORT": "0",
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
    ready = tmp_path / "ready.json"
    command = [tmp_path / "clean/bin/echo4o", "space", "run", f"{folder}/"]
    started = time.monotonic()
    child = subprocess.Popen(
        [*command, "--port", "0", "--ready-file", ready], env=clean, cwd=tmp_path
    )
    try:
        while not ready.exists():
            assert child.poll() is None
            assert time.monotonic() - started < 120
            time.sleep(0.05)
        client = Client(json.loads(ready.read_text())["url"], verbose=False)
        reply = client.predict(prompt="A photo of a purple apple", api_name="/generate")
        print(f"from nothing to the first picture: {time.monotonic() - started:.1f} s")
        assert is_marked_machine_made(Path(reply["pictures"][0]["image"]))
    finally:
        child.terminate()
        child.wait(20)


def run(command, **options):
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
