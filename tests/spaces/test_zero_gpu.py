"""The demo with the real `spaces` package in ZeroGPU mode; only the GPU itself is missing here.

A small device service of ours answers what the package asks; see helpers/zero_gpu.py.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from calls import begun
from demo import TINY
from fresh import run
from gradio_client import Client
from gradio_client.exceptions import AppError

from echo4o.models.pictures import read_record
from echo4o.space_cli import held_port

pytestmark = pytest.mark.slow
SPACES = "spaces==0.51.3"
HELPER = Path(__file__).parents[1] / "helpers" / "zero_gpu.py"
FOLDER = Path(__file__).parents[2] / "spaces" / "generate"


class Service(ThreadingHTTPServer):
    """Gives every request a device until `refuses` is set."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.refuses = False
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    """The paths that the package calls."""

    server: Service

    def do_POST(self):
        address = urlsplit(self.path)
        given = {name: values[0] for name, values in parse_qs(address.query).items()}
        self.server.asked.append((address.path, given))
        status, body = 200, {}
        if address.path == "/schedule":
            body = {"idle": False, "nvidiaIndex": 0, "nvidiaUUID": "none", "allowToken": "t"}
            if self.server.refuses:
                status, body = 429, {"left": 2, "wait": 60}
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_words):
        pass


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def client(service, tmp_path_factory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("zero-gpu")
    install = ["-m", "pip", "install", "-q", "--no-deps", "--target", folder / "packages"]
    run([sys.executable, *install, SPACES])
    with held_port("127.0.0.1", 0) as port:
        pass
    variables = {
        **os.environ,
        **TINY,
        "PYTHONPATH": str(folder / "packages"),
        "HOME": str(folder),
        "SPACES_ZERO_GPU": "true",
        "SPACES_ZERO_DEVICE_API_URL": f"http://127.0.0.1:{service.server_port}",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
    log = folder / "log"
    with log.open("wb") as out:
        command = [sys.executable, str(HELPER), str(FOLDER)]
        child = subprocess.Popen(command, env=variables, stdout=out, stderr=out, cwd=folder)
    try:
        deadline = time.monotonic() + 120
        while "Running on local URL" not in log.read_text():
            assert child.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        opened = Client(f"http://127.0.0.1:{port}", verbose=False)
        yield opened
        opened.close()
    finally:
        child.terminate()
        child.wait(20)
        print(log.read_text())


def generate(client, **values):
    return client.submit(api_name="/generate", **{"prompt": "a ring", "seed": 5} | values)


def durations(service):
    return [int(given["durationSeconds"]) for path, given in service.asked if path == "/schedule"]


def test_a_request_gets_a_device_for_the_time_that_its_settings_take(client, service):
    short = generate(client, steps=2).result(timeout=120)
    assert read_record(Path(short["pictures"][0]["image"])).seed == 5
    generate(client, steps=100, count=4, quality="Quality").result(timeout=120)
    assert len(set(durations(service))) == 2
    assert durations(service) == sorted(durations(service))
    paths = [path for path, _ in service.asked]
    assert paths[0] == "/startup-report"
    assert paths.count("/release") == paths.count("/schedule") == 2
    assert "/allow" in paths


def test_progress_and_plan_come_through_the_worker_and_cancel_ends_it(client, service):
    job = generate(client, think=True, steps=2)
    job.result(timeout=120)
    assert len({one["thought"] for one in job.outputs()}) > 3
    long = generate(client, count=4, steps=100, quality="Quality")
    begun(long)
    long.cancel()
    generate(client, steps=2).result(timeout=60)
    assert long.outputs()[-1]["progress"] < 0.9
    paths = [path for path, _ in service.asked]
    assert paths.count("/release") == paths.count("/schedule")


def test_a_used_up_quota_is_explained(client, service):
    service.refuses = True
    try:
        with pytest.raises(AppError, match="sign in to Hugging Face"):
            generate(client, steps=2).result(timeout=60)
    finally:
        service.refuses = False
    assert generate(client, steps=2).result(timeout=60)["pictures"]
