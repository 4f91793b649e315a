"""Starts the demo Space on a published model, calls it once as a program would, stops it."""

import contextlib
import json
import os
import shutil
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
    ready, log = out / "demo.ready.json", out / "demo.log"
    ready.unlink(missing_ok=True)
    words = ["space", "run", "generate", "--model", model, "--port", "0", "--ready-file"]
    server = process.start([*words, str(ready)], environment, log=log)
    try:
        process.wait_for(ready, server, seconds=_START_SECONDS, log=log)
        url = json.loads(ready.read_text())["url"]
        shutil.copyfile(_call(url), out / "demo.png")
    finally:
        process.stop(server)


def _call(url: str) -> Path:
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
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
