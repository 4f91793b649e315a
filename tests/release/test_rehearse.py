"""The rehearsal, through its command: once in small, and killed at random moments."""

import hashlib
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from release_lab import COMMAND, change_one, copy_repo, files_of, rehearse, target_of, write

from echo4o.cli import main
from echo4o.release.rehearse import Scale
from echo4o.release.table import Table
from echo4o.release.verify import check_repo


def parquet_hashes(out: Path) -> dict[str, str]:
    folder = out / "dataset/echo-4o-image"
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*.parquet"))
    }


def paid_calls(out: Path) -> Counter[str]:
    lines = (out / "sandbox/openai/calls.jsonl").read_text().splitlines()
    return Counter(json.loads(line)["key"] for line in lines)


def test_the_summary_has_every_score_with_its_interval(rehearsed):
    summary = json.loads((rehearsed / "summary.json").read_text())
    for run in ("untrained", "trained"):
        scores = summary[run]
        assert len(scores["by_tag"]) == 7
        for score in [scores["overall"], scores["one_or_two_objects"], *scores["by_tag"].values()]:
            assert 0 <= score["low"] <= score["score"] <= score["high"] <= 1
            assert score["items"] > 0
        assert scores["overall"]["items"] == Scale.quick().items
    assert summary["untrained"]["overall"]["score"] == 0
    assert summary["peak_rss_bytes"] < 6 * 2**30
    assert summary["repos"]["dataset"] == "echo4o-sandbox/echo-4o-image"


def test_everything_it_promises_is_there(rehearsed):
    page = (rehearsed / "report.html").read_text()
    assert page.count("data:image/") >= 2 * Scale.quick().items
    with Image.open(rehearsed / "demo.png") as picture:
        picture.load()
    assert (rehearsed / "training/model/model_index.json").exists()
    assert parquet_hashes(rehearsed)


def test_the_release_is_published_and_one_changed_byte_of_it_is_found(rehearsed, tmp_path):
    listed = json.loads((rehearsed / "release/published.json").read_text())
    assert [one["type"] for one in listed["repos"]] == ["dataset", "dataset", "model", "space"]
    public, draw = rehearsed / "keys/rehearsal.pub", random.Random(1)
    repos = rehearsed / "verified/repos"
    for kind, files in files_of(repos).items():
        path = draw.choice(files)
        home = repos / path.relative_to(repos).parts[0]
        name = path.relative_to(home).as_posix()
        target = target_of(home, pinned=False)
        copy, table = copy_repo(home, tmp_path / kind), Table()
        check_repo(copy, target, public, table)
        assert not table.bad_rows, table.lines()
        write(copy / name, change_one(path.read_bytes(), draw))
        check_repo(copy, target, public, table)
        assert any(name in row.check + row.found for row in table.bad_rows), (kind, name)


def test_every_published_card_has_the_metadata_of_its_kind(rehearsed, capsys):
    kinds = {"datasets--echo4o-sandbox--echo-4o-image": "dataset", "spaces--": "space"}
    checked = []
    for folder in sorted((rehearsed / "verified/repos").iterdir()):
        named = [kind for start, kind in kinds.items() if folder.name.startswith(start)]
        kind = "model" if (folder / "model_index.json").is_file() else "".join(named)
        if kind and folder.is_dir():
            main(["card", "check", str(folder), "--kind", kind])
            checked.append(kind)
    assert sorted(checked) == ["dataset", "model", "space"]
    assert capsys.readouterr().out.count(": fine") == 3


def test_no_call_was_paid_twice_and_a_second_run_pays_nothing(rehearsed):
    before = paid_calls(rehearsed)
    assert set(before.values()) == {1}
    done = rehearse(rehearsed)
    assert done.returncode == 0, done.stderr[-4000:]
    assert paid_calls(rehearsed) == before
    assert done.stdout.count("[done before]") >= 10


def test_a_folder_of_another_run_is_refused(rehearsed):
    done = rehearse(rehearsed, "--seed", "5")
    assert done.returncode == 1
    assert "another --out" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_mistyped_folder_does_not_claim_the_output(tmp_path):
    done = rehearse(tmp_path / "run", "--data", str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert done.stderr.strip() == f"error: --data: there is no folder {tmp_path / 'nowhere'}"
    assert not (tmp_path / "run/state.json").exists()


@pytest.mark.slow
def test_killed_at_five_random_moments_it_ends_in_the_same_dataset(rehearsed, tmp_path):
    draw, out = random.Random(2508), tmp_path / "run"
    before = paid_calls(rehearsed)
    for _ in range(5):
        child = subprocess.Popen(
            [*COMMAND, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(draw.uniform(2, 25))
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    for _ in range(50):  # orphans are gone within moments
        done = rehearse(out)
        if "another rehearsal" not in done.stderr:
            break
        time.sleep(0.2)
    assert done.returncode == 0, done.stderr[-4000:]
    assert parquet_hashes(out) == parquet_hashes(rehearsed)
    paid = paid_calls(out)
    # Judged pictures name the commit of their model, so only the number of questions is the same.
    assert len(paid) == len(before)
    # In flight is what is not in the ledger yet: asked, or received and being written.
    assert sum(paid.values()) - len(paid) <= 5 * 2 * 16
    assert max(paid.values()) <= 1 + 5, "no call is lost more than once a kill"
