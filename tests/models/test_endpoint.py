"""`handler.py` as the Inference Toolkit loads and calls it."""

import base64
import importlib.util
import io

import pytest
from PIL import Image

from echo4o.models.endpoint import write_handler


@pytest.fixture(scope="session")
def handler(ours, tmp_path_factory):
    folder = tmp_path_factory.mktemp("endpoint") / "repo"
    folder.symlink_to(ours)
    write_handler(ours, "echo4o")
    spec = importlib.util.spec_from_file_location("handler", folder / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (ours / "handler.py").unlink()
    (ours / "requirements.txt").unlink()
    return module.EndpointHandler(str(folder))


def encoded(side=32):
    stream = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(stream, format="PNG")
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
