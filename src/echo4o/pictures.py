"""Reads just enough of a picture file to trust it: kind, size, and that its end is there.

Nothing is decoded, so a picture bomb costs nothing and received bytes stay as they were.
"""

import re
from dataclasses import dataclass

from .errors import Echo4oError

MAX_BYTES = 64 * 1024 * 1024
MAX_PIXELS = 64_000_000


class PictureError(Echo4oError):
    """Bytes that are no whole picture of a kind and size we accept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureFacts:
    """What the header of a picture says."""

    extension: str
    """File name ending without the dot: png, jpg, webp or gif."""
    mime: str
    """Media type that belongs to the bytes, whatever anybody declared."""
    width: int
    height: int


def picture_facts(data: bytes) -> PictureFacts:
    """Kind and size of a complete picture.

    Raises:
        PictureError: empty, cut off, of an unknown kind, or beyond `MAX_BYTES` or `MAX_PIXELS`.
    """
    if len(data) > MAX_BYTES:
        raise PictureError(f"the picture has {len(data)} bytes; at most {MAX_BYTES} are accepted")
    facts = _header(data)
    if facts.width * facts.height > MAX_PIXELS or min(facts.width, facts.height) < 1:
        raise PictureError(
            f"the picture claims {facts.width}x{facts.height} pixels; "
            f"between 1 and {MAX_PIXELS} are accepted"
        )
    if not _is_complete(data, facts.extension):
        raise PictureError(f"the {facts.extension} picture of {len(data)} bytes is cut off")
    return facts


def sniff_mime(data: bytes) -> str | None:
    """Media type by the first bytes, None when it is no PNG, JPEG, WebP or GIF."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "image/gif"
    return None


_EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/gif": "gif"}


def _header(data: bytes) -> PictureFacts:
    mime = sniff_mime(data)
    if mime is None:
        raise PictureError(
            f"{len(data)} bytes starting {data[:8].hex() or 'with nothing'} are no picture "
            "(PNG, JPEG, WebP and GIF are accepted)"
        )
    readers = {"png": _png_size, "jpg": _jpeg_size, "webp": _webp_size, "gif": _gif_size}
    extension = _EXTENSIONS[mime]
    size = readers[extension](data)
    if size is None:
        raise PictureError(f"the {extension} header of {len(data)} bytes is cut off or damaged")
    return PictureFacts(extension=extension, mime=mime, width=size[0], height=size[1])


def _png_size(data: bytes) -> tuple[int, int] | None:
    if len(data) < 24 or data[12:16] != b"IHDR":
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _gif_size(data: bytes) -> tuple[int, int] | None:
    if len(data) < 10:
        return None
    return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")


def _webp_size(data: bytes) -> tuple[int, int] | None:
    if len(data) < 30:
        return None
    chunk = data[12:16]
    if chunk == b"VP8X":
        width, height = data[24:27], data[27:30]
        return int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        width_field = int.from_bytes(data[26:28], "little")
        return width_field & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    position = 2
    while position + 9 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte before a marker
            position += 1
            continue
        # Frame headers are C0..CF without the Huffman, arithmetic and extension tables.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height = int.from_bytes(data[position + 5 : position + 7], "big")
            return int.from_bytes(data[position + 7 : position + 9], "big"), height
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def _png_ends(data: bytes) -> bool:
    """Whether the chunks lead to an IEND that is all there; what follows it does not matter."""
    position = 8
    while position + 12 <= len(data):
        kind = data[position + 4 : position + 8]
        position += 12 + int.from_bytes(data[position : position + 4], "big")
        if kind == b"IEND":
            return position <= len(data)
        if not kind.isalpha():
            return False
    return False


# In a scan, FF 00 is a byte FF and FF D0..D7 a restart: neither ends it.
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def jpeg_end(data: bytes) -> int | None:
    """Where the first picture of a JPEG file ends; phones put more pictures after it.

    Segments are skipped by their length, so that the end of an embedded thumbnail does not count.
    """
    position, is_scan_seen = 2, False
    while (marker := _END_OF_SCAN.search(data, position)) is not None:
        code, position = data[marker.start() + 1], marker.end()
        if code == 0xD9:
            return position if is_scan_seen else None
        is_scan_seen = is_scan_seen or code == 0xDA
        position += int.from_bytes(data[position : position + 2], "big")
    return None


def _is_complete(data: bytes, extension: str) -> bool:
    if extension == "png":
        return _png_ends(data)
    if extension == "jpg":
        return jpeg_end(data) is not None
    if extension == "webp":
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return data.rstrip(b"\x00").endswith(b";")
