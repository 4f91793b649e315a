"""The script for HF Jobs up to the client's call: what the rented machine would be told to run."""

import argparse
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from echo4o.training import cli
from echo4o.training.overrides import override
from echo4o.training.recipes import recipe

SCRIPT = Path(__file__).parents[2] / "training" / "jobs" / "hf_job.sh"
GPUS = {"a100x8": 8, "h200": 1}


def asked(folder: Path, *words: str) -> list[str]:
    """What the script gives `hf`, which stands here without the Hub; `pip` builds no wheel."""
    told = folder / "told"
    for name, line in (("hf", f'printf "%s\\0" "$@" > {shlex.quote(str(told))}'), ("pip", "true")):
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", SCRIPT, *words],
        check=True,
        env={**os.environ, "PATH": path, "TMPDIR": str(folder)},
    )
    return told.read_text().split("\0")[:-1]


@pytest.mark.parametrize("name", ["echo4o_7b", "echo4o_7b_lora", "echo4o_7b_qlora"])
@pytest.mark.parametrize("more", [[], ["--data", "a b/c", "--set", 'sample_prompts=["x; y", "z"]']])
def test_the_rented_machine_trains_what_was_asked(tmp_path, name, more):
    call = asked(tmp_path, name, "ORG/NAME", "ORG/BUCKET", *(["--", *more] if more else []))
    assert call[-3:-1] == ["bash", "-c"]
    install, _, train = call[-1].partition(" && exec ")
    assert ("bitsandbytes" in install) == name.endswith("_qlora")
    parser = argparse.ArgumentParser()
    cli.run_arguments(parser)
    words = shlex.split(train)
    args = parser.parse_args(words[words.index("run") + 1 :])
    assert (args.recipe, args.push, args.push_every) == (name, "ORG/NAME", 1000)
    assert args.data == ("a b/c" if more else None)
    config = override(recipe(args.recipe), args.settings)
    assert config.packs_per_step % GPUS[call[call.index("--flavor") + 1]] == 0
    if more:
        assert config.sample_prompts == ("x; y", "z")
