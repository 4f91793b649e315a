# /// script
# requires-python = ">=3.11"
# ///
"""Runs on HF Jobs: judges one revision of a model and opens a pull request with its scores.

Started by `echo4o eval job`, which names the dependencies; the disk is gone when it ends.
"""

import subprocess
import sys

TASK, ITEMS, MODEL, REVISION, JUDGE, *REST = sys.argv[1:]
RESULTS, MORE = (REST[0] if REST else "-"), REST[1:]


def echo4o(*words: str) -> None:
    """Run one verb; the job fails when it does."""
    subprocess.run([sys.executable, "-m", "echo4o.cli", *words], check=True)


what = [TASK, "--items", ITEMS, "--model", MODEL, "--revision", REVISION, "--judge", JUDGE]
echo4o("eval", "run", *what, "--no-canary", *MORE, "--out", "run")
if RESULTS != "-":
    echo4o("eval", "push", "results", RESULTS, "run", "--pictures")
echo4o("eval", "submit", "run", MODEL)
