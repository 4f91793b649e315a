"""SIGKILL at random moments of a build, with faults on: same bytes, nothing paid twice, no overrun.

2,000 rows are bought from the sandbox while it answers 429 and 5xx, cuts replies and refuses.
Every tenth run is the command line and may die while it imports. After each kill the ledger says
which calls were in flight: reserved, and not settled. In the end:

- the Parquet files equal those of a run that nobody disturbed, byte for byte;
- calls that the service delivered twice are at most those that were in flight at a kill;
- at every kill the service's bill is within what the ledger has committed, and that within the
  budget; a second folder with a third of the money needed shows the same.

Run: python benchmarks/bench_kills.py [--rows 2000] [--kills 200]
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import kill_buyer
from machine import describe

from echo4o.cli import main as command
from echo4o.client import PriceTable
from echo4o.dataset_builder.build import build
from echo4o.dataset_builder.estimate import Estimator
from echo4o.dataset_builder.plan import iterate_plan
from echo4o.errors import Echo4oError
from echo4o.ledger import Ledger

FAULTS = "429=0.05,500=0.03,503=0.02,cut=0.03,truncate=0.02,refuse=0.06,retry_after=20ms"
MIX = "instruction_following=0.6,surreal_fantasy=0.2,multi_reference=0.2"
CHILDREN = multiprocessing.get_context("forkserver")


class Api(NamedTuple):
    """A sandbox of its own process."""

    process: subprocess.Popen[bytes]
    url: str
    key: str
    bills: Path

    def paid(self) -> list[dict[str, Any]]:
        """The service's call log."""
        if not self.bills.exists():
            return []
        lines = self.bills.read_text().split("\n")
        return [json.loads(line) for line in lines[:-1]]


class Flight:
    """Which calls were in flight at each kill, by the ledger."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before: set[tuple[str, float]] = set()
        self.calls = 0
        self.most = 0
        self.committed = 0.0

    def look(self) -> None:
        """Count what is reserved now and was not at the last kill."""
        try:
            with Ledger(self._folder / "ledger.sqlite", read_only=True) as ledger:
                now = {(one.key, one.lost_usd) for one in ledger.entries("reserved")}
                self.committed = ledger.committed_usd
        except Echo4oError:
            return  # it was killed before there was a ledger
        fresh = len(now - self._before)
        self.calls += fresh
        self.most = max(self.most, fresh)
        self._before = now


def main() -> None:
    """Kill, compare, write benchmarks/results/kills.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    machine = describe()
    CHILDREN.set_forkserver_preload(kill_buyer.PRELOAD)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        expected = undisturbed(root / "whole", args.rows, args.seed)
        results = killed(root / "killed", args.rows, args.kills, args.seed, budget=3.0)
        results["parquet_equal"] = files(root / "killed") == expected
        poor = killed(root / "poor", args.rows // 4, max(5, args.kills // 10), 1, budget=0.33)
        results["with_a_third_of_the_money"] = poor
    results = {"machine": machine, "rows": args.rows, "faults": FAULTS, **results}
    print(json.dumps(results, indent=1))
    assert results["parquet_equal"]
    for one in (results, poor):
        assert one["delivered_twice"] <= one["in_flight_at_kills"]
        assert one["overruns"] == 0
    if args.kills >= 200:
        path = Path(__file__).parent / "results/kills.json"
        path.write_text(json.dumps(results, indent=1) + "\n")


def undisturbed(root: Path, rows: int, seed: int) -> dict[str, str]:
    """Hashes of the Parquet files of a run without kills."""
    api = serve(root, seed)
    plan(root, rows, seed)
    finish(root, api, 1000.0)
    api.process.terminate()
    api.process.wait()
    return files(root)


def killed(root: Path, rows: int, kills: int, seed: int, *, budget: float) -> dict[str, Any]:
    """Kill `kills` runs with `budget` times the estimated money, then finish if it suffices."""
    draw = random.Random(seed)
    api = serve(root, seed)
    plan(root, rows, seed)
    estimate = estimated(root / "work")
    money = budget * estimate
    flight, overruns, ended, longest = Flight(root / "work"), 0, 0, 1.0
    begun = time.monotonic()
    for number in range(kills):
        ended += not run_and_kill(root, api, money, draw, longest, is_command=number % 10 == 0)
        flight.look()
        paid = sum(bill["cost_usd"] for bill in api.paid())
        overruns += not paid <= flight.committed + 1e-9 <= money + 2e-9
        # The kills are spread over the whole work, however fast the machine is.
        is_early = len({bill["client_key"] for bill in api.paid()}) / (1.2 * rows) < number / kills
        longest = min(20.0, max(0.2, longest * (1.1 if is_early else 0.9)))
        if number % 10 == 9:
            seconds = time.monotonic() - begun
            print(f"{number + 1} kills, {len(api.paid())} paid, {seconds:.0f} s", flush=True)
    if budget > 1:
        finish(root, api, money)
        flight.look()
    bills = api.paid()
    api.process.terminate()
    api.process.wait()
    delivered = Counter(bill["client_key"] for bill in bills if bill["delivered"])
    paid = sum(bill["cost_usd"] for bill in bills)
    return {
        "kills": kills - ended,
        "ended_before_the_kill": ended,
        "paid_calls": len(bills),
        "different_calls": len({bill["client_key"] for bill in bills}),
        "lost_on_the_way": sum(not bill["delivered"] for bill in bills),
        "delivered_twice": delivered.total() - len(delivered),
        "in_flight_at_kills": flight.calls,
        "most_in_flight_at_a_kill": flight.most,
        "overruns": overruns,
        "estimate_usd": round(estimate, 4),
        "paid_usd": round(paid, 4),
        "committed_usd": round(flight.committed, 4),
        "budget_usd": round(money, 4),
        "seconds": round(time.monotonic() - begun, 1),
    }


def run_and_kill(
    root: Path, api: Api, money: float, draw: random.Random, longest: float, *, is_command: bool
) -> bool:
    """Whether a run was killed, not at its end before."""
    if is_command:
        words = ["data", "generate", str(root / "work"), "--model", "sandbox-image"]
        words += ["--size", "64x64", "--rewrite", "sandbox-text", "--budget", str(money)]
        environment = os.environ | {"OPENAI_BASE_URL": api.url, "OPENAI_API_KEY": api.key}
        started = subprocess.Popen(
            [sys.executable, "-m", "echo4o.cli", *words], env=environment, stdout=-3, stderr=-3
        )
        time.sleep(draw.uniform(0, 3 + longest))
        started.kill()
        return started.wait() == -signal.SIGKILL
    arguments = (root / "work", api.url, api.key, money)
    child = CHILDREN.Process(target=kill_buyer.buy, args=arguments)
    child.start()
    child.join(draw.uniform(0, longest))
    child.kill()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL, kill_buyer.NO_MONEY), child.exitcode
    return child.exitcode == -signal.SIGKILL


def finish(root: Path, api: Api, money: float) -> None:
    """Run to the end and build; what failed is tried again."""
    for _ in range(5):
        child = CHILDREN.Process(
            target=kill_buyer.buy, args=(root / "work", api.url, api.key, money)
        )
        child.start()
        child.join()
        assert child.exitcode == 0, child.exitcode
        with Ledger(root / "work" / "ledger.sqlite", read_only=True) as ledger:
            if not ledger.counts()["failed"]:
                break
    build(root / "work", root / "echo-4o-image", validation=50)


def plan(root: Path, rows: int, seed: int) -> None:
    """The same plan for the same seed."""
    words = ["--rows", str(rows), "--seed", str(seed), "--mix", MIX]
    command(["data", "plan", "shapes", "--out", str(root / "work"), *words])


def estimated(folder: Path) -> float:
    """What `--dry-run` says that the plan costs, in USD."""
    estimator = Estimator(kill_buyer.settings(), PriceTable.load())
    for entry in iterate_plan(folder):
        estimator.add(entry)
    return estimator.total.usd


def files(root: Path) -> dict[str, str]:
    """SHA-256 of the built Parquet files."""
    record = json.loads((root / "echo-4o-image" / "record.json").read_text())
    return {name: digest for name, digest in record["files"].items() if name.endswith(".parquet")}


def serve(root: Path, seed: int) -> Api:
    """Start a sandbox under `root`."""
    ready = root / "ready.json"
    root.mkdir(parents=True)
    command = [sys.executable, "-m", "echo4o.cli", "sandbox", "serve", "--root", str(root)]
    command += ["--openai-port", "0", "--hub-port", "0", "--ready-file", str(ready)]
    process = subprocess.Popen(
        [*command, "--faults", f"{FAULTS},latency=10ms,seed={seed}"], stdout=-3, stderr=-3
    )
    while not ready.exists():
        time.sleep(0.05)
    facts = json.loads(ready.read_text())
    return Api(process, facts["openai"], facts["api_key"], root / "openai" / "calls.jsonl")


if __name__ == "__main__":
    main()
