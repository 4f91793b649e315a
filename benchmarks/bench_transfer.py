"""What training on the rehearsal's dataset gives another model: held-out items before and after.

A small random model of another family learns in the sandbox's world; then `release compare` judges
what it paints for the benchmark's own items, which the dataset was decontaminated against, before
and after. The whole line runs through the CLI, as a user would run it.

Run: python benchmarks/bench_transfer.py --data rehearsal/dataset/echo-4o-image [RECIPE ...]
Writes: benchmarks/results/transfer.json
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe

from echo4o.eval.runs import load_run
from echo4o.eval.tasks import get_task
from echo4o.release import process
from echo4o.release.rehearse import sheltered

TASK = "geneval_plus_plus"
RECIPES = ("tiny_omnigen2", "tiny_blip3o")
ITEMS, DENOISING_STEPS, GUIDANCE = 210, 25, 2.0
"""As in the rehearsal of BAGEL."""


def main() -> None:
    """Train, judge, print and keep the figures of every recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", nargs="*", default=list(RECIPES))
    parser.add_argument("--data", type=Path, required=True, help="dataset folder of a rehearsal")
    parser.add_argument("--out", type=Path, help="keep models and pictures here; resumes")
    args = parser.parse_args()
    result = Path(__file__).parent / "results/transfer.json"
    figures = json.loads(result.read_text()) if result.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        out = args.out or Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        for recipe in args.recipe:
            figures[recipe] = learn(recipe, args.data.resolve(), out.resolve() / recipe)
            print(recipe, json.dumps(figures[recipe], indent=1))
    result.write_text(json.dumps(figures, indent=1) + "\n")


def learn(recipe: str, data: Path, out: Path) -> dict[str, Any]:
    """Train `recipe` on `data` and judge its base and the result; returns the figures."""
    out.mkdir(exist_ok=True)
    machine = describe()
    trained, judged = out / "train", out / "judged"
    environment = sheltered(os.environ)
    begun = time.monotonic()
    run(environment, "train", "run", recipe, "--data", data, "--out", trained)
    training = time.monotonic() - begun
    ready = out / "ready.json"
    ready.unlink(missing_ok=True)
    words = ["sandbox", "serve", "--root", out / "sandbox", "--openai-port", 0, "--hub-port", 0]
    server = process.start(
        [str(word) for word in [*words, "--ready-file", ready]], environment, log=out / "server.log"
    )
    try:
        process.wait_for(ready, server, seconds=60, log=out / "server.log")
        facts = json.loads(ready.read_text())
        environment |= {"OPENAI_BASE_URL": facts["openai"], "OPENAI_API_KEY": facts["api_key"]}
        begun = time.monotonic()
        run(
            *(environment, "release", "compare", "--before", trained / "base"),
            *("--after", trained / "model", "--tasks", TASK, "--out", judged, "--"),
            *("--items", "kit", "--limit", ITEMS, "--judge", "sandbox-judge", "--no-canary"),
            *("--steps", DENOISING_STEPS, "--guidance", GUIDANCE),
        )
        judging = time.monotonic() - begun
    finally:
        process.stop(server)
    return {
        "training_seconds": round(training, 1),
        "judging_seconds": round(judging, 1),
        **scores(judged / TASK),
        "machine": machine,
    }


def scores(judged: Path) -> dict[str, Any]:
    """Shares of right items before and after, and their difference, each with 95 % limits."""
    task = get_task(TASK)
    before, after = (load_run(judged / name) for name in ("before", "after"))
    protocol = before.protocol["name"]
    change = task.compare(before.verdicts, after.verdicts, protocol).overall
    found: dict[str, Any] = {}
    for name, one in (("before", before), ("after", after)):
        overall = task.score(one.verdicts, protocol).overall
        found[name] = [round(value, 3) for value in (overall.score, overall.low, overall.high)]
    found["difference"] = [round(v, 3) for v in (change.difference, change.low, change.high)]
    return found | {"items": change.items}


def run(environment: dict[str, str], *words: object) -> None:
    """One verb in a child process, its output where ours goes."""
    child = process.start([str(word) for word in words], environment)
    if child.wait() != 0:
        raise subprocess.CalledProcessError(child.returncode, [str(word) for word in words])


if __name__ == "__main__":
    main()
