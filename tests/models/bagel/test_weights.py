"""Checkpoints: both layouts bit-exact, the full-size manifest, and files that must be refused."""

import json
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from safetensors.torch import load_file, save_file
from tiny_pipeline import make_pipeline
from transformers import AutoConfig, AutoModel

from echo4o import Echo4oPipeline
from echo4o.models.bagel import weights
from echo4o.models.bagel.checkpoint import locate
from echo4o.models.bagel.configuration import BagelConfig
from echo4o.models.bagel.inspection import inspect
from echo4o.models.bagel.modeling import BagelForUnifiedGeneration
from echo4o.models.checkpoint import CheckpointError


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


def test_the_small_autoencoder_survives_the_authors_layout(tmp_path):
    """It normalises over 8 groups, which the authors' files have no word for: theirs has 32."""
    pipe = Echo4oPipeline.from_pretrained(str(files("echo4o.models") / "tiny_model"))
    pipe.save_pretrained(tmp_path / "there", layout="bagel")
    loaded = Echo4oPipeline.from_pretrained(tmp_path / "there")
    same_weights(pipe.vae, loaded.vae)
    assert loaded.vae.config.norm_num_groups == pipe.vae.config.norm_num_groups == 8


@pytest.mark.parametrize(("channels", "levels"), [(4, 4), (16, 3)])
def test_another_latent_survives_the_authors_layout(tmp_path, channels, levels):
    """No file that they read says how many channels it has, or how much smaller it is."""
    made = make_pipeline(latent_channels=channels, latent_downsample=2 ** (levels - 1))
    vae = AutoencoderKL(
        block_out_channels=(32,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=channels,
        shift_factor=0.1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    Echo4oPipeline(made.model, vae, made.scheduler, made.tokenizer).save_pretrained(
        tmp_path, layout="bagel"
    )
    config = Echo4oPipeline.from_pretrained(tmp_path).model.config
    assert (config.latent_channels, config.latent_stride) == (channels, 2**levels)


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


@pytest.mark.parametrize("sizes", [("20KB", "5GB"), ("5GB", "20KB")])
def test_a_folder_that_is_written_again_holds_what_was_written_last(tmp_path, sizes):
    """In shards over one file, and the reverse."""
    for seed, size in enumerate(sizes):
        made = make_pipeline(seed)
        made.save_pretrained(tmp_path, max_shard_size=size)
    loaded = Echo4oPipeline.from_pretrained(tmp_path)
    same_weights(made.model, loaded.model)
    same_weights(made.vae, loaded.vae)
    with pytest.raises(CheckpointError, match="holds a model in our layout; give another folder"):
        made.save_pretrained(tmp_path, layout="bagel")


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


@pytest.mark.shared
def test_the_vision_tower_is_426_names_of_the_manifest(shared):
    """425 of the tower and the connector, and the position table: what fine-tuning leaves out."""
    manifest = json.loads((shared / "goldens" / "bagel" / "param_manifest_7b.json").read_text())
    names = [n for n in manifest["model"]["tensors"] if n.startswith(weights.VISION_PREFIXES)]
    tower = [name for name in names if name != "vit_pos_embed.pos_embed"]
    assert (len(names), len(tower)) == (426, 425)
    with torch.device("meta"):
        model = BagelForUnifiedGeneration(BagelConfig(visual_und=False))
    assert set(manifest["model"]["tensors"]) - set(model.state_dict()) == set(names)


def test_a_checkpoint_in_an_inner_folder_is_found(authors, tmp_path):
    shutil.copytree(authors, tmp_path / "outer" / "Echo-4o")
    assert locate(tmp_path / "outer").folder == tmp_path / "outer" / "Echo-4o"
    shutil.copytree(authors, tmp_path / "outer" / "second")
    with pytest.raises(CheckpointError, match="each of its folders Echo-4o, second;"):
        locate(tmp_path / "outer")


def test_diffusers_loads_a_saved_folder_with_trust(ours, pipe):
    index = json.loads((ours / "model_index.json").read_text())
    # Published repositories name these: changing one breaks every saved model.
    assert index["_class_name"] == ["pipeline", "Echo4oPipeline"]
    assert index["model"] == ["modeling_echo4o_bagel", "BagelForUnifiedGeneration"]
    shims = {
        ours / "pipeline.py": "pipeline",
        ours / "model" / f"{index['model'][0]}.py": "modeling",
    }
    for path, module in shims.items():
        assert path.read_text().startswith(f"from echo4o.models.bagel.{module} import ")
        assert path.read_text().count("\n") == 1
    loaded = DiffusionPipeline.from_pretrained(ours, trust_remote_code=True)
    assert type(loaded) is Echo4oPipeline
    same_weights(pipe.model, loaded.model)


def test_auto_classes_know_the_model(ours, pipe):
    config = AutoConfig.from_pretrained(ours / "model")
    assert isinstance(config, BagelConfig)
    assert isinstance(AutoModel.from_config(config), BagelForUnifiedGeneration)
    model = AutoModel.from_pretrained(ours / "model")
    assert isinstance(model, BagelForUnifiedGeneration)
    same_weights(pipe.model, model)


def test_importing_the_model_is_what_teaches_the_auto_classes(ours):
    code = (
        "import sys, echo4o\n"
        "assert 'torch' not in sys.modules\n"
        "from transformers import AutoConfig\n"
        "try: AutoConfig.from_pretrained(sys.argv[1])\n"
        "except ValueError as error: assert 'echo4o_bagel' in str(error)\n"
        "else: sys.exit('known too early')\n"
        "import echo4o.models.bagel\n"
        "print(type(AutoConfig.from_pretrained(sys.argv[1])).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ours / "model")], capture_output=True, text=True
    )
    assert done.stdout.strip() == "BagelConfig", done.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_models_are_saved_in_shards_and_load(ours, tmp_path, dtype):
    pipe = Echo4oPipeline.from_pretrained(ours, dtype=dtype)
    pipe.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 3
    loaded = Echo4oPipeline.from_pretrained(tmp_path)
    same_weights(pipe.model, loaded.model)
    same_weights(pipe.vae, loaded.vae)
    loaded.save_pretrained(tmp_path / "whole", layout="bagel")
    same_weights(pipe.model, Echo4oPipeline.from_pretrained(tmp_path / "whole").model)
    with pytest.raises(ValueError, match="takes no further options, got max_shard_size"):
        pipe.save_pretrained(tmp_path / "never", layout="bagel", max_shard_size="1GB")
    assert not (tmp_path / "never").exists()


# ------------------------------------------------------------------------ what is refused


@pytest.fixture
def copy(authors: Path, tmp_path: Path) -> Path:
    shutil.copytree(authors, tmp_path / "copy")
    return tmp_path / "copy"


def edit_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / "ema.safetensors")
    change(tensors)
    save_file(tensors, folder / "ema.safetensors")


def without_vision(tensors) -> None:
    for name in [n for n in tensors if n.startswith(weights.VISION_PREFIXES)]:
        del tensors[name]


def generates_only(folder: Path, caplog) -> Echo4oPipeline:
    """Loads with a notice, paints from text, and says why it takes no picture."""
    caplog.clear()
    loaded = Echo4oPipeline.from_pretrained(folder)
    loaded.set_progress_bar_config(disable=True)
    assert "no vision tower: the model makes pictures from text" in caplog.text
    assert "model merge --base" in caplog.text
    (image,) = loaded("a cat", height=32, width=32, num_inference_steps=1).images
    assert image.size == (32, 32)
    with pytest.raises(ValueError, match="no vision tower"):
        loaded.understand([image], "what?")
    with pytest.raises(ValueError, match="no vision tower"):
        loaded("a hat", image, num_inference_steps=1)
    assert inspect(folder)["missing"].startswith("vision tower")
    return loaded


def test_without_vision_tower_it_loads_for_generation_and_says_so(copy, tmp_path, caplog):
    """In the authors' layout, and after saving in either."""
    edit_tensors(copy, without_vision)
    loaded = generates_only(copy, caplog)
    for layout in ("echo4o", "bagel"):
        loaded.save_pretrained(tmp_path / layout, layout=layout)
        same_weights(loaded.model, generates_only(tmp_path / layout, caplog).model)


def test_without_vision_tower_in_our_layout_whatever_the_configuration_says(ours, tmp_path, caplog):
    shutil.copytree(ours, tmp_path / "copy")
    path = tmp_path / "copy" / "model" / "model.safetensors"
    tensors = load_file(path)
    without_vision(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    generates_only(tmp_path / "copy", caplog)
    save_file({k: v for k, v in tensors.items() if k != "vae2llm.weight"}, path)
    with pytest.raises(CheckpointError, match="1 missing: vae2llm.weight"):
        Echo4oPipeline.from_pretrained(tmp_path / "copy")


@pytest.mark.parametrize("size", ["100KB", "1GB"])
def test_the_authors_layout_is_read_from_shards_too(copy, pipe, size):
    """Named as transformers names them, as some training checkpoints are."""
    (copy / "ema.safetensors").unlink()
    (copy / "model.safetensors.index.json").unlink()
    pipe.model.save_pretrained(copy / "aside", max_shard_size=size)
    for path in (copy / "aside").glob("model*"):
        path.rename(copy / path.name)
    loaded = Echo4oPipeline.from_pretrained(copy)
    same_weights(pipe.model, loaded.model)
    assert inspect(copy)["tensors"] == len(pipe.model.state_dict())
    next(copy.glob("model*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match=r"\.safetensors is missing"):
        Echo4oPipeline.from_pretrained(copy)


def test_half_a_vision_tower_is_an_error(copy):
    edit_tensors(copy, lambda tensors: tensors.pop("vit_pos_embed.pos_embed"))
    with pytest.raises(CheckpointError, match="1 missing: vit_pos_embed.pos_embed"):
        Echo4oPipeline.from_pretrained(copy)


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
