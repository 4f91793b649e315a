"""Where a release is read from: a folder, or the Hub as a stream that leaves no copy here."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol, cast

from echo4o.errors import Echo4oError
from echo4o.hub_errors import patiently
from echo4o.records import Input

MAX_TEXT_BYTES = 500_000_000
"""Of a file that is read whole; all rows of the authors take some 100 MB."""
_PREFETCH_BYTES = 1 << 20


class Readable(Protocol):
    """What an archive is read from."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes, none at the end."""


class Source(ABC):
    """The files of a release; names are relative, with `/`, and sorted."""

    def __init__(self, facts: Input, names: list[str]) -> None:
        self.facts = facts
        """For records: which repository at which commit, or which folder."""
        # Names reach terminals; no file of a release has one with control characters.
        self.names = tuple(sorted(name for name in names if name.isprintable()))

    def text(self, name: str) -> str:
        """A whole text file; bytes that are no UTF-8 become surrogates.

        Raises:
            Echo4oError: it is unreasonably large.
        """
        with self.open(name) as file:
            data = bytearray()
            while block := file.read(_PREFETCH_BYTES):
                data += block
                if len(data) > MAX_TEXT_BYTES:
                    raise Echo4oError(f"{name} has more than {MAX_TEXT_BYTES} bytes; split it")
        return data.decode("utf-8-sig", errors="surrogateescape")

    @abstractmethod
    def open(self, name: str) -> AbstractContextManager[Readable]:
        """A file from its start, to be read once."""


class Folder(Source):
    """A release on the disk."""

    def __init__(self, root: Path, facts: Input | None = None) -> None:
        """`facts` says more than the folder's name, for example the commit it was fetched at."""
        if not root.is_dir():
            raise Echo4oError(f"{root} is no folder; give the folder of the authors' dataset")
        self._root = root
        names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
        super().__init__(facts or Input(kind="folder", id=root.resolve().name), names)

    def open(self, name: str) -> AbstractContextManager[Readable]:
        """The file, unbuffered: blocks are large."""
        return cast(AbstractContextManager[Readable], (self._root / name).open("rb", buffering=0))


class HubRepo(Source):
    """A dataset repository at one commit, read over HTTP; a cut goes on at the same byte."""

    def __init__(self, repo_id: str, revision: str | None = None) -> None:
        """Raises: NotOnHubError: there is no such repository or revision."""
        from huggingface_hub import HfApi, HfFileSystem

        from echo4o.hub import resolve

        commit = resolve(repo_id, "dataset", revision)
        self._hub = HfFileSystem()
        self._place = f"datasets/{repo_id}@{commit}/"
        names = patiently(
            f"list dataset {repo_id}",
            lambda: HfApi().list_repo_files(repo_id, repo_type="dataset", revision=commit),
        )
        super().__init__(Input(kind="dataset", id=repo_id, revision=commit), names)

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        """A stream of the file."""
        what = f"read {name} of dataset {self.facts.id}"
        file = patiently(what, lambda: self._hub.open(self._place + name, "rb", block_size=0))
        try:
            yield _Patient(what, file.read)
        finally:
            if file.response is not None:
                file.response.close()


class _Patient:
    """Reads on after a cut: the client asks for the rest of the file when it is called again."""

    def __init__(self, what: str, read: Callable[[int], bytes]) -> None:
        self._what = what
        self._read = read

    def read(self, size: int, /) -> bytes:
        return patiently(self._what, partial(self._read, size))


def locate(source: str, revision: str | None = None, *, download: bool = False) -> Source:
    """The files behind a folder name or a Hub id.

    With `download` a Hub id is fetched into the Hub cache first: that takes the disk, and goes on
    where it stopped when it is killed.

    Raises:
        Echo4oError: `source` is neither a folder nor a Hub id.
    """
    folder = Path(source).expanduser()
    if folder.exists():
        if revision is not None or download:
            option = "--download" if download else "--revision"
            raise Echo4oError(f"{option} belongs to a Hub id, but {source} is a local folder")
        return Folder(folder)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.startswith((".", "/")):
        raise Echo4oError(f"{source!r} is neither a folder here nor a Hub id (ORG/NAME)")
    if not download:
        return HubRepo(source, revision)
    from echo4o.hub import download_folder, resolve

    commit = resolve(source, "dataset", revision)
    facts = Input(kind="dataset", id=source, revision=commit)
    return Folder(download_folder(source, "dataset", commit), facts)
