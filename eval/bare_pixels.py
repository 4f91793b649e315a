"""Pictures as bare pixels, as a detector is given them: a short header, then RGB row by row.

The header is that of a binary PPM, so that what is hashed says its size; nothing is compressed.
"""

import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

_HEADER = re.compile(rb"P6\n(\d+) (\d+)\n255\n")


def write_pixels(image: Image.Image) -> bytes:
    """Return a picture upright and RGB."""
    ImageOps.exif_transpose(image, in_place=True)
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return b"P6\n%d %d\n255\n" % rgb.size + rgb.tobytes()


def read_pixels(data: bytes) -> NDArray[np.uint8]:
    """Return the picture that `write_pixels` wrote: (H, W, 3), not to be written to."""
    match = _HEADER.match(data)
    assert match is not None, "these are no bare pixels"
    shape = (int(match[2]), int(match[1]), 3)
    return np.frombuffer(data, np.uint8, offset=match.end()).reshape(shape)
