"""`echo4o eval fetch`: the authors' items and judge wording, from their repository to this machine.

One pinned commit, every file checked by its SHA-256 before it is read. The wording is read out of
the authors' script without running it. Nothing of theirs is part of this project.
"""

import hashlib
import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

from echo4o.records import write_atomic

from .script_text import read_wording
from .wording import (
    COMMIT,
    REPOSITORY,
    SOURCES,
    Source,
    WordingError,
    data_folder,
    wording_file,
)

GITHUB = f"https://raw.githubusercontent.com/{REPOSITORY}/{COMMIT}"
_FOLDER = "test_scripts"
_LARGEST = 4 * 2**20
_TIMEOUT_S = 60.0


class Fetched(NamedTuple):
    """What lies on this machine now."""

    items: int
    items_file: Path
    wording_file: Path


def fetch_task(task: str, origin: str | None = None, *, source: Source | None = None) -> Fetched:
    """Get the items and the wording of a task; files that are there already are made anew.

    Args:
        task: A task of the table.
        origin: Folder, or http(s) address, with the layout of the authors' repository.
        source: Other names and hashes than the pinned ones.

    Raises:
        WordingError: the origin cannot be read, a hash differs, or the script is of another form.
    """
    source = source or SOURCES[task]
    items = _get(origin or GITHUB, source.items, source.items_sha256)
    script = _get(origin or GITHUB, source.script, source.script_sha256)
    wording = read_wording(script.decode("utf-8", errors="replace"), source.holes)
    facts = {
        "benchmark": task,
        "source": f"{REPOSITORY}@{COMMIT} {_FOLDER}/{source.script}",
        "licence": "Apache-2.0",
        "script_sha256": source.script_sha256,
        "system": wording.system,
        "user": wording.user,
    }
    path = data_folder() / source.items
    write_atomic(path, items)
    write_atomic(wording_file(task), json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    lines = [line for line in items.splitlines() if line.strip()]
    return Fetched(items=len(lines), items_file=path, wording_file=wording_file(task))


def get_file(origin: str | None, path: str, sha256: str) -> bytes:
    """Return a file of the authors' repository, its hash checked.

    Args:
        origin: Folder, or http(s) address, with the layout of the repository; GitHub if None.
        path: In the repository; in a folder the bare file will do.
        sha256: What it must be.

    Raises:
        WordingError: the origin cannot be read, or the hash differs.
    """
    folder, _, name = path.rpartition("/")
    return _get(origin or GITHUB, name, sha256, folder)


def _get(origin: str, name: str, sha256: str, folder: str = _FOLDER) -> bytes:
    if origin.startswith(("https://", "http://")):
        data = _download(f"{origin.rstrip('/')}/{folder}/{urllib.parse.quote(name)}")
    else:
        data = _read(Path(origin), name, folder)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise WordingError(
            f"{name} from {origin} has SHA-256 {found[:12]}, not {sha256[:12]} as in commit "
            f"{COMMIT[:12]} of {REPOSITORY}; use that commit"
        )
    return data


def _read(root: Path, name: str, folder: str) -> bytes:
    for path in (root / folder / name, root / name):
        if path.is_file():
            return path.read_bytes()
    raise WordingError(f"there is no {folder}/{name} in {root}")


def _download(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as answer:
            data: bytes = answer.read(_LARGEST + 1)
    except (urllib.error.URLError, OSError) as error:
        raise WordingError(
            f"{address} cannot be read ({error}); where there is no network, give a copy of the "
            f"repository with --from FOLDER"
        ) from error
    if len(data) > _LARGEST:
        raise WordingError(f"{address} has more than {_LARGEST} bytes; that is not the file meant")
    return data
