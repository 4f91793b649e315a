"""Seconds to judge 550 pictures against what latency, concurrency and the server's limit allow.

The sandbox's judge answers after 2 s, 32 calls at once: first with 5 % of 429, 5xx and garbage, in
three draws; then with a limit of 600 requests a minute and no fault of its own; then with 5 % of
faults and a limit of 900 a minute together. A second pass over the same pictures asks nothing.

`bound_s` is what latency, concurrency and limit set for so many calls: whole rounds of 2 s with 32
calls each (the 577th call cannot end with the 18th round), or the calls at the limit's pace. A
picture whose last call fails in the last round needs rounds of its own, which no client can know
beforehand: `best_schedule_s` is the time of one that starts at once, loses no moment, and repeats
first what failed. Everything is measured from the call of `judge` on, the import of the SDK
included. A 429 is our doing when the limit's headers say that nothing is left; the others are
drawn. The server is a process on this machine.

Run: python benchmarks/bench_judging.py [DRAW ...]   (the number of a line of FAULTS; all if absent)
"""

import dataclasses
import heapq
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from machine import describe

from echo4o.client import AdaptiveLimit
from echo4o.eval.cases import Case
from echo4o.eval.foreseen import spread
from echo4o.eval.judging import JudgeConfig, Judged, judge, make_cases
from echo4o.eval.tasks import get_task
from echo4o.ledger import Ledger
from echo4o.sandbox.world import paint

PICTURES = 550
CONCURRENCY = 32
LATENCY_S = 2.0
FAULTS = {
    **{
        f"five percent of faults, draw {seed}": (
            f"429=0.02,500=0.01,503=0.01,garbage=0.01,rpm=3000,seed={seed}"
        )
        for seed in (1, 2, 3)
    },
    "600 requests a minute": "rpm=600,burst=40,seed=1",
    "five percent of faults and 900 requests a minute": (
        "429=0.02,500=0.01,503=0.01,garbage=0.01,rpm=900,burst=40,seed=4"
    ),
}
RESULTS = Path(__file__).parent / "results/judging.json"


def main() -> None:
    """Measure all, or the chosen ones; keep them in benchmarks/results/judging.json."""
    chosen = [list(FAULTS)[int(number)] for number in sys.argv[1:]] or list(FAULTS)
    task = get_task("geneval_plus_plus")
    kit = task.items("kit").items
    items = [dataclasses.replace(kit[n % len(kit)], number=n + 1) for n in range(PICTURES)]
    old = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    results: dict[str, Any] = {title: old[title] for title in FAULTS if title in old}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        pictures = {}
        for item in items:
            pictures[item.number] = root / f"{item.number}.png"
            paint(item.prompt, width=64, height=64, seed=item.number).save(pictures[item.number])
        for title in chosen:
            folder = root / title.replace(" ", "_")
            folder.mkdir()
            found = _measure(items, pictures, task.protocol("kit"), FAULTS[title], folder)
            results[title] = found | {"machine": describe()}
            print(title, json.dumps(found), flush=True)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def _measure(items: Any, pictures: Any, protocol: Any, faults: str, folder: Path) -> dict[str, Any]:
    limited = _count_limited()
    with _serve(folder, f"{faults},latency={int(1000 * LATENCY_S)}ms"):

        def run() -> Judged:
            return judge(
                items,
                pictures,
                protocol=protocol,
                config=JudgeConfig(model="sandbox-judge", concurrency=CONCURRENCY),
                ledger=folder / "ledger.sqlite",
            )

        clock = time.perf_counter()
        found = run()
        seconds = time.perf_counter() - clock
        again = run()
    per_minute = float(faults.partition("rpm=")[2].partition(",")[0])
    by_limit = found.calls * 60 / per_minute  # at its pace, whatever it might let through at once
    bound = max(math.ceil(found.calls / CONCURRENCY) * LATENCY_S, by_limit)
    cases = make_cases(items, [pictures], protocol)
    best = max(by_limit, _best_schedule(found, cases, folder / "ledger.sqlite"))
    return {
        "seconds": round(seconds, 1),
        "calls": found.calls,
        "bound_s": round(bound, 1),
        "share_of_bound": round(bound / seconds, 3),
        "best_schedule_s": round(best, 1),
        "share_of_best_schedule": round(best / seconds, 3),
        "answered_429": limited["all"],
        "answered_429_because_of_us": limited["ours"],
        "judged": sum(one.outcome == "judged" for one in found.verdicts),
        "calls_of_second_run": again.calls,
    }


def _best_schedule(found: Judged, cases: Sequence[Case], ledger: Path) -> float:
    """Seconds of a client that starts at once, loses no moment, and repeats first what failed."""
    with Ledger(ledger, read_only=True) as book:
        tries = {entry.key: entry.attempts for entry in book.entries()}
    # A reply that was garbage has a request of its own for the next one.
    taken = [tries[str(one.key)] + one.calls - 1 for one in found.verdicts]
    waiting = deque(taken[place] for place, _ in spread(cases))
    busy: list[tuple[float, int]] = []
    clock = 0.0
    while waiting or busy:
        while waiting and len(busy) < CONCURRENCY:
            heapq.heappush(busy, (clock + LATENCY_S, waiting.popleft() - 1))
        clock, left = heapq.heappop(busy)
        if left:
            waiting.appendleft(left)
    return clock


def _count_limited() -> Counter[str]:
    """Count 429 answers as the client sees them, and those that the limit's headers explain."""
    counted: Counter[str] = Counter()
    learn, observe = AdaptiveLimit.learn, AdaptiveLimit.observe
    left = math.inf

    def learning(self: AdaptiveLimit, headers: Mapping[str, str], *, tokens: int = 0) -> None:
        nonlocal left
        left = float(headers.get("x-ratelimit-remaining-requests", "inf"))
        learn(self, headers, tokens=tokens)

    def observing(self: AdaptiveLimit, *, limited: bool) -> None:
        counted["all"] += limited
        counted["ours"] += limited and left < 1
        observe(self, limited=limited)

    AdaptiveLimit.learn = learning  # type: ignore[method-assign]
    AdaptiveLimit.observe = observing  # type: ignore[method-assign]
    return counted


class _serve:
    """A sandbox of its own process."""

    def __init__(self, root: Path, faults: str) -> None:
        self._ready = root / "ready.json"
        command = [sys.executable, "-m", "echo4o.cli", "sandbox", "serve", "--root", str(root)]
        command += ["--openai-port", "0", "--hub-port", "0", "--ready-file", str(self._ready)]
        self._command = [*command, "--faults", faults]

    def __enter__(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=-3, stderr=-3)
        while not self._ready.exists():
            time.sleep(0.05)
        facts = json.loads(self._ready.read_text())
        os.environ |= {"OPENAI_BASE_URL": facts["openai"], "OPENAI_API_KEY": facts["api_key"]}

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)


if __name__ == "__main__":
    main()
