"""Every Python snippet of the published cards, run as a reader would."""

import re
import subprocess
import sys

import pytest
from tests_sandbox import start_sandbox


@pytest.mark.slow
def test_every_python_snippet_of_the_published_cards_runs(rehearsed, tmp_path):
    """As a reader would: copied from the card, in a new process, against the Hub that holds it."""
    process, sandbox = start_sandbox(rehearsed / "sandbox")
    run = 0
    try:
        for card in sorted((rehearsed / "verified/repos").glob("*/README.md")):
            if card.parent.name.startswith("spaces--"):
                continue  # its snippet talks to the running app, as verify has done
            for snippet in re.findall(r"^```python\n(.*?)^```", card.read_text(), re.M | re.S):
                done = subprocess.run(
                    [sys.executable, "-c", snippet],
                    env=sandbox.environment(tmp_path / "home"),
                    cwd=tmp_path,
                    capture_output=True,
                    text=True,
                    timeout=300,
                )
                assert done.returncode == 0, f"{card}:\n{snippet}\n{done.stderr[-2000:]}"
                run += 1
    finally:
        process.terminate()
        process.wait(timeout=20)
    assert run == 3
