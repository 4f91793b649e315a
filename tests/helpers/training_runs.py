"""Runs training in forked processes, so that several runs, kills and ranks pay for one start-up.

As a script it takes a list of jobs as JSON: {"out": folder, "settings": [...]} with "signal" and
"steps" (send it whenever a step is reached), "jitter", or with "world". "from" copies
the folder of an earlier run first, without its result and its newest checkpoint. A setting
`recipe=NAME` takes another recipe than `tiny`. `tell` runs it.
"""

import json
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import datasets  # noqa: F401 (here, so that the forked processes need not)
import torch

from echo4o.training.overrides import override
from echo4o.training.recipes import RECIPES
from echo4o.training.train import train


class Story(NamedTuple):
    """How a run went."""

    statuses: list[int]
    printed: str
    out: Path


def tell(root: Path, words: list[str], jobs: Mapping[str, dict[str, Any]]) -> dict[str, Story]:
    """Run jobs one after another, each in the folder of its name; "also" adds settings."""
    listed = [
        {"out": str(root / name), **job, "settings": words + job.get("also", [])}
        for name, job in jobs.items()
    ]
    command = [sys.executable, __file__, json.dumps(listed)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    statuses = [json.loads(line) for line in done.stdout.splitlines()]
    printed = done.stderr.split("--- ")[1:]
    return {
        name: Story(*facts, root / name)
        for name, *facts in zip(jobs, statuses, printed, strict=True)
    }


def start(out: Path, settings: list[str], environment: dict[str, str]) -> int:
    """Fork a process that trains; returns its id."""
    if child := os.fork():
        return child
    status = 1
    try:
        os.environ.update(environment)
        logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
        named = [word for word in settings if word.startswith("recipe=")] or ["recipe=tiny"]
        train(override(RECIPES[named[0].removeprefix("recipe=")](), settings), out)
        status = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def trained_steps(out: Path) -> int:
    trace = out / "loss.jsonl"
    return trace.read_bytes().count(b"\n") if trace.exists() else 0


def interrupt(
    out: Path, settings: list[str], steps: list[int], number: int, jitter: float = 0.0
) -> list[int]:
    """Send a signal whenever a run reaches one of the steps, then let it end; exit statuses.

    The signal comes up to `jitter` seconds later: in the next step, or while a checkpoint is saved.
    """
    statuses = []
    for step in steps:
        child = start(out, settings, {})
        while trained_steps(out) < step:
            if os.waitpid(child, os.WNOHANG)[0]:
                raise SystemExit(f"the run ended before step {step}")
            time.sleep(0.0005)
        time.sleep(random.Random(step).uniform(0, jitter))
        os.kill(child, number)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    child = start(out, settings, {})
    return [*statuses, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]


def share(out: Path, settings: list[str], world: int) -> list[int]:
    """One run over several processes, as torchrun starts them; exit statuses."""
    with socket.socket() as free:  # now: what was free some runs ago may be somebody's
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_PORT": str(port)}
    common |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}
    children = [
        start(out, settings, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(world)
    ]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def take_over(earlier: Path, out: Path) -> None:
    """The state an earlier run was in at its last checkpoint but one."""
    shutil.copytree(earlier, out)
    (out / "record.json").unlink()
    shutil.rmtree(max((out / "checkpoints").iterdir()))


def main() -> None:
    torch.set_num_threads(1)
    for job in json.loads(sys.argv[1]):
        out, settings = Path(job["out"]), job["settings"]
        print(f"--- {out.name}", file=sys.stderr, flush=True)
        if "from" in job:
            take_over(out.parent / job["from"], out)
        if "world" in job:
            statuses = share(out, settings, job["world"])
        else:
            number = getattr(signal, job.get("signal", "SIGKILL"))
            steps, jitter = job.get("steps", []), job.get("jitter", 0.0)
            statuses = interrupt(out, settings, steps, number, jitter)
        print(json.dumps(statuses), flush=True)


if __name__ == "__main__":
    main()
