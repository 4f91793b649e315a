"""Reads pictures out of tar archives as a stream; nothing is ever unpacked to disk.

Archives come from strangers: names that leave the folder, links, devices, huge members and huge
headers are refused, and a cut-off archive gives what came before the cut.
"""

import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple, cast

from echo4o.errors import Echo4oError

from .sources import Readable

MAX_MEMBER_BYTES = 16_000_000
"""Five of these still fit a 100 MB row group."""
_MAX_HEADER_BYTES = 1_000_000
# tarfile and zlib copy what is left of a block at every read, so larger blocks are slower.
_BLOCK = 1 << 16
_EXTENDED = {
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
}

Refuse = Callable[[str, str], None]
"""Called with the name of a refused member and the reason."""


class ArchiveError(Echo4oError):
    """An archive is cut off, damaged, or no archive."""


class Member(NamedTuple):
    """A regular file of an archive."""

    name: str
    """Relative path without `./`, `..` or a root."""
    data: bytes


class _CarefulInfo(tarfile.TarInfo):
    """Refuses extended headers that would be read into memory whole."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo | None:
        if self.type in _EXTENDED and self.size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header claims {self.size} bytes")
        return cast(
            tarfile.TarInfo | None,
            super()._proc_member(archive),  # type: ignore[misc]
        )


def read_members(
    file: Readable, name: str, *, wanted: Callable[[str], bool], refuse: Refuse
) -> Iterator[Member]:
    """Yield the regular files for which `wanted(name)` holds, in the archive's order.

    `file` is read once, from its start; `name` is what messages call it.

    Raises:
        ArchiveError: the archive is cut off or damaged; members before the cut were yielded.
    """
    first = file.read(_BLOCK)
    stream: Readable = _Begun(first, file)
    if first.startswith(b"\x1f\x8b"):
        stream = _Inflated(stream)
    try:
        yield from _members(cast(BinaryIO, stream), wanted, refuse)
        _check_rest(stream)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ArchiveError(f"{name} is cut off or damaged ({error}); fetch it again") from None


class _Begun:
    """A stream whose first block was looked at."""

    def __init__(self, first: bytes, rest: Readable) -> None:
        self._first = first
        self._rest = rest

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes, fewer only at the end."""
        data = self._first[:size]
        self._first = self._first[size:]
        while len(data) < size and (more := self._rest.read(size - len(data))):
            data += more
        return data


class _Inflated:
    """Reads gzip and gives everything before a cut; `gzip` itself loses the block with the cut."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._inflate = zlib.decompressobj(wbits=31)

    def read(self, size: int, /) -> bytes:
        """Some of the next `size` bytes, none at the end; checksums are verified."""
        while True:
            if self._inflate.eof:
                source = self._inflate.unused_data.lstrip(b"\0") or self._file.read(_BLOCK)
                if not source.strip(b"\0"):
                    return b""
                self._inflate = zlib.decompressobj(wbits=31)
            else:
                source = self._inflate.unconsumed_tail or self._file.read(_BLOCK)
                if not source:
                    raise EOFError("it ends in the middle")
            data = self._inflate.decompress(source, size)
            if data:
                return data


def _members(stream: BinaryIO, wanted: Callable[[str], bool], refuse: Refuse) -> Iterator[Member]:
    with tarfile.open(
        fileobj=stream, mode="r|", tarinfo=_CarefulInfo, bufsize=_BLOCK, errorlevel=2
    ) as archive:
        for info in archive:
            # The list grows by one entry per member; nobody looks back in a stream.
            cast(list[tarfile.TarInfo], archive.members).clear()  # type: ignore[attr-defined]
            if info.isdir():
                continue
            reason = _objection(info)
            if reason is not None:
                refuse(info.name, reason)
                continue
            name = "/".join(part for part in info.name.split("/") if part not in ("", "."))
            if wanted(name):
                yield Member(name, _read(archive, info))


def _read(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(info)
    data = b"" if file is None else file.read()
    if len(data) != info.size:
        raise tarfile.ReadError(f"{info.name!r} ends after {len(data)} of {info.size} bytes")
    return data


def _objection(info: tarfile.TarInfo) -> str | None:
    if not info.isreg() or info.issparse():
        return "is a link, a device or a sparse file"
    reason = unsafe_path(info.name)
    if reason is None and info.size > MAX_MEMBER_BYTES:
        return f"has {info.size} bytes, more than {MAX_MEMBER_BYTES}"
    return reason


def unsafe_path(name: str) -> str | None:
    """Why a foreign relative path is refused, None when it is harmless."""
    if not name.strip("/.") or len(name) > 500:
        return "has an empty or endless name"
    if name.startswith("/") or "\\" in name or name.partition("/")[0].endswith(":"):
        return "has an absolute path"
    if ".." in name.split("/"):
        return "has a path with `..`"
    if not name.isprintable():
        return "has control characters in its name"
    return None


def _check_rest(stream: Readable) -> None:
    """Read to the end, so that gzip compares its checksum; padding is short."""
    for _ in range(16):
        if not stream.read(_BLOCK):
            return
    raise tarfile.ReadError("more than 1 MB follows its end marker")
