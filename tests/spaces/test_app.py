"""The demo as a program sees it: real server, real model, real client, hostile requests."""

import re
from importlib import resources
from pathlib import Path

import httpx
import pytest
from calls import begun, in_line
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from echo4o.cli import main
from echo4o.models.pictures import is_marked_machine_made, read_record
from echo4o.records import sha256_file

GENERATE = {"api_name": "/generate"}
PATHS = re.compile(r"/(?:root|home|work|usr|opt|var|tmp)/")


@pytest.fixture(scope="module")
def client(app, tmp_path_factory):
    return Client(app, verbose=False, download_files=str(tmp_path_factory.mktemp("got")))


def make(client, api_name="/generate", **values):
    """Files and the rest of a reply."""
    reply = client.predict(api_name=api_name, **{"steps": 2, "seed": 5} | values)
    return [Path(one["image"]) for one in reply["pictures"]], reply


def refused(client, api_name, **values):
    with pytest.raises(AppError) as error:
        client.predict(api_name=api_name, **values)
    sentence = str(error.value)
    assert not PATHS.search(sentence)
    assert not re.search("traceback|upstream gradio app", sentence, re.IGNORECASE)
    return sentence


def test_generate_makes_marked_pictures_that_a_seed_repeats(client):
    files, reply = make(client, prompt="three red circles", count=2)
    again, _ = make(client, prompt="three red circles", seed=6)
    assert [Image.open(file).size for file in files] == [(64, 64), (64, 64)]
    assert files[0].read_bytes() != files[1].read_bytes()
    assert files[1].read_bytes() == again[0].read_bytes()
    assert [one["caption"] for one in reply["pictures"]] == [
        "machine-made, seed 5",
        "machine-made, seed 6",
    ]
    assert [one["seed"] for one in reply["pictures"]] == [5, 6]
    assert all(is_marked_machine_made(file) for file in files)
    record = read_record(files[1])
    assert (record.prompt, record.seed, record.model) == ("three red circles", 6, "tiny")
    assert record.parameters["num_inference_steps"] == 2
    assert (reply["progress"], reply["withheld"]) == (1.0, 0)


def test_a_picture_of_quality_is_repeated_by_the_command_line(client, tmp_path, capsys):
    files, _ = make(client, prompt="a blue ring", quality="Quality")
    model = resources.files("echo4o.models") / "tiny_model"
    words = ["--again", str(files[0]), "--out", str(tmp_path), str(model), "--dtype", "float32"]
    main(["model", "generate", *words])
    assert "all pixels equal" in capsys.readouterr().err


def test_fast_computes_fewer_steps_and_says_so(client):
    fast, _ = make(client, prompt="a blue ring", steps=12)
    careful, _ = make(client, prompt="a blue ring", steps=12, quality="Quality")
    assert "step_cache" in read_record(fast[0]).parameters
    assert "step_cache" not in read_record(careful[0]).parameters
    assert fast[0].read_bytes() != careful[0].read_bytes()


def test_sizes_follow_aspect_and_model(client):
    files, _ = make(client, prompt="a ring", aspect="Wide 16:9")
    assert Image.open(files[0]).size == (64, 32)


def test_think_mode_streams_its_plan(client):
    job = client.submit(prompt="a ring", steps=2, think=True, api_name="/generate")
    reply = job.result()
    plans = [one["thought"] for one in job.outputs() if one["thought"]]
    assert len(set(plans)) > 3
    assert reply["thought"].startswith(plans[0])


def test_compose_minds_order_and_last_shape(client, tmp_path):
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    Image.new("RGB", (80, 40), "blue").save(tmp_path / "blue.jpg")
    red, blue = handle_file(tmp_path / "red.png"), handle_file(tmp_path / "blue.jpg")
    call = {"prompt": "both", "seed": 1, "api_name": "/compose"}
    one, _ = make(client, image_1=red, image_2=blue, **call)
    other, _ = make(client, image_1=blue, image_2=red, **call)
    assert Image.open(one[0]).size == (64, 32)
    assert Image.open(other[0]).size == (64, 64)
    assert [one.name for one in read_record(one[0]).references] == ["red.png", "blue.jpg"]
    hashes = [one.sha256 for one in read_record(other[0]).references]
    assert hashes == [sha256_file(tmp_path / name) for name in ("blue.jpg", "red.png")]


def test_ask_streams_its_answer(client, tmp_path):
    Image.new("RGB", (64, 64), "green").save(tmp_path / "green.webp")
    picture = handle_file(tmp_path / "green.webp")
    job = client.submit(picture=picture, question="what?", api_name="/ask")
    assert isinstance(job.result(), str)
    pieces = [piece for piece in job.outputs() if piece]
    assert len(pieces) > 2
    assert pieces[-1].startswith(pieces[0])


def test_cancel_ends_the_work_and_frees_the_queue(client):
    long = client.submit(prompt="a ring", count=4, steps=100, quality="Quality", **GENERATE)
    begun(long)
    assert long.cancel()
    make(client, prompt="next")
    assert long.outputs()[-1]["progress"] < 0.9


def test_endpoints_are_named_and_typed(client):
    api = client.view_api(return_format="dict")["named_endpoints"]
    assert set(api) == {"/generate", "/compose", "/ask"}
    types = {one["parameter_name"]: one["python_type"]["type"] for one in parameters(api)}
    assert types["prompt"] == "str"
    assert types["count"] == "int"
    assert types["aspect"].startswith("Literal['Square 1:1'")
    assert types["think"] == "bool"
    names = [one["parameter_name"] for one in api["/compose"]["parameters"]][:5]
    assert names == ["prompt", "image_1", "image_2", "image_3", "image_4"]
    returned = api["/generate"]["returns"][0]["python_type"]["type"]
    assert "pictures: list[dict(image: filepath" in returned


def parameters(api):
    return api["/generate"]["parameters"]


def test_many_calls_at_once_are_served_in_their_order(client, demo):
    _, server = demo
    in_line(client, server, calls=12)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"prompt": "  "}, "prompt is empty"),
        ({"prompt": "x" * 1_000_000}, "1,000,000 characters; at most 2,000"),
        ({"prompt": {"a": 1}}, "must be text, not dict"),
        ({"prompt": "x", "count": 5}, "number of pictures must be from 1 to 4, got 5"),
        ({"prompt": "x", "steps": "many"}, "number from 1 to 100, not 'many'"),
        ({"prompt": "x", "steps": 1.5}, "whole number, got 1.5"),
        ({"prompt": "x", "seed": 2**40}, "seed must be from -1"),
        ({"prompt": "x", "guidance": None}, "not nothing"),
        ({"prompt": "x", "quality": "best"}, "quality must be Fast or Quality; got 'best'"),
        ({"prompt": "x", "think": "yes"}, "think switch must be true or false, not 'yes'"),
        ({"prompt": "x", "aspect": "<b>bold</b>"}, "got '?b?bold??b?'"),
        ({"prompt": "x", "aspect": "Like the last picture"}, "aspect must be one of"),
    ],
)
def test_hostile_settings_are_refused_in_words(client, values, words):
    assert words in refused(client, "/generate", **values)


def bad_files(folder):
    svg = "<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    (folder / "script.svg").write_text(svg)
    (folder / "fake.png").write_text(svg)
    (folder / "empty.png").write_bytes(b"")
    Image.new("1", (9000, 9000)).save(folder / "bomb.png")
    Image.new("RGB", (400, 20)).save(folder / "narrow.png")
    Image.new("RGB", (64, 64), "red").save(folder / "cut.png")
    whole = (folder / "cut.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (64, 64)).save(folder / "animation.gif")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("script.svg", "cannot be read"),
        ("fake.png", "cannot be read"),
        ("empty.png", "cannot be read"),
        ("cut.png", "cannot be read"),
        ("animation.gif", "cannot be read"),
        ("bomb.png", "81 megapixels; at most 25"),
        ("narrow.png", "too long and narrow"),
    ],
)
def test_hostile_pictures_are_refused_in_words(client, tmp_path, name, words):
    bad_files(tmp_path)
    picture = handle_file(tmp_path / name)
    assert words in refused(client, "/compose", prompt="x", image_1=picture)
    assert words in refused(client, "/ask", picture=picture, question="x")


def test_too_large_upload_is_cut_off(app):
    with httpx.Client(trust_env=False) as http:
        big = {"files": ("a.png", b"\x89PNG" + bytes(11 * 1024 * 1024))}
        assert http.post(f"{app}/gradio_api/upload", files=big).status_code == 413


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "undeclared"])
def test_no_file_of_the_server_is_read(app, tmp_path, declared):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "private.png")
    picture: object = {"path": str(tmp_path / "private.png")}
    if declared:
        picture = {**picture, "meta": {"_type": "gradio.FileData"}}
    reply = post(app, "ask", [picture, "what?"])
    assert "event: error" in reply
    assert "private" not in reply
    assert not PATHS.search(reply)


def test_no_path_of_the_server_is_in_a_reply(app):
    reply = post(app, "generate", ["a ring", "Square 1:1", 1, 5, 2, 4.0, "Fast", False])
    assert "event: complete" in reply
    assert "files/" in reply
    assert not PATHS.search(reply)


def test_no_address_is_fetched(app):
    picture = {"path": f"{app}/logo.png", "meta": {"_type": "gradio.FileData"}}
    assert "not fetched from addresses" in post(app, "ask", [picture, "what?"])


@pytest.mark.parametrize("picture", ["text", 3, [], {}, {"path": None, "url": None}])
def test_what_is_no_file_is_refused_in_words(app, picture):
    assert "is missing: upload" in post(app, "ask", [picture, "what?"])


def post(app, name, data):
    """What any HTTP client gets, without the checks of Gradio's own one."""
    with httpx.Client(trust_env=False, timeout=30) as http:
        started = http.post(f"{app}/gradio_api/call/{name}", json={"data": data})
        return http.get(f"{app}/gradio_api/call/{name}/{started.json()['event_id']}").text


def test_lives_on_after_all_that(client):
    files, _ = make(client, prompt="still here")
    assert len(files) == 1
