"""Helpers for tests that need a sandbox of their own."""

import contextlib
import importlib.util
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai

from echo4o.sandbox.faults import Faults, Style
from echo4o.sandbox.keys import API_KEY, HUB_TOKEN

_spec = importlib.util.spec_from_file_location(
    "sandbox_starter", Path(__file__).parents[1] / "conftest.py"
)
_conftest = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_conftest)
Sandbox = _conftest.Sandbox
start_sandbox = _conftest.start_sandbox


def connect(sandbox: Sandbox, **options: object) -> openai.OpenAI:
    """The official client, without retries of its own."""
    return openai.OpenAI(base_url=sandbox.openai, api_key=sandbox.api_key, max_retries=0, **options)


@contextlib.contextmanager
def image_api(root: Path, faults: str = "") -> Iterator[Sandbox]:
    """The image API alone, on a port of its own in a thread: no process to start."""
    from echo4o.sandbox.openai import create_app

    app = create_app(root / "openai")
    app.state.faults = Faults.parse(faults)
    with _in_a_thread(app, app.state.faults, "openai") as url:
        yield Sandbox(f"{url}/v1", "", API_KEY, HUB_TOKEN, root)


@contextlib.contextmanager
def hub_alone(root: Path, around: Callable[[Any], Any] = lambda app: app) -> Iterator[Sandbox]:
    """The Hub alone in a thread; `around(app)` gets the requests in its place."""
    from echo4o.sandbox.hub import create_app

    root.mkdir(parents=True, exist_ok=True)
    with _in_a_thread(around(create_app(root / "hub")), Faults(), "hub") as url:
        yield Sandbox("", url, API_KEY, HUB_TOKEN, root)


@contextlib.contextmanager
def _in_a_thread(app: Any, faults: Faults, style: Style) -> Iterator[str]:
    """The address of a server on a port of its own."""
    from echo4o.sandbox.serve import make_server

    server = make_server(app, faults, style)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.002)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextlib.contextmanager
def restartable(root: Path, *options: str) -> Iterator[Callable[..., Sandbox]]:
    """Gives `start(kill=False)`, which ends the running sandbox of `root` and starts another."""
    running = []

    def stop(kill: bool) -> None:
        while running:
            process = running.pop()
            process.kill() if kill else process.terminate()
            process.wait(timeout=20)

    def start(*, kill: bool = False) -> Sandbox:
        stop(kill)
        process, facts = start_sandbox(root, *options)
        running.append(process)
        return facts

    try:
        yield start
    finally:
        stop(kill=False)
