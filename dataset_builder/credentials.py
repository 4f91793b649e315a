"""Content credentials (C2PA) in received pictures: present, valid, by whom.

Presence is read from the file's own structure. Whether they are valid only the library of the C2PA
project can tell (extra `credentials`); without it that stays unknown. A manifest that a picture
only points to is never fetched: foreign data must not make us call anybody.
"""

import io
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from echo4o.errors import printable
from echo4o.pictures import sniff_mime
from echo4o.records import JsonValue

if TYPE_CHECKING:
    from c2pa import Context

_LONGEST_NAME = 200


class Credentials(NamedTuple):
    """What a picture's content credentials say."""

    present: bool
    valid: bool | None = None
    """Signed, and unchanged since; None: not present, or nobody here can tell. Whether the signer
    deserves trust is not judged."""
    issuer: str | None = None
    """Organisation in the signer's certificate."""

    def to_dict(self) -> dict[str, JsonValue]:
        """For the row's provenance."""
        return {"present": self.present, "valid": self.valid, "issuer": self.issuer}


def find_credentials(data: bytes) -> Credentials:
    """The content credentials embedded in an encoded picture."""
    if not _has_manifest(data):
        return Credentials(present=False)
    try:
        import c2pa
    except ModuleNotFoundError:
        return Credentials(present=True)
    mime = sniff_mime(data)
    try:
        with c2pa.Reader(mime, io.BytesIO(data), context=_offline()) as reader:
            state = reader.get_validation_state()
            manifest = reader.get_active_manifest() or {}
    except c2pa.C2paError:
        return Credentials(present=True, valid=False)
    signed = manifest.get("signature_info") or {}
    issuer = signed.get("issuer")
    return Credentials(
        present=True,
        valid=state in ("Valid", "Trusted"),
        issuer=printable(issuer)[:_LONGEST_NAME] if isinstance(issuer, str) else None,
    )


def _has_manifest(data: bytes) -> bool:
    """Whether a JUMBF box of C2PA lies where the format keeps it."""
    kind = sniff_mime(data)
    if kind == "image/png":
        return b"caBX" in _png_chunks(data)
    if kind == "image/jpeg":
        return any(part[:2] == b"JP" and b"jumb" in part[:24] for part in _jpeg_app11(data))
    return kind == "image/webp" and b"C2PA" in _riff_chunks(data)


def _png_chunks(data: bytes) -> Iterator[bytes]:
    position = 8
    while position + 8 <= len(data):
        yield data[position + 4 : position + 8]
        position += 12 + int.from_bytes(data[position : position + 4], "big")


def _jpeg_app11(data: bytes) -> Iterator[bytes]:
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xDA:  # the scan: segments are over
            return
        size = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xEB:
            yield data[position + 4 : position + 2 + size]
        position += 2 + size


def _riff_chunks(data: bytes) -> Iterator[bytes]:
    position = 12
    while position + 8 <= len(data):
        yield data[position : position + 4]
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8 + size + size % 2


@cache
def _offline() -> "Context":
    import c2pa

    verify = {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": False}
    return c2pa.Context(c2pa.Settings.from_dict({"verify": verify}))
