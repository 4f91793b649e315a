"""One's own references lose their camera data and keep every pixel and their orientation."""

import io

import pytest
from PIL import Image, ImageOps

from echo4o.dataset_builder.stripping import without_camera_data
from echo4o.pictures import PictureError

NORTH = {1: "N", 2: (48.0, 51.0, 30.0)}


def photo(kind, orientation, **options):
    image = Image.effect_noise((40, 30), 80).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "CameraMaker"
    exif.get_ifd(0x8825).update(NORTH)
    buffer = io.BytesIO()
    image.save(
        buffer, kind, exif=exif.tobytes(), xmp=b"<x:xmpmeta>secret place</x:xmpmeta>", **options
    )
    return buffer.getvalue()


def upright(data):
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).tobytes()


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95, "comment": b"by somebody"}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"quality": 80}),
    ],
)
def test_pixels_stay_and_camera_data_go(kind, options, orientation):
    data = photo(kind, orientation, **options)
    assert b"CameraMaker" in data
    trailer = photo("JPEG", 1) if kind == "JPEG" else b""
    clean = without_camera_data(data + trailer)
    for secret in (b"CameraMaker", b"secret place", b"by somebody"):
        assert secret not in clean
    with Image.open(io.BytesIO(clean)) as image:
        assert dict(image.getexif()) == ({} if orientation == 1 else {0x0112: orientation})
        assert not image.getexif().get_ifd(0x8825)
    assert upright(clean) == upright(data)
    assert without_camera_data(clean) == clean


def test_what_is_no_picture_is_told():
    with pytest.raises(PictureError):
        without_camera_data(photo("JPEG", 1)[:-40])
