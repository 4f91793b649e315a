"""Where Parquet lies - a folder of this machine, or one commit on the Hub - read piece by piece."""

import os
import re
from pathlib import Path
from typing import IO, NamedTuple

from fsspec import AbstractFileSystem

from echo4o.errors import Echo4oError

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")
HERE = Path(__file__).parent
MAX_FILES = 10_000


class SourceError(Echo4oError):
    """Nothing to show can be read there; the message is for visitors and names no path."""


class Found(NamedTuple):
    """A file of a store."""

    path: str
    """Relative to the store, with slashes."""
    size: int


class Store(NamedTuple):
    """A folder or a repo at one commit."""

    system: AbstractFileSystem
    root: str
    name: str
    """Hub id or the folder's own name: never a path of this machine."""
    revision: str | None
    """Commit of a repo, None for a folder."""

    def files(self, ending: str) -> list[Found]:
        """All files of that ending in alphabetical order, hidden ones left out.

        Raises:
            SourceError: there are more than a release has.
        """
        found = []
        for path, facts in sorted(self.system.find(self.root, detail=True).items()):
            inner = path[len(self.root) :].lstrip("/")
            if inner.endswith(ending) and not any(part[0] == "." for part in inner.split("/")):
                found.append(Found(inner, int(facts["size"])))
        if len(found) > MAX_FILES:
            raise SourceError(
                f"{self.name} has {len(found):,} files; at most {MAX_FILES:,} are read"
            )
        return found

    def open(self, path: str) -> IO[bytes]:
        """A file that reads just what it is asked for."""
        return self.system.open(f"{self.root}/{path}", "rb", cache_type="none")

    def read(self, path: str, start: int, end: int) -> bytes:
        """The bytes [start, end) of a file.

        Raises:
            SourceError: the file ends before.
        """
        with self.open(path) as file:
            file.seek(start)
            data = file.read(end - start)
        if len(data) != end - start:
            raise SourceError(f"a file of {self.name} ends early")
        return data


def shown_name(source: str) -> str:
    """What visitors may see of a source: a Hub id, or the last part of a folder's path."""
    return source if is_hub_id(source) else Path(source).name


def is_hub_id(source: str) -> bool:
    """Whether `ORG/NAME` or `ORG/NAME@REVISION` is meant; a folder of that name comes first."""
    return HUB_ID.fullmatch(source) is not None and not Path(source).is_dir()


def open_store(source: str) -> Store:
    """The store behind a folder or the Hub id of a dataset (asks the Hub for its commit).

    Raises:
        Echo4oError: there is no such folder, repo or revision.
    """
    if not is_hub_id(source):
        from fsspec.implementations.local import LocalFileSystem

        folder = Path(source).resolve()
        if not folder.is_dir():
            raise SourceError(
                f"there is no folder {shown_name(source)!r} here, and it is no Hub id"
            )
        return Store(LocalFileSystem(), folder.as_posix(), folder.name, None)
    from huggingface_hub import HfFileSystem

    from echo4o.hub_reading import resolve

    repo, _, revision = source.partition("@")
    commit = resolve(repo, "dataset", revision or None)
    return Store(HfFileSystem(), f"datasets/{repo}@{commit}", repo, commit)


def configured(kind: str) -> str | None:
    """A source this Space was told to use: `$ECHO4O_<KIND>`, else `<kind>.txt` beside the app."""
    named = os.environ.get(f"ECHO4O_{kind.upper()}", "").strip()
    file = HERE / f"{kind}.txt"
    if not named and file.is_file():
        named = file.read_text().strip()
    return named or None
