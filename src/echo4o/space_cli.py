"""`echo4o space run|push`: start a Space on this machine, or publish it.

The folders under spaces/ are found beside the sources in a checkout, inside the package when it is
installed; each is data, started by the same Python and uploaded exactly as it stands.
"""

import argparse
import contextlib
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .children import DIE_WITH_PARENT
from .errors import Echo4oError
from .manifest import Release, release_argument, seal
from .models.kinds import OURS, pipeline_class
from .records import write_atomic

logger = logging.getLogger(__name__)

SETTINGS: dict[str, dict[str, str]] = {
    "generate": {"model": "models"},
    "explore": {"dataset": "datasets", "results": "datasets"},
}
"""Space -> what it can be told to load -> where its card's metadata names that. The Space reads it
from `$ECHO4O_<NAME>`, else from `<name>.txt` beside its app."""
START_SECONDS = 120.0
WHEEL = re.compile(r"https?://[^\s#]+/echo4o-[^\s/#]+\.whl(#sha256=[0-9a-f]{64})?")
"""Address of a wheel of echo4o, perhaps with its hash."""
PAINTS_WITH = {"generate": OURS}
"""Space -> the only kind of model that it shows."""
_NAMES = "the Space: generate (the demo) or explore (rows and scores)"
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")


class SpaceError(Echo4oError):
    """A Space is unknown, does not start, or cannot be put together."""


def spaces_folder() -> Path:
    """The folder that holds the Spaces, in an installed package or in a checkout."""
    package = Path(__file__).parent
    candidates = (package / "_spaces", package.parents[1] / "spaces")
    for folder in candidates:
        if (folder / "generate" / "app.py").is_file():
            return folder
    raise SpaceError("this installation carries no Spaces; install echo4o from a wheel or checkout")


def space_folder(name: str) -> Path:
    """The folder of one Space: of its name, or one that was downloaded (a path with a slash).

    Raises:
        SpaceError: there is no Space of that name.
    """
    if "/" in name and (Path(name) / "app.py").is_file():
        return Path(name).resolve()
    known = {path.parent.name: path.parent for path in sorted(spaces_folder().glob("*/app.py"))}
    if name not in known:
        raise SpaceError(f"there is no Space {name!r}; choose one of: {', '.join(known)}")
    return known[name]


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `echo4o space run`."""
    parser.add_argument("name", help=f"{_NAMES}, or the folder of one")
    for name in _setting_names():
        parser.add_argument(
            f"--{name}", help=f"folder or Hub id (ORG/NAME[@REVISION]) of its {name}"
        )
    parser.add_argument("--port", type=int, default=7860, help="0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 shows it to your network")
    parser.add_argument("--ready-file", type=Path, help="write {url, pid} here once it answers")


def run(args: argparse.Namespace) -> None:
    """Start a Space as a child process and stay until it ends or is told to stop."""
    folder = space_folder(args.name)
    given = _given(args)
    with (
        held_port(args.host, args.port) as port,
        tempfile.TemporaryDirectory(prefix="echo4o-space-") as scratch,
    ):
        url = f"http://{'127.0.0.1' if args.host == '0.0.0.0' else args.host}:{port}"
        environment = _environment(given, args.host, port, Path(scratch))
        command = [sys.executable, str(folder / "app.py")]
        child = subprocess.Popen(command, env=environment, cwd=scratch, preexec_fn=DIE_WITH_PARENT)
        with _stopping(child):
            logger.info("starting %s, which may take a minute", args.name)
            _wait_until_up(child, url)
            print(f"{args.name} is at {url} (Ctrl-C stops it)", flush=True)
            if args.ready_file:
                write_atomic(args.ready_file, json.dumps({"url": url, "pid": child.pid}))
            status = child.wait()
    # Negative: it ended by the signal that we passed on.
    if status > 0:
        raise SpaceError(f"the Space {args.name} ended with status {status}; its log is above")


def push_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `echo4o space push`."""
    parser.add_argument("name", help=f"{_NAMES}, or the folder of one")
    parser.add_argument("repo", help="ORG/NAME on the Hub")
    for name in _setting_names():
        parser.add_argument(f"--{name}", help=f"Hub id (ORG/NAME[@REVISION]) of its {name}")
    parser.add_argument(
        "--wheel",
        help="address of the echo4o wheel that it installs, in place of the release on PyPI "
        "(`eval push metrics` puts one into ORG/echo4o-wheel)",
    )
    parser.add_argument("--tag", help="immutable name of this version, for example v1")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be written")
    release_argument(parser)


def push(args: argparse.Namespace) -> None:
    """Publish a Space, with what it shall load written into it."""
    from .hub import publish_folder

    given = _given(args)
    with tempfile.TemporaryDirectory(prefix="echo4o-space-") as scratch:
        staged = stage(args.name, Path(scratch) / "space", wheel=args.wheel, **given)
        if args.release is not None and not args.dry_run:
            seal(staged, args.repo, "space", Release.load(args.release))
        published = publish_folder(
            staged,
            args.repo,
            repo_type="space",
            message=f"Space {args.name}" + (f" with {', '.join(given.values())}" if given else ""),
            tag=args.tag,
            dry_run=args.dry_run,
        )
    if args.dry_run:
        print(f"would send {published.uploaded_bytes} bytes to {args.repo}; nothing was written")
        return
    tag = f", tag {published.tag}" if published.tag else ""
    print(f"space  {published.repo_id} at {published.revision}{tag}")


def stage(name: str, target: Path, *, wheel: str | None = None, **given: str) -> Path:
    """Copy a Space to `target` as it will be uploaded, with what it shall load (see SETTINGS).

    Raises:
        SpaceError: unknown Space or setting, something `given` is not a Hub id, or `wheel` is no
            address of a wheel of echo4o.
    """
    folder = space_folder(name)
    _check_settings(name, given)
    for kind, value in given.items():
        if not _HUB_ID.fullmatch(value):
            raise SpaceError(f"a published Space needs a Hub id as its {kind}, got {value!r}")
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "*.pyi", ".*")
    shutil.copytree(folder, target, ignore=ignored)
    linked: dict[str, list[str]] = {}
    for kind, value in given.items():
        write_atomic(target / f"{kind}.txt", value + "\n")
        linked.setdefault(_settings(name)[kind], []).append(value.partition("@")[0])
    if wheel is not None:
        _install_from(target / "requirements.txt", wheel)
    readme = target / "README.md"
    write_atomic(readme, name_inputs(readme.read_text(), linked))
    return target


def _install_from(requirements: Path, wheel: str) -> None:
    """Name a wheel in place of the release on PyPI."""
    if not WHEEL.fullmatch(wheel):
        raise SpaceError(
            f"--wheel must be the address of a wheel of echo4o, like https://HUB/PATH/echo4o-1.0-"
            f"py3-none-any.whl; got {wheel!r}"
        )
    lines = requirements.read_text().splitlines()
    named = [
        re.sub(r"^(echo4o\[space\])==.*", lambda own: f"{own[1]} @ {wheel}", one) for one in lines
    ]
    write_atomic(requirements, "\n".join(named) + "\n")


def name_inputs(readme: str, linked: Mapping[str, Sequence[str]]) -> str:
    """The README with Hub ids in its front matter, which links the repos on the Hub."""
    opening, front, body = readme.split("---\n", 2)
    for key, ids in linked.items():
        front += f"{key}:\n" + "".join(f"  - {one}\n" for one in ids)
    return f"{opening}---\n{front}---\n{body}"


def _setting_names() -> list[str]:
    return list(dict.fromkeys(name for names in SETTINGS.values() for name in names))


def _given(args: argparse.Namespace) -> dict[str, str]:
    """What the command line names for the Space to load."""
    named = {name: getattr(args, name) for name in _setting_names()}
    given = {name: value for name, value in named.items() if value is not None}
    space_folder(args.name)
    _check_settings(args.name, given)
    if args.name in PAINTS_WITH and "model" in given:
        check_kind(args.name, given["model"])
    return given


def check_kind(name: str, model: str) -> None:
    """Refuse a model of a kind that a Space does not show; one that is not there is not looked at.

    Args:
        name: The Space.
        model: Folder or Hub id.

    Raises:
        SpaceError: it is of another kind.
    """
    from .hub_errors import NotOnHubError

    is_folder = Path(model).is_dir()
    if not is_folder and not _HUB_ID.fullmatch(model):
        return
    source, _, revision = (model, "", "") if is_folder else model.partition("@")
    try:
        kind = pipeline_class(source, revision or None)
    except NotOnHubError:  # whoever loads it says so
        return
    if kind != PAINTS_WITH[name]:
        raise SpaceError(
            f"the Space {name} shows models of {PAINTS_WITH[name]}, and {model} is one of {kind}; "
            "make its pictures with `echo4o model generate`"
        )


def _check_settings(name: str, given: Mapping[str, str]) -> None:
    if foreign := sorted(set(given) - set(_settings(name))):
        known = " and ".join(f"--{one}" for one in _settings(name))
        raise SpaceError(f"the Space {name} loads no {foreign[0]}; it takes {known}")


def _settings(name: str) -> dict[str, str]:
    """What a Space takes; of a folder that was downloaded nobody knows, so it may be anything."""
    every = {kind: key for one in SETTINGS.values() for kind, key in one.items()}
    return SETTINGS.get(name, every)


@contextlib.contextmanager
def held_port(host: str, port: int) -> Iterator[int]:
    """`port` itself when it is free, for 0 any free one, which nobody else is given meanwhile.

    Linux lets a child listen beside a socket that is only bound; elsewhere the port is let go.

    Raises:
        SpaceError: somebody else listens there, or `host` is no address of this machine.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind((host, port))
        except (OSError, OverflowError) as error:
            raise SpaceError(
                f"cannot listen on {host} port {port} ({error}); choose another --port, or 0"
            ) from error
        number = int(holder.getsockname()[1])
        if sys.platform != "linux":
            holder.close()
        yield number


def _environment(given: Mapping[str, str], host: str, port: int, scratch: Path) -> dict[str, str]:
    """Settings of the child; its files live in `scratch` and go away with it."""
    environment = {
        **os.environ,
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_SERVER_NAME": host,
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(scratch / "files"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(scratch),
    }
    for kind, value in given.items():
        folder = Path(value)
        if not folder.is_dir() and not _HUB_ID.fullmatch(value):
            raise SpaceError(f"there is no folder {value!r}, and it is no Hub id (ORG/NAME)")
        environment[f"ECHO4O_{kind.upper()}"] = str(folder.resolve()) if folder.is_dir() else value
    return environment


@contextlib.contextmanager
def _stopping(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Pass SIGTERM and Ctrl-C on to the child, and never leave it behind."""

    def pass_on(number: int, _frame: object) -> None:
        child.send_signal(signal.SIGTERM)

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, pass_on) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _wait_until_up(child: subprocess.Popen[bytes], url: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if (status := child.poll()) is not None:
            if status == -signal.SIGTERM:  # told to stop before it was up
                raise KeyboardInterrupt
            raise SpaceError(f"the Space ended with status {status} while starting; see its log")
        try:
            with opener.open(f"{url}/gradio_api/info", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise SpaceError(f"the Space did not answer at {url} within {START_SECONDS:.0f} s")
