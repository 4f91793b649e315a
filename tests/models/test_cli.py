"""The `model` verbs through the real command line."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file
from tiny_blip3o import make_blip3o
from tiny_pipeline import make_pipeline

from echo4o import cli
from echo4o.models import files_cli
from echo4o.models.bagel.adapter import WEIGHTS_FILE, lora_config, save_adapter
from echo4o.models.bagel.weights import VISION_PREFIXES
from echo4o.models.pictures import is_marked_machine_made, read_record
from echo4o.records import RunRecord

QUICK = ("--steps", "2", "--size", "48x32")


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
    assert same_pixels(again / "a-red-cube-1.png", paths[1])
    assert not same_pixels(*paths)


def same_pixels(one: Path, other: Path) -> bool:
    return Image.open(one).tobytes() == Image.open(other).tobytes()


@pytest.fixture
def reference(tmp_path) -> Path:
    path = tmp_path / "pictures" / "cat.png"
    path.parent.mkdir(exist_ok=True)
    Image.effect_noise((40, 56), 90).convert("RGB").save(path)
    return path


@pytest.fixture(scope="session")
def adapter(tmp_path_factory) -> Path:
    pipe, folder = make_pipeline(), tmp_path_factory.mktemp("adapter")
    pipe.model.add_adapter(lora_config("generation", rank=2), "default")
    for name, parameter in pipe.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.4)
    save_adapter(pipe.model, folder, "default")
    return folder


def test_a_picture_is_repeated_to_the_last_bit_from_its_file(
    ours, adapter, reference, tmp_path, capsys
):
    """Prompt, seed, settings, reference, adapter and model all come from the PNG."""
    words = ("generate", ours, "make it blue", "--image", reference, "--steps", 3, "--num", 2)
    words += ("--seed", 7, "--guidance", 3, "--image-guidance", 1.5, "--shift", 2, "--think")
    run(capsys, *words, "--adapter", f"{adapter}=0.7", "--out", reference.parent)
    picture = reference.parent / "make-it-blue-8.png"
    out = tmp_path / "again"
    cli.main(["model", "generate", "--again", str(picture), "--out", str(out)])
    said = capsys.readouterr()
    assert said.out.strip() == str(out / "make-it-blue-8-again.png")
    assert "all pixels equal" in said.err
    assert same_pixels(out / "make-it-blue-8-again.png", picture)
    record = read_record(picture)
    assert read_record(out / "make-it-blue-8-again.png") == record
    assert record.parameters["think"] is True
    assert [one.name for one in record.references] == ["cat.png"]
    assert [(one.source, one.weight) for one in record.adapters] == [(str(adapter), 0.7)]
    run(capsys, *words, "--out", tmp_path / "plain")
    assert not same_pixels(tmp_path / "plain" / picture.name, picture)


def test_repeating_says_when_the_pixels_changed(ours, authors, tmp_path, capsys):
    run(capsys, "generate", ours, "a", *QUICK, "--out", tmp_path)
    other = tmp_path / "other"
    run(capsys, "convert", ours, other, "--dtype", "bfloat16")
    words = ["model", "generate", other, "--again", tmp_path / "a-0.png", "--out", tmp_path]
    cli.main([*map(str, words), "--dtype", "bfloat16"])
    assert "changed since: dtype float32 -> bfloat16" in capsys.readouterr().err


def test_repeating_needs_the_same_adapter(ours, adapter, tmp_path, capsys):
    copy = tmp_path / "adapter"
    shutil.copytree(adapter, copy)
    for weight, out in (("0.5", "half"), ("1", "full")):
        words = ("--adapter", f"{copy}={weight}", *QUICK, "--out", tmp_path / out)
        run(capsys, "generate", ours, "a", *words)
    assert not same_pixels(tmp_path / "half" / "a-0.png", tmp_path / "full" / "a-0.png")
    weights = load_file(copy / WEIGHTS_FILE)
    save_file({name: tensor * 2 for name, tensor in weights.items()}, copy / WEIGHTS_FILE)
    said = refused(capsys, "generate", "--again", tmp_path / "half" / "a-0.png")
    assert f"the adapter {copy} has other weights than then" in said


def test_repeating_uses_as_many_threads_as_then(ours, tmp_path, capsys):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run(capsys, "generate", ours, "a", *QUICK, "--out", tmp_path)
        torch.set_num_threads(2)
        run(capsys, "generate", "--again", tmp_path / "a-0.png", "--out", tmp_path)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_repeating_needs_the_same_references(ours, reference, tmp_path, capsys):
    run(capsys, "generate", ours, "b", "--image", reference, "--steps", 1, "--out", tmp_path)
    picture, moved = tmp_path / "b-0.png", tmp_path / "moved.png"
    reference.rename(moved)
    again = ("generate", "--again", picture, "--out", tmp_path)
    assert "cat.png is not the reference 'cat.png'" in refused(capsys, *again)
    run(capsys, *again, "--image", moved)
    Image.new("RGB", (40, 56)).save(reference.with_name("black.png"))
    wrong = refused(capsys, *again, "--image", reference.with_name("black.png"))
    assert "black.png is not the reference 'cat.png'" in wrong
    assert "1 references, got 2" in refused(capsys, *again, "--image", moved, moved)
    assert "leave it out" in refused(capsys, "generate", ours, "text", "--again", picture)
    said = refused(capsys, *again, "--steps", 5, "--image-guidance", 2)
    assert "--again takes --steps, --image-guidance from the picture" in said


GOOD = {
    "prompt": "a",
    "model": "nowhere/at/all",
    "seed": 1,
    "parameters": {
        "num_inference_steps": 1,
        "guidance_scale": 1.0,
        "image_guidance_scale": None,
        "timestep_shift": 1.0,
        "height": 32,
        "width": 32,
        "think": False,
    },
}


def changed(**parameters) -> dict:
    return GOOD | {"parameters": GOOD["parameters"] | parameters}


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (None, "carries no record of echo4o"),
        ("{", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ("[1]", "is damaged"),
        ('"text"', "is damaged"),
        ({"prompt": "a"}, "is damaged"),
        (GOOD | {"surprise": 1}, "is damaged"),
        (GOOD | {"prompt": 5}, "`prompt` cannot be 5"),
        (GOOD | {"parameters": []}, "`parameters` cannot be"),
        (GOOD | {"seed": "1"}, "`seed` cannot be '1'"),
        (GOOD | {"seed": True}, "`seed` cannot be True"),
        (GOOD | {"seed": None}, "a missing seed"),
        (GOOD | {"seed": -1}, "`seed` cannot be -1"),
        (GOOD | {"seed": 1 << 64}, "`seed` cannot be"),
        (GOOD | {"parameters": {"num_inference_steps": 1}}, "`guidance_scale`"),
        (changed(callback_on_step_end="os.system"), "`callback_on_step_end`"),
        (changed(num_inference_steps=10**9), "`num_inference_steps` cannot be 1000000000"),
        (changed(num_inference_steps=True), "`num_inference_steps` cannot be True"),
        (changed(guidance_scale=float("nan")), "`guidance_scale` cannot be nan"),
        (changed(guidance_scale=10**400), "`guidance_scale` cannot be 1000"),
        (changed(guidance_scale="4"), "`guidance_scale` cannot be '4'"),
        (changed(height=0), "`height` cannot be 0"),
        (changed(think="yes"), "`think` cannot be 'yes'"),
        (GOOD | {"references": "abc"}, "is damaged"),
        (GOOD | {"references": [{"name": "../secret.png", "sha256": "0"}]}, "no plain file name"),
        (GOOD | {"references": [{"name": "/etc/passwd", "sha256": "0"}]}, "no plain file name"),
        (GOOD | {"references": [{"name": 5, "sha256": "0"}]}, "`reference` cannot be 5"),
        (GOOD | {"adapters": [{"source": "a", "weight": "b", "sha256": "0"}]}, "`adapter` cannot"),
        (GOOD, "there is no folder nowhere/at/all"),
    ],
)
def test_hostile_records_are_refused(record, said, tmp_path, capsys):
    info = PngImagePlugin.PngInfo()
    if record is not None:
        info.add_itxt("echo4o", record if isinstance(record, str) else json.dumps(record))
    Image.new("RGB", (32, 32)).save(tmp_path / "p.png", pnginfo=info)
    assert said in refused(capsys, "generate", "--again", tmp_path / "p.png")


def test_files_that_are_no_picture_are_not_repeated(tmp_path, capsys):
    assert "there is no picture file" in refused(capsys, "generate", "--again", tmp_path / "x.png")
    (tmp_path / "x.png").write_text("hello")
    said = refused(capsys, "generate", "--again", tmp_path / "x.png")
    assert "cannot be read as a PNG picture" in said


def test_options_may_stand_between_model_and_prompt(ours, tmp_path, capsys):
    run(capsys, "generate", ours, *QUICK, "--out", tmp_path, "a")
    assert (tmp_path / "a-0.png").is_file()
    with pytest.raises(SystemExit) as caught:
        cli.main(["model", "generate", str(ours), *QUICK])
    assert caught.value.code == 2


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


def test_a_long_save_shows_its_bytes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(files_cli, "DELAY_S", 0)
    monkeypatch.setattr(files_cli, "EVERY_S", 0.01)
    pipe = make_pipeline()
    shown, deadline = "", time.monotonic() + 60
    with files_cli._watched(tmp_path, pipe):
        pipe.save_pretrained(tmp_path)
        while "writing: 100%" not in shown:
            assert time.monotonic() < deadline, shown
            time.sleep(0.01)
            shown += capsys.readouterr().err
    assert "B/s" in shown


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
        (("generate", "nowhere", "x"), "there is no folder nowhere; give a model folder"),
        (("generate", "MODEL", "x", "--height", "33", "--width", "32"), "multiple of 16, got 33"),
        (("generate", "MODEL", "x", "--steps", "0"), "at least 1, got 0"),
        (("generate", "MODEL", "x", "--num", "0"), "--num must be at least 1"),
        (("generate", "MODEL", "x", "--seed", "-1"), "--seed must be from 0"),
        (("generate", "MODEL", "x", "--size", "32x40"), "`height` must be a multiple of 16"),
        (("generate", "MODEL", "x", "--size", "32", "--height", "32"), "either --size or"),
        (("generate", "MODEL", "x", "--height", "32"), "both `height` and `width`"),
        (("generate", "MODEL", "x", "--adapter", "tests=nan"), "must be finite, got nan"),
        (("generate", "MODEL", "x", "--adapter", "tests"), "tests is no LoRA adapter"),
        (("merge", "MODEL", "no-folder"), "there is nothing to merge"),
        (("merge", "MODEL", "no-folder", "--base", "MODEL"), "lacks no tensor"),
        (("generate", "MODEL", "x", "--image", "no.png"), "there is no picture file no.png"),
        (("ask", "MODEL", "pyproject.toml", "why?"), "cannot be read as a picture"),
        (("info", "tests"), "tests is no checkpoint"),
        (("push", "no-folder", "a/b"), "there is no folder no-folder"),
    ],
)
def test_misuse_is_one_sentence(ours, words, said, capsys):
    assert said in refused(capsys, *(str(ours) if word == "MODEL" else word for word in words))


def edit_tensors(folder: Path, change) -> dict[str, torch.Tensor]:
    tensors = load_file(folder / "ema.safetensors")
    change(tensors)
    save_file(tensors, folder / "ema.safetensors")
    return tensors


def drop(*prefixes: str):
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(prefixes)]:
            del tensors[name]

    return change


@pytest.mark.parametrize("gone", [VISION_PREFIXES, ("connector.fc1.",)])
def test_merge_brings_back_missing_tensors(gone, ours, authors, tmp_path, capsys):
    """A checkpoint in the authors' layout, a base in ours: bit for bit, in its own type."""
    tuned = tmp_path / "tuned"
    shutil.copytree(authors, tuned)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        drop(*gone)(tensors)
        for name in tensors:
            tensors[name] = (tensors[name] + 1).to(torch.bfloat16)

    kept = edit_tensors(tuned, change)
    (tuned / "vit_config.json").unlink()
    run(capsys, "merge", tuned, tmp_path / "whole", "--base", ours)
    facts = json.loads(run(capsys, "info", tmp_path / "whole", "--json"))
    assert (facts["missing"], facts["layout"]) == ("nothing", "bagel")
    assert list(facts["dtypes"]) == ["BF16"]
    whole = load_file(tmp_path / "whole" / "ema.safetensors")
    full = load_file(authors / "ema.safetensors")
    assert whole.keys() == full.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, kept.get(name, full[name].to(torch.bfloat16))), name
    red = tmp_path / "red.png"
    Image.new("RGB", (40, 40), "red").save(red)
    run(capsys, "ask", tmp_path / "whole", red, "what colour?", "--max-new-tokens", 2)
    record = RunRecord.load(tmp_path / "whole")
    assert [(one.kind, one.id) for one in record.inputs] == [("model", "tuned"), ("model", "ours")]


def test_merge_names_what_the_base_lacks(authors, tmp_path, capsys):
    for name in ("one", "two"):
        shutil.copytree(authors, tmp_path / name)
        edit_tensors(tmp_path / name, drop("vae2llm.", "lm_head"))
    said = refused(capsys, "merge", tmp_path / "one", tmp_path / "o", "--base", tmp_path / "two")
    assert "2 missing: vae2llm.weight, vae2llm.bias" in said
    assert not (tmp_path / "o").exists()


def test_merge_puts_an_adapter_into_the_weights(ours, adapter, tmp_path, capsys):
    words = ("--steps", 2, "--size", "48x32", "--out")
    run(capsys, "generate", ours, "a", "--adapter", f"{adapter}=0.5", *words, tmp_path / "one")
    run(capsys, "merge", ours, tmp_path / "merged", "--adapter", f"{adapter}=0.5")
    run(capsys, "generate", tmp_path / "merged", "a", *words, tmp_path / "two")
    assert same_pixels(tmp_path / "one" / "a-0.png", tmp_path / "two" / "a-0.png")
    run(capsys, "generate", ours, "a", *words, tmp_path / "three")
    assert not same_pixels(tmp_path / "one" / "a-0.png", tmp_path / "three" / "a-0.png")
    record = RunRecord.load(tmp_path / "merged")
    assert [one.kind for one in record.inputs] == ["model", "adapter"]
    assert record.parameters == {"weights": [0.5]}
    assert "is not empty" in refused(capsys, "merge", ours, tmp_path / "merged", "--base", "x")


def test_push_publishes_what_loads_from_the_hub_in_every_way(ours, adapter, tmp_path, sandbox):
    """In one child process: client libraries read their environment when they are imported.

    By our verbs, by diffusers with trust through the shim, from an inner folder, with an adapter.
    """
    repo, inner, lora, other = (
        f"echo4o-sandbox/{name}" for name in ("pushed", "pushed-inner", "lora", "blip3o")
    )
    make_blip3o().save_pretrained(tmp_path / "blip3o")
    shutil.copytree(ours, tmp_path / "outer" / "Echo-4o")
    verbs = [
        ["push", str(ours), repo, "--dry-run"],
        ["push", str(ours), repo, "--tag", "v1"],
        ["push", str(tmp_path / "outer"), inner],
        ["generate", repo, "a cat", "--revision", "v1", *QUICK],
        ["generate", inner, "inner", *QUICK],
        ["generate", repo, "tuned", "--adapter", f"{lora}=0.5", *QUICK],
        ["generate", "--again", "pictures/tuned-0.png"],
        ["push", str(tmp_path / "blip3o"), other],
        ["info", other],
        ["generate", other, "a dog", "--steps", "2"],
    ]
    code = (
        "from pathlib import Path\n"
        "from echo4o import cli, hub\n"
        f"folder = Path({str(adapter)!r})\n"
        f"hub.publish_folder(folder, {lora!r}, repo_type='model', message='adapter')\n"
        f"for verb in {verbs!r}: cli.main(['model', *verb])\n"
        "from diffusers import DiffusionPipeline\n"
        f"pipe = DiffusionPipeline.from_pretrained({repo!r}, trust_remote_code=True)\n"
        "print('loaded', type(pipe).__name__, pipe.model.num_parameters())\n"
        f"try: DiffusionPipeline.from_pretrained({repo!r})\n"
        "except ValueError as error: print('untrusted', 'trust_remote_code' in str(error))\n"
    )
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
    assert "loaded Echo4oPipeline" in done.stdout
    assert "untrusted True" in done.stdout
    assert "all pixels equal" in done.stderr
    assert "Blip3oPipeline" in done.stdout
    assert len(read_record(tmp_path / "pictures" / "a-dog-0.png").revision or "") == 40
    (use,) = read_record(tmp_path / "pictures" / "tuned-0-again.png").adapters
    assert (use.source, use.weight, len(use.revision or "")) == (lora, 0.5, 40)


def test_a_damaged_folder_is_not_published(ours, tmp_path, capsys):
    shutil.copytree(ours, tmp_path / "broken")
    (tmp_path / "broken" / "model" / "model.safetensors").write_bytes(b"x")
    assert "no whole safetensors file" in refused(capsys, "push", tmp_path / "broken", "a/b")
