"""The `model` verbs with models that are no BAGEL: each is opened by its own pipeline."""

import json

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from tiny_blip3o import make_blip3o
from tiny_omnigen2 import make_omnigen2

from echo4o import cli
from echo4o.errors import Echo4oError
from echo4o.models.kinds import pipeline_class
from echo4o.models.pictures import is_marked_machine_made, read_record

MADE = {"blip3o": make_blip3o, "omnigen2": make_omnigen2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A saved model of each kind, and an adapter beside it."""
    home = tmp_path_factory.mktemp("kinds")
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    for name, make in MADE.items():
        pipe = make()
        pipe.save_pretrained(home / name)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            config = LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
            pipe.transformer.add_adapter(config, "one")
        layers = get_peft_model_state_dict(pipe.transformer, adapter_name="one")
        metadata = config.to_dict()
        pipe.save_lora_weights(
            home / f"{name}-lora", layers, transformer_lora_adapter_metadata=metadata
        )
    return home


def run(capsys, *words):
    cli.main(["model", *map(str, words)])
    return capsys.readouterr()


def refused(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        cli.main(["model", *map(str, words)])
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


@pytest.mark.parametrize(("name", "size"), [("blip3o", ()), ("omnigen2", ("--size", "32x48"))])
def test_pictures_can_be_repeated(folders, tmp_path, capsys, name, size):
    words = ("generate", folders / name, "A cat", "--steps", 2, *size, "--out", tmp_path)
    run(capsys, *words)
    path = tmp_path / "a-cat-0.png"
    record = read_record(path)
    assert is_marked_machine_made(path)
    assert (record.prompt, record.model, record.seed) == ("A cat", str(folders / name), 0)
    assert record.parameters["guidance_scale"] == {"blip3o": 3.0, "omnigen2": 4.0}[name]
    assert ("height" in record.parameters) == (name == "omnigen2")
    assert "all pixels equal" in run(capsys, "generate", "--again", path, "--out", tmp_path).err
    run(capsys, *words, "--adapter", f"{folders / f'{name}-lora'}=2", "--seed", 0)
    tuned = read_record(path)
    assert [(len(use.sha256), use.weight) for use in tuned.adapters] == [(64, 2.0)]
    again = run(capsys, "generate", "--again", path, "--out", tmp_path)
    assert "all pixels equal" in again.err
    plain = Image.open(path).tobytes()
    run(capsys, *words)
    assert Image.open(path).tobytes() != plain


def test_info_counts_each_part(folders, capsys):
    for name, make in MADE.items():
        facts = json.loads(run(capsys, "info", folders / name, "--json").out)
        pipe = make()
        assert facts["pipeline"] == type(pipe).__name__
        for part in ("transformer", "mllm", "vae"):
            assert facts[part] == pipe.components[part].num_parameters()
        assert facts["missing"] == "nothing"


def test_what_a_kind_lacks_is_refused(folders, tmp_path, capsys, monkeypatch):
    blip3o, omnigen2 = folders / "blip3o", folders / "omnigen2"
    picture = tmp_path / "p.png"
    Image.new("RGB", (32, 32)).save(picture)
    for option in (("--size", "32x32"), ("--think",), ("--shift", 3), ("--image", picture)):
        said = refused(capsys, "generate", blip3o, "x", *option)
        assert f"Blip3oPipeline, which has no {option[0]}; leave it out" in said
    assert "has no --think" in refused(capsys, "generate", omnigen2, "x", "--think")
    assert "needs one of Echo4oPipeline" in refused(capsys, "ask", blip3o, "what?")
    said = refused(capsys, "generate", blip3o, "x", "--adapter", omnigen2)
    assert "holds no pytorch_lora_weights.safetensors" in said
    said = refused(capsys, "generate", blip3o, "x", "--adapter", folders / "omnigen2-lora")
    assert "does not fit Blip3oPipeline" in said
    run(capsys, "generate", blip3o, "x", "--steps", 1, "--out", tmp_path)
    said = refused(capsys, "generate", omnigen2, "--again", tmp_path / "x-0.png")
    assert "was not made by OmniGen2Pipeline" in said
    other = tmp_path / "other"
    other.mkdir()
    (other / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    for verb in (("generate", other, "x"), ("info", other)):
        assert "names FluxPipeline as its pipeline" in refused(capsys, *verb)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for model in (omnigen2, blip3o):
        said = refused(capsys, "generate", model, "x", "--device", "cuda")
        assert "--device cuda needs a CUDA device and none is visible" in said


def test_the_class_of_a_folder(tmp_path):
    assert pipeline_class(str(tmp_path)) == "Echo4oPipeline"
    (tmp_path / "config.json").write_text('{"model_type": "blip3o_qwen"}')
    assert pipeline_class(str(tmp_path)) == "Blip3oPipeline"
    (tmp_path / "config.json").write_text("[]")
    assert pipeline_class(str(tmp_path)) == "Echo4oPipeline"
    for text in ("{}", "[" * 100_000):
        (tmp_path / "model_index.json").write_text(text)
        with pytest.raises(Echo4oError, match="names no pipeline class"):
            pipeline_class(str(tmp_path))


def test_offline_the_cache_tells_the_class(tmp_path, monkeypatch):
    """At once: a file that is not in the cache is not waited for."""
    from huggingface_hub import constants

    for name, files in (("ours", ()), ("theirs", ("model_index.json",))):
        home = tmp_path / f"models--a--{name}"
        (home / "refs").mkdir(parents=True)
        (home / "refs/main").write_text("c" * 40)
        (home / "snapshots" / ("c" * 40)).mkdir(parents=True)
        for file in files:
            path = home / "snapshots" / ("c" * 40) / file
            path.write_text('{"_class_name": "OmniGen2Pipeline"}')
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waited"))
    assert pipeline_class("a/ours") == "Echo4oPipeline"
    assert pipeline_class("a/theirs", "main") == "OmniGen2Pipeline"
    assert pipeline_class("a/never-seen") == "Echo4oPipeline"
