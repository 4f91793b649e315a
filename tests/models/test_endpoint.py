"""`handler.py` as the Inference Toolkit loads and calls it."""

import base64
import importlib.util
import io

import pytest
from PIL import Image
from tiny_blip3o import make_blip3o
from tiny_omnigen2 import make_omnigen2

from echo4o.errors import Echo4oError
from echo4o.models.endpoint import write_handler
from echo4o.models.pictures import is_marked_machine_made, read_record


def served(model, home):
    """The handler of a model folder, from a `handler.py` in a folder of its own."""
    write_handler(home, "echo4o")
    spec = importlib.util.spec_from_file_location("handler", home / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(model))


@pytest.fixture(scope="session")
def handler(ours, tmp_path_factory):
    return served(ours, tmp_path_factory.mktemp("endpoint"))


def encoded(image=None):
    stream = io.BytesIO()
    (image or Image.new("RGB", (32, 32), "red")).save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode()


def test_it_paints_composes_and_answers(handler):
    options = {"num_inference_steps": 2, "height": 64, "width": 64, "seed": 3}
    one = handler({"inputs": "a red ring", "parameters": options})
    assert Image.open(io.BytesIO(base64.b64decode(one["image"]))).size == (64, 64)
    assert handler({"inputs": "a red ring", "parameters": options}) == one
    other = handler({"inputs": "a red ring", "parameters": options | {"seed": 4}})
    assert other != one
    composed = handler({"inputs": "on the rug", "images": [encoded()], "parameters": options})
    assert composed.keys() == {"image"}
    answered = handler({"question": "what is this?", "images": [encoded()]})
    assert isinstance(answered["answer"], str)


def test_its_pictures_say_that_they_are_machine_made(handler, tmp_path):
    options = {"num_inference_steps": 1, "height": 32, "width": 32, "seed": 3}
    made = handler({"inputs": "a red ring", "parameters": options})["image"]
    (tmp_path / "made.png").write_bytes(base64.b64decode(made))
    assert is_marked_machine_made(tmp_path / "made.png")
    record = read_record(tmp_path / "made.png")
    assert (record.prompt, record.model, record.seed) == ("a red ring", "ours", 3)


def test_a_transparent_reference_means_what_it_means_to_the_pipeline(handler):
    """White where nothing is to be seen; what lies hidden there must not show."""
    see_through = Image.new("RGBA", (32, 32), (0, 0, 255, 0))
    options = {"num_inference_steps": 1, "seed": 3}
    replies = [
        handler({"inputs": "on the rug", "images": [encoded(image)], "parameters": options})
        for image in (see_through, Image.new("RGB", (32, 32), "white"))
    ]
    assert replies[0] == replies[1]


def size(reply):
    return Image.open(io.BytesIO(base64.b64decode(reply["image"]))).size


def test_it_serves_omnigen2_and_refuses_what_that_cannot_do(tmp_path):
    make_omnigen2().save_pretrained(tmp_path / "model")
    handler = served(tmp_path / "model", tmp_path)
    options = {"num_inference_steps": 1, "height": 32, "width": 48, "seed": 3}
    request = {"inputs": "a red ring", "parameters": options}
    one = handler(request)
    assert size(one) == (48, 32)
    assert handler(request) == one
    assert handler(request | {"images": [encoded()]})["image"] != one["image"]
    shifted = handler(request | {"parameters": options | {"timestep_shift": 3}})
    assert "unknown parameter 'timestep_shift'; known: height, width" in shifted["error"]
    asked = handler({"question": "what is this?", "images": [encoded()]})
    assert asked["error"] == "a model of OmniGen2Pipeline answers no `question`; give `inputs`"


def test_it_serves_blip3o_and_refuses_what_that_cannot_do(tmp_path):
    make_blip3o(direct=True).save_pretrained(tmp_path / "model")
    handler = served(tmp_path / "model", tmp_path)
    request = {"inputs": "a red ring", "parameters": {"num_inference_steps": 1, "seed": 3}}
    assert size(handler(request)) == (32, 32)
    assert "takes no `images`" in handler(request | {"images": [encoded()]})["error"]
    sized = handler(request | {"parameters": {"height": 32}})["error"]
    assert sized == ("unknown parameter 'height'; known: num_inference_steps, guidance_scale, seed")
    (tmp_path / "model/model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(Echo4oError, match="FluxPipeline is none of the pipelines of echo4o"):
        served(tmp_path / "model", tmp_path)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({}, "`inputs` must be a text"),
        ({"inputs": ""}, "`inputs` must be a text"),
        ({"inputs": ["a"]}, "`inputs` must be a text"),
        ({"inputs": "a", "images": "x"}, "at most 4"),
        ({"inputs": "a", "images": [encoded()] * 5}, "at most 4"),
        ({"inputs": "a", "images": ["%%%"]}, "cannot be read"),
        ({"inputs": "a", "images": [encoded()[:60]]}, "cannot be read"),
        ({"inputs": "a", "parameters": []}, "must be an object"),
        ({"inputs": "a", "parameters": {"height": 10**9}}, "`height` cannot be"),
        ({"inputs": "a", "parameters": {"seed": True}}, "`seed` cannot be"),
        ({"inputs": "a", "parameters": {"callback": "os.system"}}, "unknown parameter"),
    ],
)
def test_a_bad_request_is_answered_with_a_sentence(handler, request_, words):
    assert words in handler(request_)["error"]
