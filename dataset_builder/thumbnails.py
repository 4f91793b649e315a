"""Small copies of pictures: the preview config and the contact sheet. Never the dataset itself."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from echo4o.pictures import PictureError, PictureFacts, picture_facts
from echo4o.records import write_atomic
from echo4o.schema import Picture, Row

from .tars import MAX_MEMBER_BYTES

PREVIEW_SIDE = 512
_QUALITY = 90
_CELL, _COLUMNS, _GAP = 96, 12, 4
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")


def check_picture(data: bytes, *, decode: bool) -> PictureFacts:
    """Kind and size of an acceptable picture; with `decode`, every pixel is read once.

    Raises:
        PictureError: too large, cut off, a bomb by its header, or (with `decode`) damaged.
    """
    if len(data) > MAX_MEMBER_BYTES:
        raise PictureError(f"the picture has {len(data)} bytes, more than {MAX_MEMBER_BYTES}")
    facts = picture_facts(data)
    if decode:
        open_picture(data).load()
    return facts


def open_picture(data: bytes) -> Image.Image:
    """Decode a picture whose header was checked.

    Raises:
        PictureError: it does not decode.
    """
    picture_facts(data)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError) as error:
        raise PictureError(f"the picture does not decode ({error})") from None
    except Image.DecompressionBombError as error:
        raise PictureError(f"the picture is a bomb ({error})") from None
    return image


def preview_row(row: Row) -> Row:
    """The row with its pictures as JPEG of at most 512 px a side."""
    output, width, height = _shrunk(row.output_image)
    inputs = tuple(_shrunk(picture)[0] for picture in row.input_images)
    return replace(row, output_image=output, input_images=inputs, width=width, height=height)


def _shrunk(picture: Picture) -> tuple[Picture, int, int]:
    data, width, height = shrunk_jpeg(picture.data, PREVIEW_SIDE, _QUALITY)
    return Picture(data=data, name=f"{Path(picture.name).stem}.jpg"), width, height


def shrunk_jpeg(data: bytes, side: int, quality: int) -> tuple[bytes, int, int]:
    """A JPEG of at most `side` px, its width and height.

    Raises:
        PictureError: the picture does not decode.
    """
    image = open_picture(data).convert("RGB")
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue(), image.width, image.height


def write_contact_sheet(path: Path, groups: Sequence[Sequence[bytes]]) -> None:
    """A PNG with the pictures side by side, 12 in a line, on white; a group begins a line."""
    lines = [g[i : i + _COLUMNS] for g in groups for i in range(0, len(g), _COLUMNS)]
    step = _CELL + _GAP
    sheet = Image.new("RGB", (_COLUMNS * step + _GAP, max(1, len(lines)) * step + _GAP), "white")
    for line, pictures in enumerate(lines):
        for column, data in enumerate(pictures):
            image = open_picture(data).convert("RGB")
            image.thumbnail((_CELL, _CELL), Image.Resampling.LANCZOS)
            left = _GAP + column * step + (_CELL - image.width) // 2
            sheet.paste(image, (left, _GAP + line * step + (_CELL - image.height) // 2))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_atomic(path, buffer.getvalue())
