"""The demo under load and under fire: longer counts, run by `make prove`."""

import json
import time
from pathlib import Path

import httpx
import psutil
import pytest
from calls import in_line
from demo import TINY, running
from gradio_client import Client

from echo4o.records import write_atomic

pytestmark = pytest.mark.slow
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "space.json"
CALLS = 50


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Address and process of a demo of our own."""
    folder = tmp_path_factory.mktemp("demo")
    started = time.monotonic()
    with running(folder, environment=TINY) as (url, process):
        # One thread for each call that waits.
        got = str(folder / "got")
        client = Client(url, verbose=False, download_files=got, max_workers=CALLS)
        client.predict(prompt="A photo of a purple apple", api_name="/generate")
        note("first_picture_s", round(time.monotonic() - started, 2))
        (server,) = psutil.Process(process.pid).children()
        yield url, client, server


def note(name, value):
    """Print a figure and keep it."""
    print(f"{name}: {value}")
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    write_atomic(RESULTS, json.dumps(known | {name: value}, indent=2, sort_keys=True) + "\n")


def test_fifty_calls_at_once_lose_nothing_and_keep_order_and_memory(demo):
    _, client, server = demo
    in_line(client, server, calls=CALLS)
    before = server.memory_info().rss
    for _ in range(3):
        in_line(client, server, calls=CALLS)
    grown = (server.memory_info().rss - before) / 1e6
    note("memory_grown_mb_in_150_calls", round(grown, 1))
    assert grown < 40


def test_hostile_uploads_are_refused_and_the_page_lives_on(demo, tmp_path):
    url, client, server = demo
    big = tmp_path / "big.png"
    with big.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.truncate(200 * 1024 * 1024)
    before = server.memory_info().rss
    with httpx.Client(trust_env=False, timeout=120) as http:
        with big.open("rb") as file:
            reply = http.post(f"{url}/gradio_api/upload", files={"files": ("a.png", file)})
        assert reply.status_code == 413
        assert "10" in reply.text or "maximum" in reply.text.lower()
        for name in ("../../evil.png", "..\\evil.png", "/etc/evil.png", "a\0b.png", "x" * 4000):
            file = {"files": (name, b"\x89PNG")}
            answered = http.post(f"{url}/gradio_api/upload", files=file)
            assert answered.status_code < 500
            if answered.status_code == 200:
                (path,) = answered.json()
                assert ".." not in Path(path).parts
                assert "/etc/" not in path
    assert server.memory_info().rss - before < 100e6
    reply = client.predict(prompt="still here", steps=2, api_name="/generate")
    assert len(reply["pictures"]) == 1
