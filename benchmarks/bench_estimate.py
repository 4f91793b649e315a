"""What the dry runs of plan, generate and check say against what the sandbox then bills.

Every recipe goes through `data plan --llm`, `data generate --rewrite` and `data check`, each after
its dry run; once by a service without faults and once by one that fails, refuses and misaligns.
Nobody knows before a pilot how many texts will be rewritten, and so looked at twice; the estimate
of the check takes the share that came out. (The sandbox's judge knows eight shapes and nothing
else, so it has the texts of the paper's recipes rewritten.)

Run: python benchmarks/bench_estimate.py [--rows 120]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import describe

from echo4o.client import PriceTable
from echo4o.dataset_builder import checking, planning
from echo4o.dataset_builder.deciding import Rules
from echo4o.dataset_builder.drafts import RECIPES
from echo4o.dataset_builder.estimate import Estimator
from echo4o.dataset_builder.generate import Api, Settings, generate
from echo4o.dataset_builder.plan import iterate_plan
from echo4o.dataset_builder.questions import ApiSettings

FAULTS = "429=0.05,500=0.03,refuse=0.03,misalign=0.1,seed=1"
SETTINGS = Settings(model="sandbox-image", size="64x64", rewriter="sandbox-text", rewrites=3)


def main() -> None:
    """Measure; write benchmarks/results/estimate.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=120)
    rows = parser.parse_args().rows
    found: dict[str, Any] = {"rows": rows, "faults": FAULTS, "machine": describe()}
    for name, faults in (("sound", ""), ("with_faults", FAULTS)):
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measure(Path(folder), faults, rows)
    text = json.dumps(found, indent=1)
    print(text)
    (Path(__file__).parent / "results/estimate.json").write_text(text + "\n")


def measure(root: Path, faults: str, rows: int) -> dict[str, Any]:
    """Estimates and bills in USD by recipe."""
    ready = root / "ready.json"
    command = [sys.executable, "-m", "echo4o.cli", "sandbox", "serve", "--root", str(root / "api")]
    command += ["--openai-port", "0", "--hub-port", "0", "--ready-file", str(ready)]
    command += ["--faults", faults] if faults else []
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while not ready.exists():
            assert server.poll() is None, "the sandbox did not start"
        facts = json.loads(ready.read_text())
        os.environ |= {"OPENAI_BASE_URL": facts["openai"], "OPENAI_API_KEY": facts["api_key"]}
        bills = root / "api" / "openai" / "calls.jsonl"
        return {name: recipe(name, root / name, rows, bills) for name in ("shapes", *RECIPES)}
    finally:
        server.terminate()
        server.wait()


def recipe(name: str, work: Path, rows: int, bills: Path) -> dict[str, Any]:
    """One recipe from its plan to its check."""
    prices, told = PriceTable.load(), {}
    llm = None if name == "shapes" else "sandbox-text"
    request = planning.Request(recipe=name, rows=rows, llm=llm, api=ApiSettings(concurrency=32))
    before = billed(bills)
    expected = planning.write(request, work, dry_run=True).words.get("llm", {})
    planning.write(request, work)
    told["plan"] = compared(float(expected.get("usd", 0.0)), billed(bills) - before)
    estimator, before = Estimator(SETTINGS, prices), billed(bills)
    for entry in iterate_plan(work):
        estimator.add(entry)
    while generate(work, SETTINGS, Api(concurrency=32)).outcomes.get("failed"):
        pass
    told["generate"] = compared(estimator.total.usd, billed(bills) - before)
    rules, before = Rules(model="sandbox-judge"), billed(bills)
    looks = checking.estimate(work, rules, prices)
    done = checking.check(work, rules, concurrency=32)
    rewritten = done.counted.by_decision["rewrite"]
    may_be = sum(
        rules.of(row.subset) == "rewrite" for row in iterate_plan(work) if row.kind == "row"
    )
    again = looks.again_usd * rewritten / may_be if may_be else 0.0
    told["check"] = compared(looks.usd + again, billed(bills) - before) | {"rewritten": rewritten}
    sums = (sum(one[key] for one in told.values()) for key in ("estimate", "bill"))
    told["all"] = compared(*sums)
    print(name, json.dumps(told), flush=True)
    return told


def billed(bills: Path) -> float:
    """What the sandbox has billed so far in USD."""
    if not bills.exists():
        return 0.0
    return sum(json.loads(line)["cost_usd"] for line in bills.read_text().splitlines())


def compared(estimate: float, bill: float) -> dict[str, float]:
    """Both, and by how much the estimate is above the bill."""
    share = estimate / bill - 1 if bill else 0.0
    return {"estimate": round(estimate, 6), "bill": round(bill, 6), "off_by": round(share, 4)}


if __name__ == "__main__":
    main()
