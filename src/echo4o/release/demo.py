"""Starts a Space as it was published, uses it as a program would, stops it.

It runs with the wheel of echo4o that its requirements name, as on the Hub, else with this echo4o.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ..children import DIE_WITH_PARENT
from ..errors import Echo4oError
from ..records import sha256_file
from . import process
from .table import Table

_START_SECONDS = 120
_INSTALL_SECONDS = 180
_NAMED_WHEEL = re.compile(r"^echo4o(?:\[\w+\])? @ (\S+)$", re.M)
_SECRET = re.compile(
    r"TOKEN(?!IZER)|API_?KEY|ACCESS_?KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL|_AUTH\b", re.I
)
_GENERATE = "/generate"
PROMPT = "A photo of a red circle on the left and a blue square on the right"


def without_secrets(variables: Mapping[str, str], *kept: str) -> dict[str, str]:
    """Variables for foreign code: those whose name tells of a secret are left out, but for `kept`.

    Files of this account, such as the Hub client's stored token, are not hidden by that.
    """
    return {
        name: value for name, value in variables.items() if name in kept or not _SECRET.search(name)
    }


def check_space(
    folder: Path, name: str, known: Mapping[str, Path], out: Path, table: Table
) -> None:
    """Start a downloaded Space; one that paints must paint.

    Args:
        folder: The Space.
        name: What the table calls it.
        known: Folders of the release's repos by `ORG/NAME@COMMIT`, as the Space may name them.
        out: Gets the picture and the log.
        table: Gets the rows.
    """
    loaded = {}
    for kind in ("model", "dataset", "results"):
        file = folder / f"{kind}.txt"
        if file.is_file():
            found = file.read_text("utf-8", "replace").strip()
            expected = found if found in known else "a repo of this release at its commit"
            if table.add(name, file.name, found, expected):
                loaded[kind] = known[found]
    # Foreign code: it gets no token, and reads the folders whose files were checked.
    environment = without_secrets(os.environ)
    try:
        own = named_wheel(folder, name, known, out, table)
        if own is not None:
            environment["PYTHONPATH"] = str(own)
        endpoints = use_space(folder, name, environment, loaded, out)
    except Echo4oError as error:
        table.bad(name, "start and use", str(error), "an app that answers")
        return
    table.good(name, "start and use", ", ".join(endpoints)[:120], "an app that answers")


def named_wheel(
    folder: Path, name: str, known: Mapping[str, Path], out: Path, table: Table
) -> Path | None:
    """A folder with the echo4o of the wheel that a Space's requirements name; None without one.

    Raises:
        Echo4oError: it cannot be installed.
    """
    requirements = folder / "requirements.txt"
    found = None
    if requirements.is_file():
        found = _NAMED_WHEEL.search(requirements.read_text("utf-8", "replace"))
    if found is None:
        return None
    address, _, sha256 = found[1].partition("#sha256=")
    said = f"{address.rpartition('/')[2]}, sha256 {sha256 or 'not named'}"
    own = {
        f"/datasets/{repo.replace('@', '/resolve/')}/{file.name}": file
        for repo, place in known.items()
        for file in place.glob("*.whl")
        if sha256_file(file) == sha256
    }
    fitting = [file for end, file in own.items() if address.endswith(end)]
    if not sha256 or (own and not fitting):
        table.bad(name, "requirements.txt: wheel", f"{said}, at {address}", "that of this release")
        return None
    place = "of this release" if own else "from elsewhere, by its hash"
    table.good(name, "requirements.txt: wheel", said, f"a wheel {place}")
    # The checked file, where the release has it: what its address gives has the same hash.
    return install_wheel(str(fitting[0]) if own else found[1], out / f"wheel-{sha256[:12]}")


def install_wheel(wheel: str, folder: Path) -> Path:
    """Put a wheel's package into `folder`, which then leads a Python path; a second time nothing.

    Raises:
        Echo4oError: pip cannot.
    """
    if not folder.is_dir():
        shutil.rmtree(f"{folder}.part", ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
        command += ["--no-compile", "--disable-pip-version-check", "--target", f"{folder}.part"]
        done = subprocess.run(
            [*command, wheel],
            env=without_secrets(os.environ), capture_output=True, text=True, check=False,
            timeout=_INSTALL_SECONDS, preexec_fn=DIE_WITH_PARENT,
        )  # fmt: skip
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise Echo4oError(f"its wheel cannot be installed: {said}")
        Path(f"{folder}.part").rename(folder)
    return folder


def use_space(
    folder: Path,
    name: str,
    environment: Mapping[str, str],
    loaded: Mapping[str, Path],
    out: Path,
) -> list[str]:
    """Start a Space and make one picture where it can; returns its endpoints.

    Raises:
        Echo4oError: it does not start, or its answer is no picture.
    """
    stem = name.replace("/", "--")
    ready, log = out / f"{stem}.ready.json", out / f"{stem}.log"
    ready.unlink(missing_ok=True)
    words = ["space", "run", str(folder), "--port", "0", "--ready-file", str(ready)]
    words += [word for kind, path in loaded.items() for word in (f"--{kind}", str(path))]
    server = process.start(words, environment, log=log)
    try:
        process.wait_for(ready, server, seconds=_START_SECONDS, log=log)
        return _use(json.loads(ready.read_text())["url"], out / f"{stem}.png")
    finally:
        process.stop(server)


def _use(url: str, picture: Path) -> list[str]:
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    from gradio_client import Client

    try:
        client = Client(url, verbose=False, token=None)
        endpoints = list(client.view_api(return_format="dict", print_info=False)["named_endpoints"])
        if _GENERATE in endpoints:
            answer = client.predict(prompt=PROMPT, seed=1, api_name=_GENERATE)
            shutil.copyfile(find_picture(answer), picture)
    except Echo4oError:
        raise
    except Exception as error:  # whatever a foreign app makes the client raise
        raise Echo4oError(f"it starts and does not answer: {str(error)[:200]}") from error
    return endpoints


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
