"""The whole pipeline with tiny random parts: every mode, batches, saving and loading."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_omnigen2 import make_omnigen2

from echo4o.models.checkpoint import CheckpointError
from echo4o.models.omnigen2 import OmniGen2Pipeline

SMALL = {"height": 32, "width": 48, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def pipe():
    return make_omnigen2()


@pytest.fixture(scope="module")
def saved(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("omnigen2") / "model"
    pipe.save_pretrained(folder)
    return folder


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def picture(color, size=(48, 32)):
    return Image.new("RGB", size, color)


def arrays(result):
    return [np.asarray(image).astype(int) for image in result.images]


def test_modes_give_pictures_that_differ(pipe):
    red, blue = picture("red"), picture("blue", (40, 64))
    made = [
        pipe("a cat", references, **SMALL, generator=seeded(1)).images[0]
        for references in (None, [red], [red, blue], [blue, red])
    ]
    assert [image.size for image in made] == [(48, 32)] * 4
    assert len({image.tobytes() for image in made}) == 4


def test_a_batch_equals_its_singles(pipe):
    prompts, pictures = ["a cat", "a much longer text about a dog"], [[picture("red")], []]
    batch = pipe(prompts, pictures, **SMALL, num_images_per_prompt=2, generator=seeded(1, 2, 3, 4))
    for number, array in enumerate(arrays(batch)):
        text, own = prompts[number // 2], [pictures[number // 2]]
        alone = arrays(pipe([text], own, **SMALL, generator=seeded(number + 1)))[0]
        assert abs(array - alone).max() <= 1


def test_one_reference_gives_its_size(pipe):
    made = pipe("x", picture("red", (70, 50)), num_inference_steps=1, generator=seeded(0))
    assert made.images[0].size == (64, 48)
    two = [picture("red", (70, 50))] * 2
    made = pipe("x", two, height=40, width=56, num_inference_steps=1, generator=seeded(0))
    assert made.images[0].size == (56, 40)  # made with 48 x 32 pixels and scaled


def test_each_picture_is_refined_once(pipe):
    """Three passes of guidance look at one target and one reference."""
    rows = []
    for block in (pipe.transformer.noise_refiner[0], pipe.transformer.ref_image_refiner[0]):
        block.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    layers = []
    pipe.transformer.layers[0].register_forward_pre_hook(
        lambda module, inputs: layers.append(len(inputs[0]))
    )
    pipe("x", picture("red"), **SMALL, generator=seeded(0))
    assert rows == [1, 1] * 2
    assert layers == [3, 3]


def test_saved_and_loaded_in_both_ways(pipe, saved):
    wanted = arrays(pipe("a cat", picture("red"), **SMALL, generator=seeded(5)))[0]
    index = json.loads((saved / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "OmniGen2Pipeline"]
    for loaded in (
        OmniGen2Pipeline.from_pretrained(saved),
        DiffusionPipeline.from_pretrained(saved, trust_remote_code=True),
    ):
        loaded.set_progress_bar_config(disable=True)
        found = arrays(loaded("a cat", picture("red"), **SMALL, generator=seeded(5)))[0]
        assert (found == wanted).all()


def test_the_released_index_needs_no_trust(saved, tmp_path):
    """The published index names modules of a repository; only the five folders count."""
    for part in ("transformer", "vae", "mllm", "processor"):
        (tmp_path / part).symlink_to(saved / part)
    names = {"_class_name": "OmniGen2Pipeline", "transformer": ["transformer_omnigen2", "X"]}
    (tmp_path / "model_index.json").write_text(json.dumps(names))
    assert OmniGen2Pipeline.from_pretrained(tmp_path).transformer.config.num_layers == 2


@pytest.mark.parametrize("layout", ["older", "newer"])
def test_a_text_encoder_in_either_layout(pipe, saved, tmp_path, layout):
    """transformers 4.51 kept the text model at the top, and its sizes in a flat config."""
    folder = tmp_path / layout
    shutil.copytree(saved, folder)
    weights, settings = folder / "mllm/model.safetensors", folder / "mllm/config.json"
    older = load_file(weights)  # as transformers still writes it
    assert {name.partition(".")[0] for name in older} == {"model", "visual", "lm_head"}
    if layout == "newer":
        start = {"model.": "model.language_model.", "visual.": "model.visual."}
        newer = {
            start.get(name[: name.index(".") + 1], name[: name.index(".") + 1])
            + name.partition(".")[2]: tensor
            for name, tensor in older.items()
        }
        save_file(newer, weights, metadata={"format": "pt"})
    else:
        config = json.loads(settings.read_text())
        text = config.pop("text_config")
        rope = text.pop("rope_parameters")
        flat = {"rope_theta": rope.pop("rope_theta"), "rope_scaling": {**rope, "type": "mrope"}}
        kept = {name: value for name, value in text.items() if name not in ("model_type", "dtype")}
        settings.write_text(json.dumps({**kept, **config, **flat}))
    texts = ["a cat", "three red circles"]
    found = OmniGen2Pipeline.from_pretrained(folder).encode_text(texts)
    for one, wanted in zip(found, pipe.encode_text(texts), strict=True):
        assert one.equal(wanted)


def test_a_checkpoint_that_does_not_fit(saved, tmp_path):
    with pytest.raises(CheckpointError, match="transformer, vae, mllm"):
        OmniGen2Pipeline.from_pretrained(tmp_path)
    for part in ("vae", "mllm", "processor"):
        (tmp_path / part).symlink_to(saved / part)
    (tmp_path / "transformer").mkdir()
    for file in (saved / "transformer").iterdir():
        (tmp_path / "transformer" / file.name).write_bytes(file.read_bytes())
    config = tmp_path / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"num_layers": 2', '"num_layers": 3'))
    with pytest.raises(CheckpointError, match=r"missing.*layers\.2"):
        OmniGen2Pipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": [picture("red")] * 6}, "at most 5 references"),
        ({"image": [[None]]}, "with a NoneType among them"),
        ({"prompt": None}, "there is no prompt"),
        ({"prompt": ["x", 3]}, "must be a text or a list of texts"),
        ({"prompt": "a\ud800b"}, "no Unicode"),
        ({"negative_prompt": "a\ud800b"}, "no Unicode"),
        ({"max_text_tokens": 0}, "and 1 text token"),
        ({"height": 32}, "both `height` and `width`"),
        ({"height": 8, "width": 64}, "at least 16"),
        ({"num_inference_steps": 0}, "at least 1"),
        ({"guidance_scale": -1.0}, "`text_scale` must be"),
        ({"guidance_interval": (0.6, 0.2)}, "0 <= low <= high"),
        ({"image": picture("red", (400, 10))}, "less than 16"),
        ({"latents": torch.zeros(1, 4, 8, 8), "height": 32, "width": 32}, "must have the shape"),
        ({"height": 32 * 1024, "width": 16, "max_pixels": 10**9}, "positions up to"),
    ],
)
def test_what_cannot_be_made_is_refused(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(**{"prompt": "x", "num_inference_steps": 1} | arguments)


def test_gradients_are_the_same_with_checkpointing():
    model = make_omnigen2().transformer.train()
    text, mask = torch.randn(1, 3, 24), torch.ones(1, 3)
    latents, reference = torch.randn(1, 4, 4, 6), torch.randn(4, 4, 4)

    def gradient():
        model.zero_grad()
        out = model(latents, torch.tensor([0.5]), text, mask, [[reference]])
        out.square().mean().backward()
        return {name: value.grad.clone() for name, value in model.named_parameters()}

    plain = gradient()
    model.enable_gradient_checkpointing()
    for name, value in gradient().items():
        torch.testing.assert_close(value, plain[name])
    unused = {name for name, value in plain.items() if not value.abs().any()}
    assert unused <= {"context_refiner.0.attn.norm_k.weight"}


def test_an_adapter_changes_the_velocity_and_comes_back(tmp_path):
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    config = LoraConfig(r=2, lora_alpha=2, target_modules=targets, init_lora_weights=False)
    inputs = torch.randn(1, 4, 4, 4), torch.tensor([0.5]), torch.randn(1, 3, 24), torch.ones(1, 3)
    models = [make_omnigen2().transformer for _ in range(2)]
    plain = models[0](*inputs)
    models[0].add_adapter(config)
    adapted = models[0](*inputs)
    assert (adapted - plain).abs().max() > 1e-3
    models[0].save_lora_adapter(tmp_path)
    models[1].load_lora_adapter(tmp_path, prefix=None, use_safetensors=True)
    torch.testing.assert_close(models[1](*inputs), adapted)
