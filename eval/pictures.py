"""Finds the pictures of a run by item number and prepares their bytes for a judge."""

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageOps

from echo4o.errors import Echo4oError
from echo4o.pictures import MAX_PIXELS, PictureError, picture_facts, sniff_mime

from .items import Item

EXTENSIONS = ("png", "jpg", "jpeg", "webp")
_NAME = re.compile(
    rf"0*([1-9]\d*)(?:-0*([1-9]\d*))?\.({'|'.join(EXTENSIONS)})", re.IGNORECASE | re.ASCII
)
_ORIENTATION = 0x0112
_SCRIPTS_TOO = ("BMP", "TIFF", "PPM")
"""What the authors' scripts read besides, under any ending: they look at the content only."""
_SENT_AS_THEY_ARE = {("PNG", "RGB"), ("PNG", "L"), ("PNG", "P"), ("JPEG", "RGB"), ("WEBP", "RGB")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One item's picture, ready to be sent."""

    name: str
    """File name."""
    data: bytes = field(repr=False)
    """Encoded bytes."""

    @property
    def sha256(self) -> str:
        """Hash of the bytes that are sent."""
        return hashlib.sha256(self.data).hexdigest()


def find_pictures(folder: Path, sample: int = 1) -> dict[int, Path]:
    """Return the picture files of a folder by item number (`7.png`, `007.JPG`).

    Args:
        folder: Where to look.
        sample: Which picture of each prompt; the second ones are `7-2.png` and so on.

    Raises:
        Echo4oError: no such folder, or two files for one picture.
    """
    found: dict[int, Path] = {}
    for number, place, path in _numbered(folder):
        if place != sample:
            continue
        other = found.setdefault(number, path)
        if other != path:
            raise Echo4oError(
                f"{folder} has two pictures for item {number}: {other.name} and {path.name};"
                " keep one of them"
            )
    return found


def is_picture_name(name: str) -> bool:
    """Return whether a file of this name is a picture of an item."""
    return _NAME.fullmatch(name) is not None


def samples_in(folder: Path) -> int:
    """Return how many pictures a prompt has at most in a folder; 1 when there are none.

    Raises:
        Echo4oError: no such folder.
    """
    return max((sample for _, sample, _ in _numbered(folder)), default=1)


def _numbered(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """Yield item number, which picture of the prompt, and file."""
    if not folder.is_dir():
        raise Echo4oError(f"there is no picture folder {folder}")
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match is not None and path.is_file():
            yield int(match[1]), int(match[2] or 1), path


def find_named(folder: Path, extensions: Sequence[str]) -> dict[int, Path]:
    """Return the pictures that the authors' scripts find: `7.jpg`, the first ending that exists.

    Raises:
        Echo4oError: no such folder.
    """
    if not folder.is_dir():
        raise Echo4oError(f"there is no picture folder {folder}")
    names = {path.name for path in folder.iterdir()}
    found: dict[int, Path] = {}
    for extension in reversed(extensions):
        suffix = f".{extension}"
        for name in names:
            stem = name.removesuffix(suffix)
            if name != stem and re.fullmatch(r"[1-9]\d*", stem, re.ASCII):
                found[int(stem)] = folder / name
    return found


def load_reencoded(path: Path) -> Picture:
    """Read a picture as the authors' scripts do: RGB, JPEG again at Pillow's quality, not turned.

    Raises:
        PictureError: it cannot be read, does not decode, is cut off, or is too large.
    """
    data = _read(path)
    with opened(data, path.name, formats=_SCRIPTS_TOO if sniff_mime(data) is None else ()) as image:
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, format="JPEG")
        return Picture(name=path.name, data=buffer.getvalue())


def load_picture(path: Path) -> Picture:
    """Read a picture for the judge.

    Ordinary PNG, JPEG and WebP files are sent byte for byte. A picture with an EXIF rotation, an
    alpha channel, CMYK or several frames is sent as an upright RGB PNG of its first frame.

    Raises:
        PictureError: it cannot be read, does not decode, is cut off, or is too large.
    """
    return prepare(_read(path), path.name)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PictureError(f"{path.name} cannot be read ({error.strerror})") from error


def prepare(data: bytes, name: str) -> Picture:
    """Prepare encoded bytes as `load_picture` does."""
    with opened(data, name) as image:
        return Picture(name=name, data=_as_sent(image, data))


def name_of(item: Item, sample: int = 1, extension: str = "png") -> str:
    """Return the file name that generation gives a picture of `item`."""
    which = "" if sample == 1 else f"-{sample}"
    return f"{item.number}{which}.{extension}"


@contextmanager
def opened(data: bytes, name: str, *, formats: tuple[str, ...] = ()) -> Iterator[Image.Image]:
    """Give a loaded picture; whatever is wrong with its bytes is a PictureError.

    `formats` are kinds, as Pillow calls them, that are taken besides PNG, JPEG, WebP and GIF.
    """
    if not formats:
        picture_facts(data)
    try:
        with Image.open(io.BytesIO(data), formats=formats or None) as image:
            if image.width * image.height > MAX_PIXELS:  # a frame larger than the header says
                raise PictureError(f"{name} is too large to decode safely")
            image.load()
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError(f"{name} does not decode ({error})") from error


def _as_sent(image: Image.Image, data: bytes) -> bytes:
    plain = (image.format, image.mode) in _SENT_AS_THEY_ARE and "transparency" not in image.info
    upright = image.getexif().get(_ORIENTATION, 1) == 1
    if plain and upright and not _is_animated(image):
        return data
    turned = ImageOps.exif_transpose(image).convert("RGBA")
    canvas = Image.new("RGBA", turned.size, "white")
    canvas.alpha_composite(turned)
    buffer = io.BytesIO()
    canvas.convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()


def _is_animated(image: Image.Image) -> bool:
    try:
        image.seek(1)
    except EOFError:
        return False
    image.seek(0)
    return True
