"""Starts the demo Space on a published model, calls it once as a program would, stops it."""

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from ..errors import Echo4oError
from . import process

_START_SECONDS = 120
PROMPT = "A photo of a red circle on the left and a blue square on the right"


def try_demo(out: Path, environment: dict[str, str], model: str) -> None:
    """Save the picture that the demo makes as out/demo.png.

    Raises:
        Echo4oError: The demo does not start, or its answer is no picture.
    """
    port, log = _free_port(), out / "demo.log"
    words = ["space", "run", "generate", "--model", model, "--port", str(port)]
    server = process.start(words, environment, log=log)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_up(url, server, log)
        shutil.copyfile(_call(url), out / "demo.png")
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=10)
        server.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_up(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(f"{url}/config", timeout=5).close()
            return
        if server.poll() is not None or time.monotonic() > deadline:
            raise Echo4oError(f"the demo did not start; its output is in {log}")
        time.sleep(0.2)


def _call(url: str) -> Path:
    from gradio_client import Client

    client = Client(url, verbose=False)
    answer = client.predict(prompt=PROMPT, seed=1, api_name="/generate")
    return find_picture(answer)


def find_picture(answer: object) -> Path:
    """The first picture file in a reply of the demo, however deep it sits."""
    if isinstance(answer, str) and Path(answer).suffix in (".png", ".webp", ".jpg"):
        return Path(answer)
    children: list[object] = []
    if isinstance(answer, dict):
        children = list(answer.values())
    elif isinstance(answer, list | tuple):
        children = list(answer)
    for child in children:
        with contextlib.suppress(Echo4oError):
            return find_picture(child)
    raise Echo4oError(
        f"the demo's answer holds no picture: {json.dumps(answer, default=str)[:200]}"
    )
