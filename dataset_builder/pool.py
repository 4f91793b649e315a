"""Reference pictures of a release while rows are joined: in memory, then in one unnamed file."""

import tempfile
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Generic, NamedTuple, Self, TypeVar, cast

MEMORY_BYTES = 256_000_000
Name = TypeVar("Name")


class _Place(NamedTuple):
    offset: int
    size: int
    sha256: str


class PicturePool(Generic[Name]):
    """Pictures by name; up to `memory_bytes` stay in memory, the rest goes to one spill file.

    The spill file has no name in the file system, so a kill leaves nothing behind.
    """

    def __init__(self, folder: Path, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._folder = folder
        self._free = memory_bytes
        self._held: dict[Name, bytes] = {}
        self._places: dict[Name, _Place] = {}
        self._spill: BinaryIO | None = None
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._spill is not None:
            self._spill.close()

    def __contains__(self, name: Name) -> bool:
        return name in self._places

    def sha256(self, name: Name) -> str:
        """Hash of the picture called `name`."""
        return self._places[name].sha256

    def put(self, name: Name, data: bytes, digest: str) -> None:
        """Keep a picture and its SHA-256."""
        if len(data) <= self._free:
            self._free -= len(data)
            self._held[name] = data
            self._places[name] = _Place(-1, len(data), digest)
            return
        if self._spill is None:
            spill = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (closed by __exit__)
            self._spill = cast(BinaryIO, spill)
        self._spill.seek(self._end)
        self._spill.write(data)
        self._places[name] = _Place(self._end, len(data), digest)
        self._end += len(data)

    def get(self, name: Name) -> bytes:
        """The picture called `name`."""
        place = self._places[name]
        if place.offset < 0:
            return self._held[name]
        assert self._spill is not None
        self._spill.seek(place.offset)
        return self._spill.read(place.size)

    def drop(self, name: Name) -> None:
        """Forget a picture, if it is there."""
        self._held.pop(name, None)
        self._places.pop(name, None)
