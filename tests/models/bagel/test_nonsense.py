"""Configurations and headers that describe no model: one sentence, never a traceback or a hang."""

import json
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from echo4o import Echo4oPipeline
from echo4o.models.checkpoint import CheckpointError

DEEP = "[" * 200_000


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def copy(authors, tmp_path):
    return shutil.copytree(authors, tmp_path / "copy")


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("llm_config.json", {"hidden_size": "abc"}),
        ("llm_config.json", {"hidden_size": 10**12}),
        ("llm_config.json", {"num_attention_heads": 0}),
        ("llm_config.json", {"num_key_value_heads": 3}),
        ("llm_config.json", {"num_hidden_layers": 10**9}),
        ("llm_config.json", {"rope_theta": None}),
        ("llm_config.json", {"rope_scaling": {"type": "yarn", "factor": 4.0}}),
        ("vit_config.json", {"num_attention_heads": 7}),
        ("vit_config.json", {"num_hidden_layers": "three"}),
        ("vit_config.json", {"num_hidden_layers": 10**9}),
        ("config.json", {"latent_patch_size": 0}),
        ("config.json", {"vae_transform": [1, 2]}),
        ("config.json", {"vit_transform": "abc"}),
        ("tiny_ae_params.json", {"ae_params": []}),
        ("tiny_ae_params.json", {"ae_params": {"scale_factor": "x"}}),
        ("tiny_ae_params.json", {"ae_params": {"norm_num_groups": 0}}),
    ],
)
def test_a_value_that_no_model_has_is_a_sentence(copy, file, values):
    edit(copy / file, **values)
    with pytest.raises(CheckpointError):
        Echo4oPipeline.from_pretrained(copy)


@pytest.mark.parametrize(
    "values",
    [
        {"text_config": 3},
        {"latent_channels": "x"},
        {"max_latent_size": 10**9},
        {"latent_downsample": 0},
        {"vae_transform": [64, 0, 16]},
    ],
)
def test_the_same_in_our_layout(ours, tmp_path, values):
    folder = shutil.copytree(ours, tmp_path / "copy")
    edit(folder / "model" / "config.json", **values)
    with pytest.raises(ValueError, match=r"config|must|describes"):
        Echo4oPipeline.from_pretrained(folder)


@pytest.mark.parametrize("file", ["llm_config.json", "ema.safetensors"])
def test_brackets_without_end_are_no_configuration_and_no_header(copy, file):
    data = DEEP.encode()
    is_json = file.endswith("json")
    (copy / file).write_bytes(data if is_json else struct.pack("<Q", len(data)) + data)
    with pytest.raises(CheckpointError, match="no valid JSON" if is_json else "broken header"):
        Echo4oPipeline.from_pretrained(copy)


@pytest.mark.parametrize(
    "facts",
    [
        {"data_offsets": [-8, -4]},
        {"data_offsets": [0, 4]},
        {"data_offsets": ["a", "b"]},
        {"shape": [32.0, 64.0]},
        {"shape": [-32, -64]},
        {"shape": 7},
        {"dtype": "Q9"},
        {"dtype": ["F32"]},
    ],
)
def test_a_header_that_describes_no_tensor_is_a_sentence(copy, facts):
    path = copy / "ema.safetensors"
    data = path.read_bytes()
    length = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:length])
    header["vae2llm.weight"] |= facts
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[length:])
    with pytest.raises(CheckpointError, match="header that describes no tensors"):
        Echo4oPipeline.from_pretrained(copy)


@pytest.mark.parametrize(
    ("file", "name", "tensor"),
    [
        ("ema.safetensors", "latent_pos_embed.pos_embed", torch.zeros(())),
        ("ema.safetensors", "latent_pos_embed.pos_embed", torch.zeros(0, 32)),
        ("ema.safetensors", "vae2llm.weight", torch.zeros(())),
        ("ae.safetensors", "encoder.down.9.block.0.conv1.weight", torch.zeros(1)),
        ("ae.safetensors", "encoder.down.", torch.zeros(1)),
        ("ae.safetensors", "encoder.down.0.block.0.conv1.weight", torch.zeros(())),
    ],
)
def test_a_tensor_that_sizes_are_read_from_may_be_none(copy, file, name, tensor):
    tensors = load_file(copy / file) | {name: tensor}
    save_file(tensors, copy / file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError):
        Echo4oPipeline.from_pretrained(copy)


def test_an_autoencoder_with_a_hole_is_refused_by_name(ours, tmp_path):
    folder = shutil.copytree(ours, tmp_path / "copy")
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["decoder.conv_in.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 missing: decoder\.conv_in\.weight"):
        Echo4oPipeline.from_pretrained(folder)
