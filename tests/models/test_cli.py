"""The `model` verbs through the real command line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from echo4o import cli
from echo4o.models.pictures import is_marked_machine_made, read_record

QUICK = ("--steps", "2", "--height", "32", "--width", "48")


def run(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run a verb in this process; returns what it printed."""
    cli.main(["model", *map(str, words)])
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as caught:
        cli.main(["model", *map(str, words)])
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def test_generate_writes_marked_pictures_that_can_be_repeated(ours, tmp_path, capsys):
    out = tmp_path / "out"
    printed = run(capsys, "generate", ours, "A red cube!", *QUICK, "--num", 2, "--out", out)
    paths = [Path(line) for line in printed.split()]
    assert [path.name for path in paths] == ["a-red-cube-0.png", "a-red-cube-1.png"]
    for seed, path in enumerate(paths):
        record = read_record(path)
        assert (record.prompt, record.seed, record.model) == ("A red cube!", seed, str(ours))
        assert record.parameters["num_inference_steps"] == 2
        assert is_marked_machine_made(path)
        assert Image.open(path).size == (48, 32)
    again = tmp_path / "again"
    run(capsys, "generate", ours, "A red cube!", *QUICK, "--seed", 1, "--out", again)
    one, two = (Image.open(path) for path in (again / "a-red-cube-1.png", paths[1]))
    assert max(high for _, high in ImageChops.difference(one, two).getextrema()) <= 1


@pytest.mark.shared
def test_the_recorded_tiny_model_works_from_a_new_process(shared, tmp_path):
    model = shared / "goldens" / "bagel" / "tiny_upstream"
    image = shared / "goldens" / "bagel" / "goldens_dev" / "images" / "dev_img0.png"
    words = ["generate", str(model), "add a hat", "--image", str(image), "--steps", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "echo4o.cli", "model", *words, "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert is_marked_machine_made(tmp_path / "add-a-hat-0.png")


def test_ask_prints_an_answer(ours, tmp_path, capsys):
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    words = ("ask", ours, tmp_path / "red.png", "what colour?", "--max-new-tokens", 4)
    assert run(capsys, *words).endswith("\n")


def test_info_and_convert_go_both_ways(ours, tmp_path, capsys):
    converted, back = tmp_path / "bagel", tmp_path / "back"
    run(capsys, "convert", ours, converted, "--layout", "bagel")
    facts = json.loads(run(capsys, "info", converted, "--json"))
    assert (facts["layout"], facts["missing"]) == ("bagel", "nothing")
    assert "layout            bagel" in run(capsys, "info", converted)
    run(capsys, "convert", converted, back)
    name = "model/model.safetensors"
    assert (back / name).read_bytes() == (ours / name).read_bytes()
    assert "is not empty" in refused(capsys, "convert", ours, back)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("generate", "nowhere/at/all", "x"), "there is no folder nowhere/at/all"),
        (("generate", "MODEL", "x", "--height", "33", "--width", "32"), "multiple of 16, got 33"),
        (("generate", "MODEL", "x", "--steps", "0"), "at least 1, got 0"),
        (("generate", "MODEL", "x", "--num", "0"), "--num must be at least 1"),
        (("generate", "MODEL", "x", "--image", "no.png"), "there is no picture file no.png"),
        (("ask", "MODEL", "pyproject.toml", "why?"), "cannot be read as a picture"),
        (("info", "tests"), "tests is no checkpoint"),
        (("push", "no-folder", "a/b"), "there is no folder no-folder"),
    ],
)
def test_misuse_is_one_sentence(ours, words, said, capsys):
    assert said in refused(capsys, *(str(ours) if word == "MODEL" else word for word in words))


def test_push_publishes_a_checked_folder_that_loads_from_the_hub(ours, tmp_path, sandbox):
    """In one child process: client libraries read their environment when they are imported."""
    repo = "echo4o-sandbox/pushed-model"
    verbs = [
        ["push", str(ours), repo, "--dry-run"],
        ["push", str(ours), repo, "--tag", "v1"],
        ["generate", repo, "a cat", "--revision", "v1", *QUICK],
    ]
    code = f"from echo4o import cli\nfor verb in {verbs!r}: cli.main(['model', *verb])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=sandbox.environment(tmp_path / "home"),
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "would publish" in done.stdout
    assert "model/model.safetensors" in done.stdout
    record = read_record(tmp_path / "pictures" / "a-cat-0.png")
    assert record.model == repo
    assert record.revision is not None
    assert f"{repo} at {record.revision} as v1" in done.stdout


def test_a_damaged_folder_is_not_published(ours, tmp_path, capsys):
    shutil.copytree(ours, tmp_path / "broken")
    (tmp_path / "broken" / "model" / "model.safetensors").write_bytes(b"x")
    assert "no whole safetensors file" in refused(capsys, "push", tmp_path / "broken", "a/b")
