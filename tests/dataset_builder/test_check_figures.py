"""The long count of `data check`, for `make prove`: 1,000 rows, a third of the pictures wrong."""

import json
import os
import time
from pathlib import Path

import pytest
from tests_sandbox import image_api

from echo4o.cli import main
from echo4o.dataset_builder.checking import check
from echo4o.dataset_builder.deciding import Rules
from echo4o.records import RunRecord

RESULT = Path(__file__).parents[2] / "benchmarks/results/check.json"
FAULTS = "misalign=0.33,429=0.03,500=0.02,cut=0.01,garbage=0.02,flag=0.02"


@pytest.mark.slow
def test_aligned_share_before_and_after(tmp_path, monkeypatch):
    rows = int(os.environ.get("ECHO4O_CHECK_ROWS", "1000"))
    policy = {"surreal_fantasy": "rewrite", "multi_reference": "rewrite"}
    with image_api(tmp_path / "api", FAULTS) as api:
        monkeypatch.setenv("OPENAI_BASE_URL", api.openai)
        monkeypatch.setenv("OPENAI_API_KEY", api.api_key)
        work = tmp_path / "work"
        mix = "instruction_following=0.6,surreal_fantasy=0.2,multi_reference=0.2"
        main(["data", "plan", "shapes", "--out", str(work), "--rows", str(rows), "--mix", mix])
        main(["data", "generate", str(work), "--model", "sandbox-image", "--size", "64x64"])
        clock = time.monotonic()
        done = check(work, Rules(model="sandbox-judge", policy=policy), concurrency=16)
        seconds = time.monotonic() - clock
        again = check(work, Rules(model="sandbox-judge", policy=policy), concurrency=16)
    told = RunRecord.load(work / "check.json").metrics
    before, after = told["aligned_before"]["all"], told["aligned_after"]["all"]
    assert before["share"] < 0.8
    assert after["share"] > 0.98
    assert told["aligned_after"]["instruction_following"]["share"] > 0.995
    assert again.calls == 0
    result = {
        "rows": rows,
        "faults": FAULTS,
        "aligned_before": told["aligned_before"],
        "aligned_after": told["aligned_after"],
        "decisions": told["decisions"],
        "dropped": told["dropped"],
        "calls": done.calls,
        "spent_usd": round(done.spent_usd, 4),
        "seconds": round(seconds, 1),
        "calls_of_a_second_run": again.calls,
    }
    print(json.dumps(result))
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
