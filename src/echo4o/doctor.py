"""`echo4o doctor`: what this machine has - versions, disk, tokens, ports. Changes nothing.

A token is reported as present or absent; its value never leaves the environment.
"""

import argparse
import contextlib
import importlib.metadata
import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from .errors import Echo4oError, shown_address

Level = Literal["ok", "note", "bad"]

OLDEST: dict[str, tuple[str, str]] = {
    "torch": ("2.8", ""),
    "transformers": ("5.0", ""),
    "diffusers": ("0.38", ""),
    "huggingface_hub": ("2.0", ""),
    "pillow": ("11", ""),
    "safetensors": ("0.8", ""),
    "datasets": ("4.0", "build"),
    "openai": ("2.0", "build"),
    "accelerate": ("1.10", "train"),
    "peft": ("0.20", "lora"),
    "evaluate": ("0.4.5", "eval"),
    "jinja2": ("3.1", "card"),
    "torchao": ("0.15", "quantize"),
    "gradio": ("6.0", "space"),
    "fastapi": ("0.115", "sandbox"),
}
"""Library -> oldest version that works, and the extra it belongs to."""
DISK_GB = 5
"""Less than this is too little for a rehearsal."""
PORTS = {
    7860: ("echo4o space run", "--port"),
    8001: ("echo4o sandbox serve", "--openai-port"),
    8002: ("echo4o sandbox serve", "--hub-port"),
    8090: ("echo4o eval watch", "--port"),
}
"""Port -> which command takes it by default, and the option for another."""
SECRETS = {
    "HF_TOKEN": "publishing to the Hub, private and gated repositories",
    "OPENAI_API_KEY": "buying and judging pictures",
}
ADDRESSES = ("HF_ENDPOINT", "OPENAI_BASE_URL")


class Finding(NamedTuple):
    """One line of the report."""

    level: Level
    subject: str
    words: str


def doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `echo4o doctor`."""
    parser.add_argument("--folder", type=Path, default=Path(), help="where you mean to work")


def doctor(args: argparse.Namespace) -> None:
    """Print what was found; something that cannot work ends in status 1."""
    if not args.folder.is_dir():
        raise Echo4oError(f"there is no folder {args.folder}; make it, or choose another --folder")
    found = [*versions(), compiler(), *disk(args.folder), *secrets(), *ports()]
    for finding in found:
        print(f"{finding.level:<5}{finding.subject:<18}{finding.words}")
    bad = [finding.subject for finding in found if finding.level == "bad"]
    if bad:
        raise Echo4oError(f"not in order: {', '.join(bad)}; the lines above say what to do")


def versions() -> Iterator[Finding]:
    """Python and the libraries, without importing any."""
    good = sys.version_info >= (3, 11)
    words = platform.python_version() + ("" if good else "; needs 3.11 or newer")
    yield Finding("ok" if good else "bad", "python", words)
    for name, (oldest, extra) in OLDEST.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            target = f'"echo4o[{extra}]"' if extra else "echo4o"
            yield Finding("note" if extra else "bad", name, f"absent; pip install {target}")
            continue
        if numbers(found) < numbers(oldest):
            yield Finding("bad", name, f"{found} is too old; needs {oldest} or newer")
        else:
            yield Finding("ok", name, found)


def compiler() -> Finding:
    """Whether the kernels of `models/native.py` can be compiled."""
    command = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    words = "absent; with g++, a CPU with AVX-512 draws in a seventh less time"
    return Finding("ok" if command else "note", "c++ compiler", command or words)


def disk(folder: Path) -> Iterator[Finding]:
    """Free space and whether the folder can be written."""
    free = shutil.disk_usage(folder).free / 1e9
    enough = free >= DISK_GB
    words = f"{free:.1f} GB free" + ("" if enough else f"; a rehearsal needs {DISK_GB} GB")
    yield Finding("ok" if enough else "bad", "disk", words)
    if not os.access(folder, os.W_OK):
        yield Finding("bad", "folder", "cannot be written; choose another --folder")


def secrets() -> Iterator[Finding]:
    """Which tokens are there (never their value), and where requests go."""
    for name, purpose in SECRETS.items():
        present = bool(os.environ.get(name)) or (name == "HF_TOKEN" and _logged_in())
        words = "present" if present else f"absent; needed for {purpose}"
        yield Finding("ok" if present else "note", name, words)
    for name in ADDRESSES:
        if value := os.environ.get(name):
            yield Finding("note", name, shown_address(value))


def ports() -> Iterator[Finding]:
    """Whether the ports that commands use by default are free."""
    for port, (user, option) in PORTS.items():
        free = is_free(port)
        words = f"free, for {user}" if free else f"in use; give {user} another {option}"
        yield Finding("ok" if free else "note", f"port {port}", words)


def is_free(port: int) -> bool:
    """Whether somebody could listen on this port of the loopback address."""
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        return True
    return False


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: `2.13.0+cpu` is (2, 13, 0)."""
    parts = version.split("+")[0].split(".")
    kept: list[int] = []
    for part in parts:
        if not part.isdigit():
            break
        kept.append(int(part))
    return tuple(kept)


def _logged_in() -> bool:
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return Path(os.environ.get("HF_TOKEN_PATH") or home / "token").is_file()
