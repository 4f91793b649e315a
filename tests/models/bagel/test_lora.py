"""LoRA: what PEFT saves loads with equal output, fuses exactly; hostile adapters are refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.hooks import apply_group_offloading
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_pipeline import make_pipeline

from echo4o import Echo4oPipeline
from echo4o.models.bagel import adapter as adapters
from echo4o.models.bagel.lora import is_same_base
from echo4o.models.checkpoint import CheckpointError

SIZE = {"height": 32, "width": 48, "num_inference_steps": 2, "output_type": "latent"}


def picture(pipe: Echo4oPipeline) -> torch.Tensor:
    """A small edit: both experts, the vision tower and the autoencoder take part."""
    reference = Image.new("RGB", (48, 32), "red")
    call = {"generator": torch.Generator().manual_seed(1), **SIZE}
    return pipe("a hat", reference, **call).images[0]


def trained(folder: Path, *experts: str, seed: int = 0, **options) -> Path:
    """An adapter as PEFT saves it after training: no matrix is zero."""
    config = adapters.lora_config(*experts, rank=4, alpha=8)
    for key, value in options.items():
        setattr(config, key, value)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wrapped = get_peft_model(make_pipeline().model, config)
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    wrapped.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def generation(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("lora") / "gen", "generation")


@pytest.fixture(scope="session")
def understanding(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("lora") / "und", "understanding", seed=1)


@pytest.fixture(scope="session")
def plain() -> torch.Tensor:
    return picture(make_pipeline())


@pytest.mark.parametrize(
    ("experts", "layers"),
    [(("generation",), 14), (("understanding",), 14), (("generation", "understanding"), 28)],
)
def test_an_adapter_from_peft_gives_the_same_picture(experts, layers, tmp_path, plain):
    trained(tmp_path, *experts)
    theirs = make_pipeline()
    wrapped = PeftModel.from_pretrained(theirs.model, tmp_path)
    assert len(adapters.read_adapter(tmp_path).config.target_modules) > 0
    ours = make_pipeline()
    ours.load_lora_weights(tmp_path)
    tuned = [name for name, _ in ours.model.named_modules() if name.endswith(".lora_A")]
    assert len(tuned) == layers
    assert not [name for name in tuned if name.startswith("vit_model")]
    assert {name.endswith(("_moe_gen.lora_A", "_proj.lora_A")) for name in tuned} == {True}
    assert torch.equal(picture(ours), picture(theirs))
    assert (picture(ours) - plain).abs().max() > 0.01
    assert wrapped.active_adapter == "default"


def test_the_understanding_expert_changes_answers_and_generation_does_not(
    generation, understanding
):
    pipe, words = make_pipeline(), {}
    for name, folder in ((None, None), ("gen", generation), ("und", understanding)):
        if folder is not None:
            pipe.load_lora_weights(folder, name)
        words[name] = pipe.understand(Image.new("RGB", (40, 40)), "what?", max_new_tokens=8)
    assert words[None] == words["gen"]
    assert words["und"] != words[None]


def test_fused_equals_unfused_and_comes_out_again(generation, plain):
    pipe = make_pipeline()
    before = {name: tensor.clone() for name, tensor in pipe.model.state_dict().items()}
    pipe.load_lora_weights(generation, "style")
    with_adapter = picture(pipe)
    pipe.fuse_lora()
    torch.testing.assert_close(picture(pipe), with_adapter, rtol=0, atol=1e-5)
    pipe.unfuse_lora()
    torch.testing.assert_close(picture(pipe), with_adapter, rtol=0, atol=1e-5)
    pipe.unload_lora_weights()
    torch.testing.assert_close(picture(pipe), plain, rtol=0, atol=1e-5)
    assert pipe.model.state_dict().keys() == before.keys()


def test_a_fused_model_is_saved_and_loads_without_peft_names(generation, tmp_path):
    pipe = make_pipeline()
    pipe.load_lora_weights(generation)
    with pytest.raises(ValueError, match="adapters default_0 are loaded: call fuse_lora"):
        pipe.save_pretrained(tmp_path)
    with_adapter = picture(pipe)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path)
    loaded = Echo4oPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    torch.testing.assert_close(picture(loaded), with_adapter, rtol=0, atol=1e-5)


def test_a_fused_scale_is_undone(generation):
    pipe = make_pipeline()
    pipe.load_lora_weights(generation, "style")
    full = picture(pipe)
    pipe.fuse_lora(lora_scale=0.5)
    half = picture(pipe)
    pipe.unfuse_lora()
    torch.testing.assert_close(picture(pipe), full, rtol=0, atol=1e-5)
    pipe.set_adapters("style", 0.5)
    torch.testing.assert_close(picture(pipe), half, rtol=0, atol=1e-5)


def test_several_adapters_are_weighted_sums(generation, understanding, plain):
    pipe = make_pipeline()
    pipe.load_lora_weights(generation, "one")
    alone = picture(pipe)
    pipe.load_lora_weights(understanding, "two")
    pipe.set_adapters(["one", "two"], [0.5, -0.25])
    mixed = picture(pipe)
    by_hand = make_pipeline()
    weights = by_hand.model.state_dict()
    for folder, weight in ((generation, 0.5), (understanding, -0.25)):
        state = load_file(folder / "adapter_model.safetensors")
        for name in (key for key in state if key.endswith("lora_A.weight")):
            layer = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            product = state[name.replace("lora_A", "lora_B")] @ state[name]
            weights[f"{layer}.weight"] += weight * (8 / 4) * product
    torch.testing.assert_close(mixed, picture(by_hand), rtol=0, atol=1e-5)
    pipe.set_adapters("one")
    assert torch.equal(picture(pipe), alone)
    pipe.disable_lora()
    torch.testing.assert_close(picture(pipe), plain, rtol=0, atol=1e-5)
    assert pipe.get_list_adapters() == {"model": ["one", "two"]}


def test_a_saved_adapter_loads_here_and_in_peft(generation, tmp_path):
    pipe = make_pipeline()
    pipe.load_lora_weights(generation, "mine")
    pipe.set_adapters("mine", 0.3)
    pipe.save_lora_weights(tmp_path)
    before, after = (
        load_file(folder / "adapter_model.safetensors") for folder in (generation, tmp_path)
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    theirs = make_pipeline()
    PeftModel.from_pretrained(theirs.model, tmp_path)
    pipe.set_adapters("mine", 1.0)
    assert torch.equal(picture(theirs), picture(pipe))


def test_training_injects_and_saves_what_the_pipeline_loads(tmp_path):
    """The two calls a trainer needs, in the type it trains in."""
    pipe = make_pipeline()
    pipe.model.requires_grad_(False)
    pipe.model.add_adapter(adapters.lora_config("generation", rank=2), "default")
    learning = {n for n, p in pipe.model.named_parameters() if p.requires_grad}
    assert learning
    assert all("_moe_gen.lora_" in name or "mlp_moe_gen" in name for name in learning)
    for name, parameter in pipe.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapters.save_adapter(pipe.model, tmp_path, "default", base="org/base")
    other = make_pipeline()
    other.load_lora_weights(tmp_path, "weight")
    assert torch.equal(picture(pipe), picture(other))
    assert not [n for n, p in other.model.named_parameters() if p.requires_grad and "lora" in n]


@pytest.mark.parametrize("options", [{"use_dora": True}, {"use_rslora": True}])
def test_other_kinds_of_lora_load_too(options, tmp_path):
    trained(tmp_path, "generation", **options)
    theirs, ours = make_pipeline(), make_pipeline()
    PeftModel.from_pretrained(theirs.model, tmp_path)
    ours.load_lora_weights(tmp_path)
    with_adapter = picture(ours)
    torch.testing.assert_close(with_adapter, picture(theirs), rtol=0, atol=1e-5)
    ours.fuse_lora()
    torch.testing.assert_close(picture(ours), with_adapter, rtol=0, atol=1e-5)


def test_an_adapter_takes_the_type_of_the_model(generation):
    pipe = make_pipeline()
    pipe.model.to(torch.bfloat16)
    pipe.load_lora_weights(generation)
    kinds = {p.dtype for n, p in pipe.model.named_parameters() if "lora_" in n}
    assert kinds == {torch.bfloat16}
    assert torch.isfinite(picture(pipe)).all()


def test_layers_of_an_adapter_are_offloaded_with_the_others(generation):
    pipe, plain = make_pipeline(), make_pipeline()
    for one in (pipe, plain):
        if one is pipe:
            cpu = torch.device("cpu")
            apply_group_offloading(
                pipe.model, onload_device=cpu, offload_device=cpu, offload_type="leaf_level"
            )
        one.load_lora_weights(generation, "style")
    hooked = {
        name.split(".")[-2:][0]
        for name, module in pipe.model.named_modules()
        if isinstance(module, torch.nn.Linear) and "_diffusers_hook" in vars(module)
    }
    assert {"lora_A", "lora_B"} <= hooked
    assert torch.equal(picture(pipe), picture(plain))
    pipe.unload_lora_weights()
    assert picture(pipe).isfinite().all()


# ------------------------------------------------------------------------ what is refused


@pytest.fixture
def copy(generation: Path, tmp_path: Path) -> Path:
    shutil.copytree(generation, tmp_path / "copy")
    return tmp_path / "copy"


def refused(folder: Path, said: str, kind: type[Exception] = CheckpointError) -> None:
    """The adapter is refused in one line, and the model is as it was."""
    pipe = make_pipeline()
    names = list(pipe.model.state_dict())
    with pytest.raises(kind, match=said) as caught:
        pipe.load_lora_weights(folder)
    assert "\n" not in str(caught.value)
    assert list(pipe.model.state_dict()) == names
    assert pipe.get_list_adapters() == {}


def edit_config(folder: Path, **values) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"target_modules": ["w_pack"]}, "does not fit the model: Target modules .*w_pack"),
        ({"target_modules": r"q_proj("}, "does not fit the model"),
        ({"target_modules": ["input_layernorm"]}, "does not fit the model: .*not supported"),
        ({"target_modules": None}, "`target_modules` cannot be None"),
        ({"target_modules": r".*q_proj_moe_gen"}, "24 unexpected: base_model.model"),
        ({"target_modules": r"language_model.*_proj"}, "28 missing: base_model.model"),
        ({"r": 8}, "of the wrong shape: .*instead of"),
        ({"r": -4}, "`r` cannot be -4"),
        ({"r": "4"}, "`r` cannot be '4'"),
        ({"r": 10**12}, "`r` cannot be 1000000000000"),
        ({"lora_alpha": 1e400}, "`lora_alpha` cannot be inf"),
        ({"lora_alpha": True, "rank_pattern": []}, "`rank_pattern` cannot be"),
        ({"alpha_pattern": {"x": "y"}}, "`alpha_pattern` cannot be"),
        ({"layers_to_transform": "0"}, "`layers_to_transform` cannot be '0'"),
        ({"bias": "all"}, "`bias` cannot be 'all'"),
        ({"peft_type": "IA3"}, "must be 'LORA', got 'IA3'"),
        ({"peft_type": None}, "must be 'LORA', got None"),
        ({"init_lora_weights": "pissa"}, "'pissa' changed the base model"),
        ({"modules_to_save": ["llm2vae"]}, "`modules_to_save` cannot be loaded"),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "`megatron_config` cannot be"),
        ({"layer_replication": [[0, 1], [0, 1]]}, "`layer_replication` cannot be"),
        ({"not_yet_invented": True}, "`not_yet_invented` cannot be"),
    ],
)
def test_a_hostile_configuration_is_refused(copy, values, said):
    edit_config(copy, **values)
    refused(copy, said)


def test_hostile_weights_are_refused(copy):
    path = copy / "adapter_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    refused(copy, "adapter_model.safetensors .*download it again")
    path.write_bytes((30).to_bytes(8, "little") + b'{"a": {"dtype": "F32", "b": 1}}'[:30] + b" ")
    refused(copy, "adapter_model.safetensors has a ")
    path.write_bytes((10).to_bytes(8, "little") + b'{"a": 1}  ')
    refused(copy, "describes no tensors")
    path.write_bytes(whole)
    state = load_file(path)
    name = next(iter(state))
    save_file(state | {name: state[name][:, :-1].contiguous()}, path)
    refused(copy, rf"1 of the wrong shape: {name}")
    save_file(state | {"base_model.model.lm_head.weight": torch.zeros(2, 2)}, path)
    refused(copy, "1 unexpected: base_model.model.lm_head.weight")
    del state[name]
    save_file(state, path)
    refused(copy, f"1 missing: {name}")


def test_pickled_weights_are_never_opened(copy):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (copy / "opened",))

    (copy / "adapter_model.safetensors").unlink()
    torch.save({"a": Bomb()}, copy / "adapter_model.bin")
    refused(copy, "has no adapter_model.safetensors; .*never read")
    assert not (copy / "opened").exists()


def test_folders_that_are_no_adapter_are_refused(copy, ours, tmp_path):
    (copy / "adapter_config.json").write_text('{"peft_type": "LORA",}')
    refused(copy, "no valid JSON")
    refused(ours, "is no LoRA adapter: it has no adapter_config.json")
    refused(tmp_path / "nowhere", "there is no folder")


def test_another_base_is_refused_unless_asked(copy, ours):
    edit_config(copy, base_model_name_or_path="someone/another-model")
    pipe = Echo4oPipeline.from_pretrained(ours)
    with pytest.raises(ValueError, match="trained on someone/another-model, this pipeline is"):
        pipe.load_lora_weights(copy)
    pipe.load_lora_weights(copy, any_base=True)
    edit_config(copy, base_model_name_or_path=f"anyone/{ours.name}")
    pipe.load_lora_weights(copy, "same")


@pytest.mark.parametrize(
    ("named", "source", "same"),
    [
        ("", "org/model", True),
        ("org/model", "Org/Model", True),
        ("org/other", "org/model", False),
        ("/somebody/else/model", "org/model", True),
        ("org/model", None, True),
    ],
)
def test_which_bases_are_the_same(named, source, same):
    assert is_same_base(named, source) is same


def test_bases_in_the_cache_of_the_hub_are_known(tmp_path):
    folder = tmp_path / "models--org--model" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    assert is_same_base("org/model", str(folder))
    assert not is_same_base("org/other", str(folder))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda pipe, folder: pipe.load_lora_weights(folder, "one"), "an adapter 'one' already"),
        (lambda pipe, folder: pipe.load_lora_weights(folder, "a.b"), "must be letters, .*'a.b'"),
        (lambda pipe, _: pipe.set_adapters("two"), "two"),
        (lambda pipe, _: pipe.fuse_lora(adapter_names=["two"]), r"loaded \(one\), got two"),
        (lambda pipe, folder: pipe.save_lora_weights(folder, "two"), "got two"),
    ],
)
def test_wrong_names_are_refused(call, said, generation):
    pipe = make_pipeline()
    pipe.load_lora_weights(generation, "one")
    with pytest.raises(ValueError, match=said):
        call(pipe, generation)


def test_nothing_to_fuse_or_to_train_is_said():
    with pytest.raises(ValueError, match="none; call load_lora_weights first"):
        make_pipeline().fuse_lora()
    with pytest.raises(ValueError, match="got 'gen'"):
        adapters.lora_config("gen")
    assert isinstance(adapters.lora_config("generation", alpha=2.0), LoraConfig)
