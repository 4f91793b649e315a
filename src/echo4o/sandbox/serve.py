"""Runs both sandbox servers in one process, on loopback, until it is told to stop."""

import asyncio
import contextlib
import errno
import importlib
import json
import logging
import os
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import Echo4oError, MissingExtraError
from ..owner import sole_owner
from ..records import write_atomic
from .faults import FaultMiddleware, Faults, Style
from .keys import API_KEY, GIVEN_KEY, GIVEN_TOKEN, HUB_TOKEN, told

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
_PATIENCE_S = 5.0
"""For a server that is just ending: a rehearsal that was killed may start again at once."""


class Address(NamedTuple):
    """Where a server listens."""

    name: str
    url: str


def serve_sandbox(
    root: Path,
    *,
    openai_port: int,
    hub_port: int,
    faults: Faults,
    ready_file: Path | None,
    announce: Callable[[str], None],
) -> None:
    """Serve the image API and the Hub until SIGTERM or SIGINT; `announce` gets a line for each.

    Raises:
        Echo4oError: a port or the folder is in use, or a part of the sandbox is not installed.
    """
    apps: list[tuple[str, Style, int, str]] = [
        ("openai", "openai", openai_port, "/v1"),
        ("hub", "hub", hub_port, ""),
    ]
    busy = f"another sandbox serves {root.resolve()}; stop it or choose another --root"
    with contextlib.ExitStack() as stack:
        # A new server throws away what an older one left half received: not if that one lives.
        stack.enter_context(sole_owner(root, busy, patience_s=_PATIENCE_S))
        servers, addresses = [], []
        for name, style, port, suffix in apps:
            listener = stack.enter_context(_listen(name, port))
            app = _load_app(name, root / name)
            if name == "openai":
                app.state.faults = faults
            servers.append((make_server(app, faults, style), listener))
            addresses.append(Address(name, f"http://{HOST}:{listener.getsockname()[1]}{suffix}"))
        asyncio.run(_run(servers, addresses, ready_file, announce))


async def _run(
    servers: list[tuple[Any, socket.socket]],
    addresses: list[Address],
    ready_file: Path | None,
    announce: Callable[[str], None],
) -> None:
    tasks = [asyncio.create_task(server.serve(sockets=[listener])) for server, listener in servers]
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for server, _ in servers:
            server.should_exit = True

    while not all(server.started for server, _ in servers):
        if any(task.done() for task in tasks):
            stop()
            await asyncio.gather(*tasks)
            raise Echo4oError("a sandbox server did not start; its message is above")
        await asyncio.sleep(0.01)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    for address in addresses:
        announce(f"{address.name}: {address.url}")
    if ready_file is not None:
        shown = {"token": told(HUB_TOKEN, GIVEN_TOKEN), "api_key": told(API_KEY, GIVEN_KEY)}
        facts = dict(addresses) | {"pid": os.getpid()} | shown
        write_atomic(ready_file, json.dumps(facts, indent=2) + "\n")
    await asyncio.gather(*tasks)


def _listen(name: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise Echo4oError(
            f"port {port} is in use or not allowed; choose another --{name}-port, "
            "or 0 for a free one"
        ) from None
    return listener


def _load_app(name: str, root: Path) -> Any:
    try:
        module = importlib.import_module(f"echo4o.sandbox.{name}")
    except ModuleNotFoundError as error:
        raise MissingExtraError("the sandbox", "sandbox") from error
    root.mkdir(parents=True, exist_ok=True)
    return module.create_app(root)


def make_server(app: Any, faults: Faults, style: Style) -> Any:
    """A uvicorn server around `app` and its faults; it leaves signals to the caller."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self):  # type: ignore[no-untyped-def]  # noqa: ANN202
            yield

    def abort(client: Any, reset: bool) -> None:
        for connection in list(server.server_state.connections):
            if connection.client == client:
                _end(connection.transport, reset)

    wrapped = FaultMiddleware(app, faults, style=style, abort=abort)
    settings = uvicorn.Config(
        wrapped,
        # Its own configuration would close every handler of the process, and some close stderr.
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=3,
        backlog=1024,
        ws="none",
    )
    server = Server(settings)
    return server


def _end(transport: Any, reset: bool) -> None:
    if reset:
        # No lingering: the peer gets a reset instead of an orderly end.
        link = transport.get_extra_info("socket")
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
        return
    transport.close()
