"""Whole pictures are told from cut ones by their structure, whatever follows their end."""

import io

import pytest
from PIL import Image

from echo4o.pictures import PictureError, picture_facts


def encoded(kind, **options):
    image = Image.effect_noise((40, 30), 80).convert("RGB")
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif_with_thumbnail():
    """An application segment that holds a whole JPEG, as cameras write it."""
    inside = b"Exif\0\0" + encoded("JPEG")
    return b"\xff\xe1" + (len(inside) + 2).to_bytes(2, "big") + inside


JPEGS = {
    "plain": encoded("JPEG"),
    "progressive": encoded("JPEG", progressive=True),
    "restarts": encoded("JPEG", restart_marker_blocks=1),
    "thumbnail": encoded("JPEG")[:2] + exif_with_thumbnail() + encoded("JPEG")[2:],
}
PNG = encoded("PNG")


@pytest.mark.parametrize("tail", [b"", b"\0" * 9, b"SEFT trailer", JPEGS["plain"]])
@pytest.mark.parametrize("data", JPEGS.values(), ids=JPEGS)
def test_what_follows_a_whole_jpeg_does_not_matter(data, tail):
    facts = picture_facts(data + tail)
    assert (facts.extension, facts.width, facts.height) == ("jpg", 40, 30)


@pytest.mark.parametrize("share", [0.7, 0.9, 0.99])
@pytest.mark.parametrize("data", JPEGS.values(), ids=JPEGS)
def test_a_cut_jpeg_is_refused(data, share):
    with pytest.raises(PictureError, match="cut off"):
        picture_facts(data[: int(len(data) * share)])


def test_a_jpeg_without_its_end_marker_is_refused():
    with pytest.raises(PictureError, match="cut off"):
        picture_facts(JPEGS["plain"][:-2])


@pytest.mark.parametrize("tail", [b"", b"trailer", PNG])
def test_what_follows_a_whole_png_does_not_matter(tail):
    assert picture_facts(PNG + tail).width == 40


@pytest.mark.parametrize("lost", [1, 4, 12, 100])
def test_a_cut_png_is_refused(lost):
    with pytest.raises(PictureError, match="cut off"):
        picture_facts(PNG[:-lost])


def test_an_end_inside_the_pixels_of_a_png_does_not_count():
    end = PNG[-12:]
    text = b"tEXt" + b"note\0" + end
    fake = PNG[:33] + (len(text) - 4).to_bytes(4, "big") + text + b"\0\0\0\0" + PNG[33:-40]
    with pytest.raises(PictureError, match="cut off"):
        picture_facts(fake)
