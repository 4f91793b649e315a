"""Takes camera data (EXIF, GPS, XMP, IPTC) out of a picture and leaves its pixels as they are.

For one's own references only: what a model or somebody else sent is stored as it was received. Of
EXIF the orientation stays, because without it a turned photo would lie on its side.
"""

import io
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from echo4o.pictures import jpeg_end, picture_facts

_ORIENTATION = 0x0112
_JPEG_DROPPED = frozenset({0xE1, 0xED, 0xFE})
"""APP1 (EXIF, XMP), APP13 (IPTC) and comments."""
_PNG_DROPPED = frozenset({b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"tIME"})
_WEBP_DROPPED = frozenset({b"EXIF", b"XMP "})


def without_camera_data(data: bytes) -> bytes:
    """The same picture without what says where, when and by whom it was taken.

    Raises:
        PictureError: these are no bytes of a whole picture.
    """
    strip = {"jpg": _jpeg, "png": _png, "webp": _webp}.get(picture_facts(data).extension)
    return data if strip is None else strip(data, _orientation(data))


def _orientation(data: bytes) -> bytes:
    """EXIF that holds the orientation and nothing else; empty when the picture is upright."""
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
        turned = image.getexif().get(_ORIENTATION, 1)
    if turned not in range(2, 9):
        return b""
    entry = struct.pack(">HHIHH", _ORIENTATION, 3, 1, turned, 0)
    return b"MM\0*\0\0\0\x08\0\x01" + entry + b"\0\0\0\0"


def _jpeg(data: bytes, exif: bytes) -> bytes:
    parts = [data[:2]]
    if exif:
        body = b"Exif\0\0" + exif
        parts.append(b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body)
    position = 2
    while data[position + 1] != 0xDA:
        if data[position + 1] == 0xFF:  # fill byte before a marker
            position += 1
            continue
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        is_multi_picture = data[position + 1] == 0xE2 and data[position + 4 :].startswith(b"MPF\0")
        if data[position + 1] not in _JPEG_DROPPED and not is_multi_picture:
            parts.append(data[position:end])
        position = end
    # What phones put after the picture has camera data of its own.
    return b"".join([*parts, data[position : jpeg_end(data)]])


def _png(data: bytes, exif: bytes) -> bytes:
    parts = [data[:8]]
    position = 8
    while position < len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        if kind not in _PNG_DROPPED:
            parts.append(data[position:end])
        if kind == b"IHDR" and exif:
            check = struct.pack(">I", zlib.crc32(b"eXIf" + exif))
            parts.append(struct.pack(">I", len(exif)) + b"eXIf" + exif + check)
        if kind == b"IEND":
            break
        position = end
    return b"".join(parts)


def _webp(data: bytes, exif: bytes) -> bytes:
    parts = []
    for kind, chunk in _webp_chunks(data):
        if kind == b"VP8X":
            # The flags tell which chunks follow: 8 is EXIF, 4 is XMP.
            flags = chunk[8] & ~0b1100 | (8 if exif else 0)
            parts.append(chunk[:8] + bytes([flags]) + chunk[9:])
        elif kind not in _WEBP_DROPPED:
            parts.append(chunk)
    if exif:
        parts.append(b"EXIF" + struct.pack("<I", len(exif)) + exif + b"\0" * (len(exif) % 2))
    body = b"".join([b"WEBP", *parts])
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position, end = 12, 8 + int.from_bytes(data[4:8], "little")
    while position + 8 <= end:
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        following = position + 8 + size + size % 2
        yield data[position : position + 4], data[position:following]
        position = following
