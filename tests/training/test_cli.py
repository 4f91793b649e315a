"""The command line, through `python -m echo4o.training` and torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from training_rows import make_row, write_dataset


def command(*words: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *launcher, "-m", "echo4o.training", *words],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )


def given(settings: list[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def test_a_run_from_the_command_line(settings, mixed, tmp_path):
    out = tmp_path / "run"
    words = ("run", "tiny", *given([*settings, "log_every=6"]), "--data", str(mixed))
    done = command(*words, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert f"model: {out / 'model'}" in done.stdout
    assert "step     12  loss" in done.stdout + done.stderr
    assert "tokens/s" in done.stdout + done.stderr
    config = json.loads((out / "config.json").read_text())
    assert config["data"] == mixed.name


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("run", "tinny"), "there is no recipe 'tinny'; the nearest one is 'tiny'"),
        (("run", "tiny", "--set", "step=1"), "the nearest one is 'steps'"),
        (("plan", "tiny", "--set", "packs_per_step=0"), "`packs_per_step` must be at least 1"),
        (("run", "tiny", "--data", "./nowhere"), "there is no folder ./nowhere"),
    ],
)
def test_mistakes_end_in_one_sentence(words, sentence, monkeypatch, capsys):
    from echo4o.cli import main

    with pytest.raises(SystemExit) as stopped:
        main(["train", *words])
    assert stopped.value.code == 1
    printed = capsys.readouterr().err
    assert sentence in printed
    assert "Traceback" not in printed


def test_the_plan_is_printed(capsys):
    from echo4o.cli import main
    from echo4o.training.recipes import recipe

    main(["train", "plan", "tiny"])
    printed = capsys.readouterr().out
    assert f"{recipe('tiny').steps:,} steps from random weights" in printed
    assert "gen " in printed


def test_help_needs_no_torch():
    code = "import sys, echo4o.training.cli; assert not {'torch', 'datasets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_torchrun_starts_two_processes(settings, tmp_path: Path):
    data = write_dataset(tmp_path / "rows", [make_row(n) for n in range(8)])
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    words = ("run", "tiny", *given([*settings, "packs_per_step=2"]), "--data", str(data))
    done = command(*words, "--out", str(tmp_path / "run"), launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/record.json").exists()
    refused = command(*words, "--set", "packs_per_step=1", launcher=launcher)
    assert refused.returncode != 0
    assert "cannot be shared by 2 processes" in refused.stderr
