"""Pictures we make say what made them, and that a machine did."""

import pytest
from PIL import Image

from echo4o.errors import Echo4oError
from echo4o.models.pictures import (
    PictureRecord,
    encode_png,
    is_marked_machine_made,
    read_record,
    save_picture,
)

RECORD = PictureRecord(
    prompt='a "cat" & <dog> \N{SNOWMAN}',
    model="org/name",
    revision="abc",
    seed=3,
    parameters={"num_inference_steps": 4},
)


def test_record_and_mark_come_back(tmp_path):
    path = tmp_path / "new" / "cat.png"
    save_picture(path, Image.new("RGB", (4, 4), "red"), RECORD)
    assert read_record(path) == RECORD
    assert is_marked_machine_made(path)
    assert Image.open(path).getpixel((0, 0)) == (255, 0, 0)
    assert [file.name for file in path.parent.iterdir()] == ["cat.png"]


def test_the_mark_is_well_formed_xmp():
    import io
    import xml.etree.ElementTree as tree

    xmp = Image.open(io.BytesIO(encode_png(Image.new("RGB", (2, 2)), RECORD))).info["xmp"]
    root = tree.fromstring(xmp.split(b"?>", 1)[1].rsplit(b"<?", 1)[0])
    name = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
    values = [element.get(name) for element in root.iter() if element.get(name)]
    assert values == ["http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"]
    assert RECORD.prompt in "".join(root.itertext())


def test_other_pictures_have_neither(tmp_path):
    path = tmp_path / "plain.png"
    Image.new("RGB", (2, 2)).save(path)
    assert not is_marked_machine_made(path)
    with pytest.raises(Echo4oError, match=r"plain.png carries no record"):
        read_record(path)
