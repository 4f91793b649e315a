"""Loads the published metrics as `evaluate` does, and judges stored pictures with them again.

A metric is foreign code: it runs in a child process without tokens, and gets the judge's key only
when its module is, byte for byte, the installed one.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..children import DIE_WITH_PARENT
from ..records import sha256_file
from .demo import without_secrets
from .rejudge import LEAST_AGREEMENT, SAMPLE
from .sample import metric_module
from .table import Table

_KEY = "OPENAI_API_KEY"
_SECONDS = 900


class Metric(NamedTuple):
    """A published metric."""

    name: str
    """What the table calls it."""
    space: str
    """`ORG/NAME@COMMIT`."""
    folder: Path


def is_metric(folder: Path, repo: str) -> bool:
    """Whether a downloaded Space holds an `evaluate` module."""
    return (folder / f"{repo.rpartition('/')[2]}.py").is_file()


def check_metrics(
    metrics: Sequence[Metric], results: Path | None, out: Path, table: Table, *, judged: bool
) -> None:
    """Load each from the Hub at its commit; with `judged`, compare its verdicts, too.

    Args:
        metrics: Those whose files have been held against their manifest.
        results: The downloaded results dataset, if the release has one.
        out: Folder for modules, pictures and ledgers.
        table: Gets the rows.
        judged: Ask the judge, which costs calls.
    """
    own = [one for one in metrics if _is_installed(one)]
    foreign = [one for one in metrics if one not in own]
    with_key = own if judged and results is not None else []
    without = [*foreign, *(one for one in own if one not in with_key)]
    if with_key:
        _ask(with_key, results, out, table, secrets={_KEY})
    if without:
        _ask(without, None, out, table, secrets=set())


def _ask(
    metrics: Sequence[Metric], results: Path | None, out: Path, table: Table, secrets: set[str]
) -> None:
    words = ["eval", "again", *(one.space for one in metrics), "--out", str(out / "again")]
    words += ["--most", str(SAMPLE), "--json"]
    words += ["--results", str(results)] if results is not None else []
    environment = without_secrets(os.environ, *secrets)
    # Not the user's: an older copy of the same name must not answer for this one.
    environment |= {"HF_MODULES_CACHE": str(out / "modules"), "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "echo4o.cli", *words],
        env=environment, capture_output=True, text=True, check=False, timeout=_SECONDS,
        preexec_fn=DIE_WITH_PARENT,
    )  # fmt: skip
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        said = done.stderr.strip().splitlines()[-1:] or ["no answer"]
        for one in metrics:
            table.bad(one.name, "evaluate.load", said[0][:300], "a metric that loads")
        return
    for one, told in zip(metrics, found, strict=True):
        _add(one, told, table)


def _add(metric: Metric, told: Mapping[str, Any], table: Table) -> None:
    first = str(told["description"]).splitlines()[0]
    table.good(metric.name, "evaluate.load", first[:80], "a metric that loads")
    for run in told["runs"]:
        least = int(LEAST_AGREEMENT * run["asked"])
        said = f"{run['equal']} of {run['asked']} verdicts equal, {run['calls']} calls"
        add = table.good if run["equal"] >= least and run["asked"] else table.bad
        add(metric.name, f"metric.compute: {run['run']}", said, f"at least {least}")


def _is_installed(metric: Metric) -> bool:
    """Whether its module is the one of this installation."""
    name = metric.space.partition("@")[0].rpartition("/")[2]
    ours, theirs = metric_module(name), metric.folder / f"{name}.py"
    return ours is not None and sha256_file(ours) == sha256_file(theirs)
