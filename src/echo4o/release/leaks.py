"""Searches folders for secrets, in every form that a program may have left one in by accident.

Looked into are plain files, archives, compressed files, Parquet columns, SQLite rows and the text
of pictures; looked for are the secret itself, pieces of it, and its base64, hex, percent and UTF-16
forms. The secrets stay in memory: what is found is named by file and form, never repeated.
"""

import base64
import contextlib
import gzip
import io
import itertools
import lzma
import sqlite3
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

_PIECE = 12
"""A log that shortens what it prints still shows so many characters."""
_LEAST = 16
_CHUNK = 8 << 20
_MOST_INSIDE = 1 << 30
_DAMAGED: tuple[type[Exception], ...] = (
    OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, sqlite3.Error,
)  # fmt: skip
_ZLIB_STARTS = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")


class Leak(NamedTuple):
    """One file that holds a secret."""

    path: Path
    secret: str
    """Its name."""
    form: str
    """What was found of it."""


class Searched(NamedTuple):
    """What a search looked at and found."""

    files: int
    size: int
    """Bytes on disk."""
    leaks: tuple[Leak, ...]


def search(
    folders: Sequence[Path], secrets: Mapping[str, str], *, own: Collection[Path] = ()
) -> Searched:
    """Look into every regular file below the folders; links are not followed.

    Args:
        folders: Folders or files.
        secrets: Name -> value; the name is what a leak is called.
        own: Files whose business it is to hold a secret.

    Raises:
        ValueError: a secret is too short to be told from ordinary text.
    """
    patterns = [
        (name, form, pattern)
        for name, value in secrets.items()
        for form, pattern in forms(value).items()
    ]
    longest = max((len(pattern) for _, _, pattern in patterns), default=0)
    left_out = {path.resolve() for path in own}
    count = size = 0
    leaks: list[Leak] = []
    for path in _files(folders):
        if path.resolve() in left_out:
            continue
        count, size = count + 1, size + path.stat().st_size
        found = {
            Leak(path, name, form)
            for data in itertools.chain(_parts(path, longest), _insides(path))
            for name, form, pattern in patterns
            if pattern in data
        }
        leaks += sorted(found)
    return Searched(count, size, tuple(leaks))


def forms(secret: str) -> dict[str, bytes]:
    """What to look for: form -> bytes.

    Raises:
        ValueError: the secret has fewer than 16 characters.
    """
    if len(secret) < _LEAST:
        raise ValueError(f"a secret of {len(secret)} characters cannot be searched for")
    data = secret.encode()
    found = {
        f"characters {start} to {start + _PIECE}": data[start : start + _PIECE]
        for start in range(0, len(data) - _PIECE + 1, _PIECE)
    }
    for shift in range(3):
        # The first and last characters depend on what stands around it.
        text = base64.b64encode(b"\0" * shift + data)[shift + 1 : -4]
        found[f"base64 ({shift})"] = text
        found[f"base64 for addresses ({shift})"] = text.replace(b"+", b"-").replace(b"/", b"_")
    found["hex"] = data.hex().encode()
    found["HEX"] = data.hex().upper().encode()
    found["percent"] = "".join(f"%{byte:02X}" for byte in data).encode()
    found["UTF-16"] = secret.encode("utf-16-le")
    found["backwards"] = data[::-1]
    return found


def _files(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        for path in [folder] if folder.is_file() else sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield path


def _parts(path: Path, overlap: int) -> Iterator[bytes]:
    """The file in pieces that overlap, and its name."""
    yield str(path).encode()
    with path.open("rb") as file:
        before = b""
        while chunk := file.read(_CHUNK):
            yield before + chunk
            before = chunk[-overlap:]


def _insides(path: Path) -> Iterator[bytes]:
    """What a compressed file holds; damaged ones hold what can be read of them."""
    with path.open("rb") as file:
        start = file.read(16)
    try:
        if start.startswith(b"PK\3\4"):
            yield from _zipped(path)
        elif start.startswith(b"\x1f\x8b"):
            yield gzip.decompress(path.read_bytes())
        elif start.startswith(b"\xfd7zXZ"):
            yield lzma.decompress(path.read_bytes())
        elif start.startswith(b"PAR1"):
            yield from _columns(path)
        elif start.startswith(b"SQLite format 3"):
            yield from _rows(path)
        elif start.startswith(b"\x89PNG"):
            yield from _texts(path.read_bytes())
        elif start[:2] in _ZLIB_STARTS:
            yield _inflated(path.read_bytes())
    except _DAMAGED:
        return


def _zipped(path: Path) -> Iterator[bytes]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            yield member.filename.encode()
            if member.file_size < _MOST_INSIDE:
                yield archive.read(member)


def _columns(path: Path) -> Iterator[bytes]:
    """Texts and bytes of a Parquet file, uncompressed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, use_threads=False)
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        yield sink.getvalue()


def _rows(path: Path) -> Iterator[bytes]:
    """Values of a database; long ones are split over pages on disk, or compressed by who wrote."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as database:
        named = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (name,) in named:
            for row in database.execute(f'SELECT * FROM "{name}"'):
                for value in row:
                    if isinstance(value, str):
                        yield value.encode(errors="surrogateescape")
                    elif isinstance(value, bytes):
                        yield value
                        yield _inflated(value)


def _inflated(value: bytes) -> bytes:
    """What a compressed value holds; nothing when it is none."""
    if value[:2] in _ZLIB_STARTS:
        with contextlib.suppress(zlib.error):
            return zlib.decompressobj().decompress(value)
    return b""


def _texts(data: bytes) -> Iterator[bytes]:
    """Compressed texts of a PNG."""
    place = 8
    while place + 8 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        if kind in (b"zTXt", b"iTXt"):
            for start in (body.find(one) for one in _ZLIB_STARTS):
                yield _inflated(body[start:]) if start >= 0 else b""
        place += length + 12
