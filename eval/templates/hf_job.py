# /// script
# requires-python = ">=3.11"
# ///
"""Runs on HF Jobs: judges one revision of a model and opens a pull request with its scores.

Started by `echo4o eval job`, which names the dependencies; the disk is gone when it ends.
"""

import subprocess
import sys

TASK, ITEMS, MODEL, REVISION, JUDGE, RESULTS, PROTOCOL, *MORE = sys.argv[1:]


def echo4o(*words: str) -> None:
    """Run one verb; the job fails when it does."""
    subprocess.run([sys.executable, "-m", "echo4o.cli", *words], check=True)


if PROTOCOL != "kit":  # the authors' wording is on no new machine
    echo4o("eval", "fetch", TASK)
what = [TASK, "--items", ITEMS, "--model", MODEL, "--revision", REVISION, "--judge", JUDGE]
echo4o("eval", "run", *what, "--protocol", PROTOCOL, "--no-canary", *MORE, "--out", "run")
if RESULTS != "-":
    echo4o("eval", "push", "results", RESULTS, "run", "--pictures")
echo4o("eval", "submit", "run", MODEL)
