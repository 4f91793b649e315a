"""All items of both benchmarks through the line: pictures, the authors' words, a report."""

import json
import time
from pathlib import Path

import pytest
from tests_sandbox import image_api

from echo4o.cli import main

FIGURES = Path(__file__).parents[2] / "benchmarks" / "results" / "real_items.json"

pytestmark = [pytest.mark.shared, pytest.mark.slow]


@pytest.mark.parametrize(("task", "items"), [("geneval_plus_plus", 280), ("imagine_bench", 270)])
def test_every_item_gets_a_verdict_and_a_place_in_the_report(
    shared, model_folder, tmp_path, monkeypatch, capsys, task, items
):
    monkeypatch.setenv("ECHO4O_BENCHMARKS", str(shared / "benchmarks"))
    out, started = tmp_path / "run", time.monotonic()
    words = ["eval", "run", task, "--items", "authors", "--model", str(model_folder)]
    words += ["--steps", "1", "--batch-size", "32", "--out", str(out), "--judge", "sandbox-judge"]
    with image_api(tmp_path / "sandbox") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai)
        monkeypatch.setenv("OPENAI_API_KEY", server.api_key)
        main([*words, "--explain"])
        assert f"{items} judged; {items} calls now" in capsys.readouterr().out
        main(words)
    assert f"{items} judged; 0 calls now" in capsys.readouterr().out
    run = json.loads((out / "run.json").read_text())
    assert run["protocol"]["name"] == "paper"
    assert run["scores"]["coverage"] == 1
    assert [verdict["number"] for verdict in run["verdicts"]] == list(range(1, items + 1))
    assert len(list((out / "pictures").glob("*.png"))) == items
    text = (out / "report.html").read_text()  # written by the run itself
    assert text.count("<article") == items
    assert "Published by others" in text
    figures = {
        "items": items,
        "pictures": items,
        "judged": run["scores"]["outcomes"]["judged"],
        "calls_of_the_second_run": run["calls"],
        "seconds_for_both_runs": round(time.monotonic() - started, 1),
        "report_mib": round(len(text) / 2**20, 2),
    }
    print(task, figures)
    known = json.loads(FIGURES.read_text()) if FIGURES.is_file() else {}
    FIGURES.write_text(json.dumps(known | {task: figures}, indent=1) + "\n")
