"""Faults come as ordered, can be replayed, and look real on the wire."""

import base64
import http.client
import io
import json
import socket
import subprocess
import sys
import time
from collections import Counter
from urllib.parse import urlsplit

import openai
import pytest
from PIL import Image
from tests_sandbox import connect, image_api, restartable

from echo4o.errors import Echo4oError
from echo4o.sandbox import world
from echo4o.sandbox.faults import Faults, content_key

SPEC = (
    "429=0.05,500=0.02,cut=0.01,truncate=0.01,latency=200ms,"
    "refuse=0.02,garbage=0.01,misalign=0.05,seed=7"
)


def test_spec_is_read():
    faults = Faults.parse(SPEC)
    assert (faults.seed, faults.latency_s) == (7, 0.2)
    assert dict(faults.shares)["misalign"] == 0.05
    assert Faults.parse("").is_quiet
    assert not faults.is_quiet


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nonsense=1", "unknown fault 'nonsense=1'; known: 429, 500"),
        ("429", "unknown fault '429'"),
        ("429=often", "needs a number of 0 or more, got 'often'"),
        ("429=1.5", "between 0 and 1, got 1.5"),
        ("429=0.6,500=0.6", "must sum to at most 1"),
        ("latency=fast", "needs a time such as 200ms or 2s, got 'fast'"),
        ("seed=1,seed=2", "'seed' is given twice"),
        ("500=-1", "got '-1'"),
    ],
)
def test_bad_spec_is_a_sentence(spec, words):
    with pytest.raises(Echo4oError, match=words):
        Faults.parse(spec)


def test_shares_are_met_and_replayed():
    faults = Faults.parse("429=0.1,500=0.05,cut=0.02,refuse=0.1,seed=3")
    drawn = Counter(faults.transport(f"content {n}", 1) for n in range(20_000))
    assert drawn["429"] / 20_000 == pytest.approx(0.1, abs=0.01)
    assert drawn["cut"] / 20_000 == pytest.approx(0.02, abs=0.004)
    again = Counter(faults.transport(f"content {n}", 1) for n in range(20_000))
    assert again == drawn
    first = [faults.transport(f"content {n}", 1) for n in range(500)]
    assert first != [faults.transport(f"content {n}", 2) for n in range(500)]
    other = Faults.parse("429=0.1,500=0.05,cut=0.02,refuse=0.1,seed=4")
    assert first != [other.transport(f"content {n}", 1) for n in range(500)]


def test_outcomes_do_not_depend_on_the_attempt():
    faults = Faults.parse("refuse=0.5,seed=1")
    kinds = [faults.outcome(f"content {n}", kinds=("refuse", "misalign")) for n in range(1000)]
    assert 400 < kinds.count("refuse") < 600
    assert set(kinds) == {"refuse", None}


def test_content_ignores_the_boundary_of_a_form():
    def key(boundary):
        head = [(b"content-type", b"multipart/form-data; boundary=" + boundary)]
        body = b"--" + boundary + b"\r\nbytes\r\n--" + boundary + b"--"
        return content_key("POST", "/v1/images/edits", head, body)

    assert key(b"abc") == key(b"xyz")
    assert content_key("POST", "/a", [], b"1") != content_key("POST", "/a", [], b"2")


def paint(api, prompt="one red circle"):
    return api.images.generate(model="sandbox-image", prompt=prompt, size="64x64")


def bills(root):
    log = root / "openai" / "calls.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_429_tells_when_to_come_back(tmp_path):
    with restartable(tmp_path, "--faults", "429=1,retry_after=1500ms") as start:
        sandbox = start()
        with pytest.raises(openai.RateLimitError) as caught:
            paint(connect(sandbox))
        assert caught.value.code == "rate_limit_exceeded"
        assert caught.value.response.headers["retry-after"] == "2"
        assert caught.value.response.headers["retry-after-ms"] == "1500"
        hub = urlsplit(sandbox.hub)
        link = http.client.HTTPConnection(hub.hostname, hub.port)
        link.request("GET", "/api/models")
        reply = link.getresponse()
        assert (reply.status, reply.getheader("retry-after")) == (429, "2")
        assert isinstance(json.loads(reply.read())["error"], str)
        link.request("GET", "/healthz")
        assert link.getresponse().status == 200
    assert bills(tmp_path) == []


@pytest.mark.parametrize(
    ("kind", "error"), [("cut", ConnectionResetError), ("truncate", http.client.IncompleteRead)]
)
def test_replies_end_in_the_middle(tmp_path, kind, error):
    with image_api(tmp_path, f"{kind}=1") as sandbox:
        with pytest.raises(openai.APIConnectionError):
            paint(connect(sandbox))
        place = urlsplit(sandbox.openai)
        link = http.client.HTTPConnection(place.hostname, place.port, timeout=5)
        head = {"Authorization": f"Bearer {sandbox.api_key}", "Content-Type": "application/json"}
        body = json.dumps({"model": "sandbox-image", "prompt": "one circle", "size": "64x64"})
        link.request("POST", "/v1/images/generations", body, head)
        reply = link.getresponse()
        assert reply.status == 200
        with pytest.raises(error):
            reply.read()
    # The service did its work, so it is on the bill, marked as lost.
    assert [bill["delivered"] for bill in bills(tmp_path)] == [False, False]


def test_misaligned_pictures_differ_in_a_fact(tmp_path):
    with image_api(tmp_path, "misalign=1") as sandbox:
        for number in range(8):
            reply = paint(connect(sandbox), f"A photo of two red circles, scene {number}")
            picture = Image.open(io.BytesIO(base64.b64decode(reply.data[0].b64_json)))
            wanted = [{"class": "circle", "count": 2, "color": "red"}]
            assert not all(one.ok for one in world.check(world.see(picture), wanted))


def test_refusals_and_garbage(tmp_path):
    with image_api(tmp_path, "refuse=0.3,garbage=0.3,seed=5") as sandbox:
        api = connect(sandbox)
        codes, kinds = Counter(), Counter()
        for number in range(40):
            try:
                reply = api.images.with_raw_response.generate(
                    model="sandbox-image", prompt=f"{number % 7} red circles", size="64x64"
                )
                codes[reply.headers["content-type"].split(";")[0]] += 1
            except openai.BadRequestError as error:
                codes[error.code] += 1
        for number in range(30):
            chat = api.chat.completions.create(
                model="sandbox-judge",
                messages=[{"role": "user", "content": f"Expectations:\n- unreadable {number}"}],
            )
            message = chat.choices[0].message
            kinds["refused" if message.refusal else message.content[:11]] += 1
    assert set(codes) == {"application/json", "text/html", "content_policy_violation"}
    assert kinds["refused"]
    assert kinds['{"correct":']
    assert len(kinds) > 3


def test_a_failure_is_replayed(tmp_path):
    spec = "429=0.2,500=0.2,cut=0.2,seed=12"
    histories = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        with image_api(tmp_path / folder, spec) as sandbox:
            api = connect(sandbox)
            history = []
            for number in range(30):
                try:
                    paint(api, f"scene {number // 2} with a circle")
                    history.append("fine")
                except openai.APIError as error:
                    history.append(type(error).__name__)
        histories.append(history)
    assert histories[0] == histories[1]
    assert len(set(histories[0])) == 4


def test_request_limit_is_real(tmp_path):
    with image_api(tmp_path, "rpm=5") as sandbox:
        api = connect(sandbox)
        raw = api.images.with_raw_response.generate(model="sandbox-image", prompt="a", size="64x64")
        assert raw.headers["x-ratelimit-limit-requests"] == "5"
        assert raw.headers["x-ratelimit-remaining-requests"] == "4"
        for _ in range(4):
            paint(api)
        with pytest.raises(openai.RateLimitError) as caught:
            paint(api)
        assert 0 < int(caught.value.response.headers["retry-after-ms"]) <= 12_000


def test_latency(tmp_path):
    with image_api(tmp_path, "latency=300ms") as sandbox:
        api = connect(sandbox)
        begin = time.monotonic()
        paint(api)
        assert time.monotonic() - begin >= 0.3


def test_port_in_use_is_one_sentence(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "echo4o.cli", "sandbox", "serve", "--root", str(tmp_path)]
        done = subprocess.run(
            [*command, "--openai-port", port, "--hub-port", "0"], capture_output=True, text=True
        )
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"error: port {port} is in use or not allowed; choose another --openai-port, "
        "or 0 for a free one"
    )


def test_terminate_is_clean(tmp_path):
    with restartable(tmp_path) as start:
        sandbox = start()
        paint(connect(sandbox))
    log = (tmp_path / "server.log").read_text()
    told = [line for line in log.splitlines() if not line.startswith("  ")]
    assert told == [f"openai: {sandbox.openai}", f"hub: {sandbox.hub}"]
    assert f"export OPENAI_BASE_URL={sandbox.openai} OPENAI_API_KEY=" in log
    assert f"export HF_ENDPOINT={sandbox.hub} HF_TOKEN=" in log
