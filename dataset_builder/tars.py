"""Reads pictures out of tar archives as a stream; nothing is ever unpacked to disk.

Archives come from strangers: names that leave the folder, links, devices, huge members, huge
headers and bombs are refused, and a cut-off archive gives what came before the cut.
`tarfile` reads the headers; its streams, which copy every byte five times, take no part.
"""

import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from echo4o.errors import Echo4oError

from .sources import Readable

MAX_MEMBER_BYTES = 16_000_000
"""Five of these still fit a 100 MB row group."""
MAX_HEADERS = 500_000
"""Of an archive; the authors' have up to 150,000 members, and each that is refused is listed."""
_MAX_HEADER_BYTES = 1_000_000
_MAX_PADDING_BYTES = 1_000_000
_MAX_INFLATED_BYTES, _MAX_INFLATION = 256_000_000, 100
"""A gzip that gives more than the first, and more than so many times its size, is a bomb."""
_SECTOR = tarfile.BLOCKSIZE
# zlib copies what is left of a block at every read, so larger blocks are slower.
_BLOCK = 1 << 16
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_EXTENDED = (*_PAX, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=")

Refuse = Callable[[str, str], None]
"""Called with the name of a refused member and the reason."""


class ArchiveError(Echo4oError):
    """An archive is cut off, damaged, or no archive."""


class Member(NamedTuple):
    """A regular file of an archive."""

    name: str
    """Relative path without `./`, `..` or a root."""
    data: bytes


class _Header(NamedTuple):
    """What is known of a member before its bytes."""

    name: str
    size: int
    is_plain: bool
    """A regular file, and not a sparse one."""
    is_folder: bool
    stored: int
    """Bytes that follow in the archive; links and devices have none, whatever their size says."""


def read_members(
    file: Readable, name: str, *, wanted: Callable[[str], bool], refuse: Refuse
) -> Iterator[Member]:
    """Yield the regular files for which `wanted(name)` holds, in the archive's order.

    `file` is read once, from its start; `name` is what messages call it.

    Raises:
        ArchiveError: the archive is cut off or damaged; members before the cut were yielded.
    """
    try:
        stream = _Stream(file)
        for header in _headers(stream):
            reason = None if header.is_folder else _objection(header)
            if reason is not None:
                refuse(header.name, reason)
            path = "/".join(part for part in header.name.split("/") if part not in ("", "."))
            if header.is_folder or reason is not None or not wanted(path):
                stream.skip(_padded(header.stored))
            else:
                yield Member(path, stream.take(header.size))
                stream.skip(_padded(header.size) - header.size)
        stream.check_rest()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ArchiveError(f"{name} is cut off or damaged ({error}); fetch it again") from None


class _Stream:
    """The bytes of an archive, inflated if they are gzip; all before a cut are given.

    `gzip` itself loses the block with the cut.
    """

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._source = file.read(_BLOCK)
        self._read, self._given = len(self._source), 0
        is_gzip = self._source.startswith(b"\x1f\x8b")
        self._inflate = zlib.decompressobj(wbits=31) if is_gzip else None
        self._block, self._at = b"", 0

    def take(self, size: int) -> bytes:
        """Exactly the next `size` bytes."""
        return b"".join(self._pieces(size))

    def skip(self, size: int) -> None:
        """Pass over `size` bytes without keeping them."""
        for _ in self._pieces(size):
            pass

    def check_rest(self) -> None:
        """Only padding may follow the end marker; gzip compares its checksum on the way."""
        padding = 0
        while block := self._block[self._at :] or self._next():
            self._block, padding = b"", padding + len(block)
            if block.strip(b"\0") or padding > _MAX_PADDING_BYTES:
                raise tarfile.ReadError("something follows its end marker and was not read")

    def _pieces(self, size: int) -> Iterator[bytes]:
        while size > 0:
            if self._at >= len(self._block):
                self._block, self._at = self._next(), 0
                if not self._block:
                    raise EOFError("it ends before its end marker")
            piece = self._block[self._at : self._at + size]
            self._at += len(piece)
            size -= len(piece)
            yield piece

    def _next(self) -> bytes:
        """Some bytes, none at the end."""
        if self._inflate is None:
            return self._more()
        while True:
            if self._inflate.eof:
                source = self._inflate.unused_data.lstrip(b"\0") or self._more()
                if not source.strip(b"\0"):
                    return b""
                self._inflate = zlib.decompressobj(wbits=31)
            else:
                source = self._inflate.unconsumed_tail or self._more()
                if not source:
                    raise EOFError("it ends in the middle")
            data = self._inflate.decompress(source, _BLOCK)
            self._given += len(data)
            if self._given > max(_MAX_INFLATED_BYTES, _MAX_INFLATION * self._read):
                raise tarfile.ReadError(f"it inflates to over {_MAX_INFLATION} times its size")
            if data:
                return data

    def _more(self) -> bytes:
        source, self._source = self._source or self._file.read(_BLOCK), b""
        self._read += len(source)
        return source


def _headers(stream: _Stream) -> Iterator[_Header]:
    """Members up to the end marker; the caller takes or skips the bytes of each."""
    told: dict[str, str] = {}
    for _ in range(MAX_HEADERS):
        sector = stream.take(_SECTOR)
        if not sector.strip(b"\0"):
            return
        info = tarfile.TarInfo.frombuf(sector, "utf-8", "surrogateescape")
        if info.type in _EXTENDED:
            told |= _extended(info, stream)
            continue
        size = int(told.get("size", info.size))
        if size < 0:
            raise tarfile.ReadError(f"{info.name!r:.80} claims {size} bytes")
        is_sparse = info.type == tarfile.GNUTYPE_SPARSE
        more = sector[482] if is_sparse else 0
        while more:
            more = stream.take(_SECTOR)[504]
        has_bytes = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
        yield _Header(
            name=told.get("path", info.name),
            size=size,
            is_plain=info.isreg() and not is_sparse and "sparse" not in told,
            is_folder=info.isdir(),
            stored=size if has_bytes else 0,
        )
        told = {}
    raise tarfile.ReadError(f"it has more than {MAX_HEADERS} headers")


def _extended(info: tarfile.TarInfo, stream: _Stream) -> dict[str, str]:
    """What a header in front of a header says of the next member: `path`, `size`, `sparse`."""
    if not 0 <= info.size <= _MAX_HEADER_BYTES:
        raise tarfile.ReadError(f"a header claims {info.size} bytes")
    data = stream.take(_padded(info.size))[: info.size]
    if info.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": _decoded(data.rstrip(b"\0"))}
    return _pax(data) if info.type in _PAX else {}


def _pax(data: bytes) -> dict[str, str]:
    told, position = {}, 0
    while match := _PAX_RECORD.match(data, position):
        end = position + int(match[1])
        value = data[match.end() : end - 1]
        if match[2] == b"size" and not re.fullmatch(rb"\d{1,18}", value):
            raise tarfile.ReadError(f"a pax header claims {value!r:.30} bytes")
        if match[2] in (b"path", b"size"):
            told[match[2].decode()] = _decoded(value)
        elif match[2].startswith(b"GNU.sparse."):
            told["sparse"] = ""
        position = max(end, match.end())
    if position != len(data):
        raise tarfile.ReadError("a pax header is damaged")
    return told


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _padded(size: int) -> int:
    return -(-size // _SECTOR) * _SECTOR


def _objection(header: _Header) -> str | None:
    if not header.is_plain:
        return "is a link, a device or a sparse file"
    reason = unsafe_path(header.name)
    if reason is None and header.size > MAX_MEMBER_BYTES:
        return f"has {header.size} bytes, more than {MAX_MEMBER_BYTES}"
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
