"""Folders of parts with a hole in them: libraries fill it with random numbers, which draw noise."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_blip3o import make_blip3o
from tiny_omnigen2 import make_omnigen2

from echo4o.models.blip3o import Blip3oPipeline
from echo4o.models.checkpoint import CheckpointError
from echo4o.models.omnigen2 import OmniGen2Pipeline

DIFFUSERS = "diffusion_pytorch_model.safetensors"
PARTS = [
    (kind, f"{part}/{file}")
    for kind, parts in (
        (OmniGen2Pipeline, ("transformer", "vae")),
        (Blip3oPipeline, ("transformer", "vae", "unet")),
    )
    for part, file in [("mllm", "model.safetensors"), *((part, DIFFUSERS) for part in parts)]
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("parts")
    made = {OmniGen2Pipeline: make_omnigen2(), Blip3oPipeline: make_blip3o()}
    for kind, pipe in made.items():
        pipe.save_pretrained(home / kind.__name__)
    return {kind: home / kind.__name__ for kind in made}


@pytest.fixture
def folder(folders, request, tmp_path):
    return shutil.copytree(folders[request.param], tmp_path / "model")


def changed(path, change):
    tensors = load_file(path)
    name = sorted(tensors)[len(tensors) // 2]
    change(tensors, name)
    save_file(tensors, path, metadata={"format": "pt"})
    return name.split(".", 2)[-1]


@pytest.mark.parametrize(("folder", "file"), PARTS, indirect=["folder"])
def test_a_missing_tensor_is_named(folder, file, request):
    kind = request.node.callspec.params["folder"]
    name = changed(folder / file, lambda tensors, name: tensors.pop(name))
    with pytest.raises(CheckpointError, match=rf"1 missing: .*{name}; download it again"):
        kind.from_pretrained(folder)


@pytest.mark.parametrize(("folder", "file"), PARTS, indirect=["folder"])
def test_a_tensor_of_another_shape_is_named(folder, file, request):
    kind = request.node.callspec.params["folder"]
    name = changed(
        folder / file, lambda tensors, name: tensors.update({name: torch.zeros(1, 2, 3)})
    )
    with pytest.raises(CheckpointError, match=name):
        kind.from_pretrained(folder)


@pytest.mark.parametrize("folder", [OmniGen2Pipeline], indirect=True)
@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("transformer/config.json", {"hidden_size": "x"}),
        ("transformer/config.json", {"num_attention_heads": 0}),
        ("mllm/config.json", {"text_config": 3}),
        ("vae/config.json", {"block_out_channels": 3}),
        ("processor/tokenizer.json", None),
    ],
)
def test_a_description_of_nonsense_is_a_sentence(folder, file, values):
    path = folder / file
    path.write_text(json.dumps({} if values is None else json.loads(path.read_text()) | values))
    with pytest.raises(CheckpointError, match=r"describes no model that can be loaded \(.+\)"):
        OmniGen2Pipeline.from_pretrained(folder)
