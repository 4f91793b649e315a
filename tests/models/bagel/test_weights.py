"""Checkpoints: both layouts bit-exact, the full-size manifest, and files that must be refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from echo4o import Echo4oPipeline
from echo4o.models.bagel import weights
from echo4o.models.bagel.checkpoint import CheckpointError, locate
from echo4o.models.bagel.configuration import BagelConfig
from echo4o.models.bagel.inspection import inspect
from echo4o.models.bagel.modeling import BagelForUnifiedGeneration


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("layout", ["ours", "authors"])
def test_a_saved_pipeline_loads_bit_for_bit(pipe, layout, request):
    loaded = Echo4oPipeline.from_pretrained(request.getfixturevalue(layout))
    same_weights(pipe.model, loaded.model)
    same_weights(pipe.vae, loaded.vae)
    assert loaded.vae.config.scaling_factor == pipe.vae.config.scaling_factor
    assert loaded.vae.config.shift_factor == pipe.vae.config.shift_factor
    before, after = pipe.model.config.to_dict(), loaded.model.config.to_dict()
    for key in ("vae_transform", "vit_transform", "max_latent_size", "bos_token_id"):
        assert after[key] == before[key]
    text = "It's 2024, naïve <|im_end|>"
    assert loaded.tokenizer(text)["input_ids"] == pipe.tokenizer(text)["input_ids"]


@pytest.mark.shared
def test_the_authors_files_survive_a_round_trip_through_our_layout(shared, tmp_path):
    source = shared / "goldens" / "bagel" / "tiny_upstream"
    Echo4oPipeline.from_pretrained(source).save_pretrained(tmp_path / "ours")
    back = tmp_path / "back"
    Echo4oPipeline.from_pretrained(tmp_path / "ours").save_pretrained(back, layout="bagel")
    for name in ("ema.safetensors", "ae.safetensors"):
        before, after = load_file(source / name), load_file(back / name)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
    for name in ("llm_config.json", "vit_config.json"):
        before, after = (json.loads((f / name).read_text()) for f in (source, back))
        # transformers forgets a window that is not used.
        kept = before.keys() - {"sliding_window", "torch_dtype", "transformers_version"}
        assert {key: after[key] for key in kept} == {key: before[key] for key in kept}


def test_weights_keep_their_stored_type_unless_asked(pipe, tmp_path):
    half = Echo4oPipeline.from_pretrained(_saved(pipe, tmp_path / "a"), dtype=torch.bfloat16)
    assert half.model.dtype == torch.bfloat16
    assert half.vae.dtype == torch.float32
    for layout in ("echo4o", "bagel"):
        half.save_pretrained(tmp_path / layout, layout=layout)
        again = Echo4oPipeline.from_pretrained(tmp_path / layout)
        assert again.model.dtype == torch.bfloat16
        same_weights(half.model, again.model)


def _saved(pipe, folder: Path) -> Path:
    pipe.save_pretrained(folder)
    return folder


def recorded_shapes(part) -> dict[str, list[int]]:
    return {name: facts["shape"] for name, facts in part["tensors"].items()}


@pytest.mark.shared
def test_full_size_names_and_shapes_equal_the_manifest(shared):
    manifest = json.loads((shared / "goldens" / "bagel" / "param_manifest_7b.json").read_text())
    with torch.device("meta"):
        model = BagelForUnifiedGeneration(BagelConfig())
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=16,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == recorded_shapes(manifest["model"])
    state = vae.state_dict()
    names = weights.autoencoder_names(vae)
    assert set(names.values()) == set(state)
    ours = {a: list(weights._authors_shape(a, tuple(state[d].shape))) for a, d in names.items()}
    assert ours == recorded_shapes(manifest["ae"])


def test_a_checkpoint_in_an_inner_folder_is_found(authors, tmp_path):
    shutil.copytree(authors, tmp_path / "outer" / "Echo-4o")
    assert locate(tmp_path / "outer").folder == tmp_path / "outer" / "Echo-4o"
    shutil.copytree(authors, tmp_path / "outer" / "second")
    with pytest.raises(CheckpointError, match="2 inner folders"):
        locate(tmp_path / "outer")


def test_diffusers_loads_a_saved_folder_with_trust(ours, pipe):
    index = json.loads((ours / "model_index.json").read_text())
    # Published repositories name these: changing one breaks every saved model.
    assert index["_class_name"] == ["pipeline", "Echo4oPipeline"]
    assert index["model"] == ["echo4o.models.bagel.modeling", "BagelForUnifiedGeneration"]
    loaded = DiffusionPipeline.from_pretrained(ours, trust_remote_code=True)
    assert type(loaded) is Echo4oPipeline
    same_weights(pipe.model, loaded.model)


def test_auto_classes_know_the_model(ours):
    config = AutoConfig.from_pretrained(ours / "model")
    assert isinstance(config, BagelConfig)
    assert isinstance(AutoModel.from_pretrained(ours / "model"), BagelForUnifiedGeneration)


def test_large_models_are_saved_in_shards_and_load(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    same_weights(pipe.model, Echo4oPipeline.from_pretrained(tmp_path).model)


# ------------------------------------------------------------------------ what is refused


@pytest.fixture
def copy(authors: Path, tmp_path: Path) -> Path:
    shutil.copytree(authors, tmp_path / "copy")
    return tmp_path / "copy"


def edit_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / "ema.safetensors")
    change(tensors)
    save_file(tensors, folder / "ema.safetensors")


def test_without_vision_tower_it_loads_for_generation_and_says_so(copy, caplog):
    def drop(tensors):
        for name in [n for n in tensors if n.startswith(weights.VISION_PREFIXES)]:
            del tensors[name]

    edit_tensors(copy, drop)
    loaded = Echo4oPipeline.from_pretrained(copy)
    loaded.set_progress_bar_config(disable=True)
    assert "no vision tower" in caplog.text
    assert loaded("a cat", height=32, width=32, num_inference_steps=1).images[0].size == (32, 32)
    with pytest.raises(ValueError, match="no vision tower"):
        loaded.understand(loaded("a", height=32, width=32, num_inference_steps=1).images, "what?")


@pytest.mark.parametrize("name", ["connector.fc1.weight", "vae2llm.weight"])
def test_a_missing_tensor_is_named(copy, name):
    edit_tensors(copy, lambda tensors: tensors.pop(name))
    with pytest.raises(CheckpointError, match=f"1 missing: {name}"):
        Echo4oPipeline.from_pretrained(copy)


def test_unexpected_and_misshapen_tensors_are_named(copy):
    def change(tensors):
        tensors["surprise"] = torch.zeros(1)
        tensors["vae2llm.bias"] = torch.zeros(5)

    edit_tensors(copy, change)
    with pytest.raises(CheckpointError, match=r"surprise.*vae2llm.bias \[5\] instead of \[32\]"):
        Echo4oPipeline.from_pretrained(copy)


@pytest.mark.parametrize("name", ["ema.safetensors", "ae.safetensors"])
@pytest.mark.parametrize("keep", [4, 1000, -10])
def test_a_cut_off_file_is_refused_before_loading(copy, name, keep):
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[:keep])
    with pytest.raises(CheckpointError, match=rf"{name}.*download it again"):
        Echo4oPipeline.from_pretrained(copy)


def test_a_cut_off_file_of_our_layout_is_refused(ours, tmp_path):
    shutil.copytree(ours, tmp_path / "copy")
    file = tmp_path / "copy" / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cut off"):
        Echo4oPipeline.from_pretrained(tmp_path / "copy")


def test_a_trailing_comma_is_named_with_its_place(copy):
    text = (copy / "config.json").read_text().rstrip().removesuffix("}")
    (copy / "config.json").write_text(text.rstrip() + ",}")
    with pytest.raises(CheckpointError, match=r"config.json is no valid JSON .*trailing comma"):
        Echo4oPipeline.from_pretrained(copy)


@pytest.mark.parametrize("name", ["ae.safetensors", "ema.safetensors", "tokenizer_config.json"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        Echo4oPipeline.from_pretrained(copy)


def test_a_folder_without_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        Echo4oPipeline.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="there is no folder"):
        Echo4oPipeline.from_pretrained(tmp_path / "nowhere")


def test_inspect_reads_headers_only(authors, ours, pipe):
    count = sum(tensor.numel() for tensor in pipe.model.state_dict().values())
    for folder, layout in ((authors, "bagel"), (ours, "echo4o")):
        facts = inspect(folder)
        assert (facts["layout"], facts["parameters"]) == (layout, count)
        assert facts["missing"] == "nothing"
