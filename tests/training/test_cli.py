"""The command line, through `python -m echo4o.training` and torchrun."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from training_rows import make_row, write_dataset

from echo4o.errors import Echo4oError
from echo4o.launch import _wait
from echo4o.training.cli import _others_may_end


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


def test_a_run_from_the_command_line(settings, mixed, tmp_path, capfd):
    from echo4o.cli import main

    out = tmp_path / "run"
    words = [*given([*settings, "log_every=6"]), "--data", str(mixed), "--out", str(out)]
    main(["train", "run", "tiny", *words])
    said = capfd.readouterr()
    assert f"model: {out / 'model'}" in said.out
    assert "step     12  loss" in said.out + said.err
    assert "tokens/s" in said.out + said.err
    config = json.loads((out / "config.json").read_text())
    assert config["data"] == mixed.name


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("run", "tinny"), "there is no recipe 'tinny'; the nearest one is 'tiny'"),
        (("run", "tiny", "--set", "step=1"), "the nearest one is 'steps'"),
        (("plan", "tiny", "--set", "packs_per_step=0"), "`packs_per_step` must be at least 1"),
        (("run", "tiny", "--data", "./nowhere"), "there is no folder ./nowhere"),
        (("run", "tiny", "--data", "nowhere"), "there is no folder nowhere; give a dataset folder"),
        (("run", "tiny", "--processes", "3"), "--processes must divide packs_per_step, 2; got 3"),
        (("run", "tiny", "--processes", "0"), "--processes must divide packs_per_step, 2; got 0"),
        (("run", "tiny", "--set", "trackers=nonsense"), "'nonsense'; accelerate knows all, aim,"),
        (
            ("run", "tiny", "--set", "trackers=wandb"),
            "`trackers` has 'wandb', which is not installed",
        ),
        (("run", "tiny", "--set", "lora.rank=4"), "`lora` needs `base_model`, a model that can"),
        (("cache", "tiny", "--set", "pad_pictures=true"), "set pad_pictures=false"),
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


def test_a_rank_that_was_killed_is_named_before_those_that_miss_it():
    ends = ("sys.exit(1)", "os.kill(os.getpid(), 9)")
    ranks = [subprocess.Popen([sys.executable, "-c", f"import os, sys; {end}"]) for end in ends]
    for rank in ranks:
        rank.wait(30)
    with pytest.raises(Echo4oError, match=r"ended from outside \(Killed"):
        _wait(ranks)
    assert _wait(ranks[:1]) == 1


@pytest.mark.parametrize("what", ["Connection reset by peer", "Connection closed by peer"])
def test_a_lost_process_is_one_sentence(what):
    said = f"[/build/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error: {what}"
    with pytest.raises(Echo4oError, match="another process of this run ended"), _others_may_end():
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="shapes"), _others_may_end():
        raise RuntimeError("shapes do not match")


@pytest.mark.slow
def test_torchrun_starts_two_processes(settings, tmp_path: Path):
    data = write_dataset(tmp_path / "rows", [make_row(n) for n in range(8)])
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    words = ("run", "tiny", *given([*settings, "packs_per_step=2"]), "--data", str(data))
    shared = ("--set", "shard=full")
    done = command(*words, *shared, "--out", str(tmp_path / "run"), launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/record.json").exists()
    accelerate = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1")
    done = command(*words, "--out", str(tmp_path / "alone"), launcher=accelerate)
    assert done.returncode == 0, done.stderr
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "loss.jsonl").open()]
        for name in ("run", "alone")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    refused = command(*words, "--set", "packs_per_step=1", launcher=launcher)
    assert refused.returncode != 0
    assert "cannot be shared by 2 processes" in refused.stderr


@pytest.mark.slow
def test_debug_reaches_the_processes(tmp_path):
    words = ("run", "tiny", "--data", "./nowhere", "--processes", "2", "--out", str(tmp_path))
    plain, debug = command(*words), command(*words, "--debug")
    assert plain.returncode == debug.returncode == 1
    assert "there is no folder ./nowhere" in plain.stderr
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr


@pytest.mark.slow
def test_two_processes_of_one_command_give_the_losses_of_one(settings, mixed, tmp_path):
    words = ("run", "tiny", *given([*settings, "packs_per_step=2"]), "--data", str(mixed))
    for count in (1, 2):
        done = command(*words, "--processes", str(count), "--out", str(tmp_path / str(count)))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("model: ") == 1
    one, two = (
        [json.loads(line)["loss"] for line in (tmp_path / count / "loss.jsonl").open()]
        for count in ("1", "2")
    )
    assert two == pytest.approx(one, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill the command", "kill a rank", "tell the command"])
def test_processes_end_together(settings, mixed, tmp_path, how):
    steps = ("steps=100000", "packs_per_step=2", "checkpoint_every=100000")
    words = ("run", "tiny", *given([*settings, *steps]), "--data", str(mixed))
    run = psutil.Popen(
        [sys.executable, "-m", "echo4o.training", *words, "--processes", "2"]
        + ["--out", str(tmp_path / "run")],
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    trace = tmp_path / "run/loss.jsonl"
    while not trace.exists() or not trace.read_bytes():
        time.sleep(0.1)
    ranks = run.children()
    assert len(ranks) == 2
    if how == "tell the command":
        run.terminate()
    else:
        (run if how == "kill the command" else ranks[1]).kill()
    said = run.stderr.read().decode()
    status = run.wait(60)
    psutil.wait_procs(ranks, timeout=10)
    assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks)
    assert (status == 0) == (how == "tell the command")
    assert list((tmp_path / "run/checkpoints").glob("*")) if status == 0 else True
    assert "Traceback" not in said
    assert ("(Killed; " in said) == (how == "kill a rank")
