"""Reads the pictures of one row out of a Parquet file without reading the rows around them.

A row group of a release has some 30 MB; with its page index one picture costs the page that holds
it. pyarrow reads whole row groups only, so the few structures on the way (Parquet format 2: footer,
offset index, page header, levels, plain byte arrays) are read here. Whatever is written in another
way - no index, dictionary pages, version 2 pages - is left to pyarrow and its row groups.
"""

import struct
from bisect import bisect_right
from collections.abc import Callable
from functools import wraps
from typing import NamedTuple, ParamSpec, TypeVar

import pyarrow as pa

Read = Callable[[int, int], bytes]
"""Bytes [start, end) of the file."""
Cell = list[bytes | None]
"""The byte arrays of one row: one of a plain column, any number of a list column."""

CODECS = {0: None, 1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd"}
MAX_PAGE_BYTES = 128 * 1024 * 1024
MAX_VALUES = 1_000_000
_DAMAGE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error)
P = ParamSpec("P")
R = TypeVar("R")
_PLAIN, _RLE, _DATA_PAGE = 0, 3, 0
_SHAPES = {(2, 0), (4, 1)}
"""(definition, repetition) levels of a nullable struct's field, plain and in a nullable list."""


class NotHere(Exception):
    """The page is not of the form that this module reads."""


def _readable(function: Callable[P, R]) -> Callable[P, R]:
    """Whatever damage leads to on the way is one thing: not here."""

    @wraps(function)
    def safe(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except _DAMAGE as error:
            raise NotHere(f"damaged ({type(error).__name__})") from error

    return safe


class Chunk(NamedTuple):
    """One column of one row group."""

    codec: int
    index_at: int
    index_bytes: int
    definition: int
    """Highest definition level."""
    repetition: int
    """Highest repetition level."""


class Thrift:
    """Thrift's compact protocol: structs become dictionaries by field number."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def byte(self) -> int:
        """The next byte."""
        self.at += 1
        return self.data[self.at - 1]

    def varint(self) -> int:
        """An unsigned number, 7 bits a byte."""
        value = shift = 0
        while shift < 64:
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise NotHere("number without an end")

    def number(self) -> int:
        """A signed number (zigzag)."""
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def struct(self, depth: int = 0) -> dict[int, object]:
        """Fields up to the stop byte."""
        if depth > 16:
            raise NotHere("structs within structs")
        fields: dict[int, object] = {}
        name = 0
        while (head := self.byte()) != 0:
            name = name + (head >> 4) if head >> 4 else self.number()
            kind = head & 15
            fields[name] = kind == 1 if kind in (1, 2) else self.value(kind, depth)
        return fields

    def value(self, kind: int, depth: int) -> object:
        """One value of a type that Parquet's structures have."""
        if kind in (4, 5, 6):
            return self.number()
        if kind == 8:
            size = self.varint()
            self.at += size
            return self.data[self.at - size : self.at]
        if kind == 12:
            return self.struct(depth + 1)
        if kind == 9:
            return self._list(depth)
        if kind in (1, 2, 3):
            return self.byte()
        if kind == 7:
            self.at += 8
            return None
        raise NotHere(f"thrift type {kind}")

    def _list(self, depth: int) -> list[object]:
        head = self.byte()
        size = head >> 4 if head >> 4 < 15 else self.varint()
        if size > len(self.data) - self.at:
            raise NotHere("list longer than its file")
        return [self.value(head & 15, depth) for _ in range(size)]


@_readable
def chunks(footer: bytes, levels: dict[str, tuple[int, int]]) -> list[dict[str, Chunk]]:
    """Per row group the columns of `levels` (path -> levels) that can be read here."""
    groups: list[dict[str, Chunk]] = []
    for group in Thrift(footer).struct()[4]:  # type: ignore[attr-defined]
        found = {}
        for column in group[1]:
            facts = column[3]
            path = ".".join(part.decode() for part in facts[3])
            if path in levels and levels[path] in _SHAPES and 4 in column and facts[4] in CODECS:
                found[path] = Chunk(facts[4], column[4], column[5], *levels[path])
        groups.append(found)
    return groups


@_readable
def page_starts(index: bytes) -> list[tuple[int, int, int]]:
    """(first row in the row group, offset in the file, bytes) of each page of an index."""
    return [(page[3], page[1], page[2]) for page in Thrift(index).struct()[1]]  # type: ignore


@_readable
def cell(read: Read, chunk: Chunk, starts: list[tuple[int, int, int]], line: int) -> Cell:
    """The values of row `line` of the chunk's row group.

    Raises:
        NotHere: the page is of another form.
    """
    first, at, size = starts[bisect_right(starts, (line, 1 << 62, 0)) - 1]
    if at < 0 or not 0 < size <= MAX_PAGE_BYTES or not 0 <= first <= line:
        raise NotHere(f"page of {size} bytes")
    return _row(read(at, at + size), chunk, line - first)


def _row(page: bytes, chunk: Chunk, line: int) -> Cell:
    thrift = Thrift(page)
    head = thrift.struct()
    facts = head.get(5)
    if head[1] != _DATA_PAGE or not isinstance(facts, dict) or facts[2] != _PLAIN:
        raise NotHere("not a plain page of version 1")
    if (facts[3], facts[4]) != (_RLE, _RLE) or not 0 < facts[1] <= MAX_VALUES:
        raise NotHere("levels of another form")
    body, codec, size = page[thrift.at :], CODECS[chunk.codec], int(str(head[2]))
    if codec is not None:
        if not 0 < size <= MAX_PAGE_BYTES:
            raise NotHere(f"page of {size} bytes")
        body = pa.decompress(body, size, codec, asbytes=True)
    count, at, repeats = facts[1], 0, [0] * facts[1]
    if chunk.repetition:
        repeats, at = _levels(body, at, chunk.repetition, count)
    defined, at = _levels(body, at, chunk.definition, count)
    return _values(body, at, chunk, list(zip(repeats, defined, strict=True)), line)


def _values(body: bytes, at: int, chunk: Chunk, levels: list[tuple[int, int]], line: int) -> Cell:
    """Walk over the plain values up to the row; levels say which row each belongs to."""
    row, cell_ = -1, []
    for repeat, defined in levels:
        row += repeat == 0
        if row > line:
            break
        value = None
        if defined == chunk.definition:
            (size,) = struct.unpack_from("<I", body, at)
            at += 4 + size
            if row == line:
                value = body[at - size : at]
                if len(value) != size:
                    raise NotHere("value beyond its page")
        # In a list the two lowest levels are "no list" and "empty list".
        if row == line and (not chunk.repetition or defined >= 2):
            cell_.append(value)
    if row < line:
        raise NotHere("row beyond its page")
    return cell_


def _levels(body: bytes, at: int, highest: int, count: int) -> tuple[list[int], int]:
    """Levels in the hybrid of runs and packed bits, after their length in 4 bytes."""
    (size,) = struct.unpack_from("<I", body, at)
    data, width = body[at + 4 : at + 4 + size], highest.bit_length()
    thrift, found = Thrift(data), list[int]()
    while len(found) < count:
        head = thrift.varint()
        if head & 1:
            size_ = (head >> 1) * width
            packed = int.from_bytes(data[thrift.at : thrift.at + size_], "little")
            thrift.at += size_
            wanted = min((head >> 1) * 8, count - len(found))
            found += [packed >> (i * width) & ((1 << width) - 1) for i in range(wanted)]
        else:
            found += [thrift.byte()] * min(head >> 1, count - len(found))
    return found, at + 4 + size
