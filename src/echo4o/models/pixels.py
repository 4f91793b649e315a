"""What every model sees of a picture: RGB, upright, as numbers."""

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB as the models were trained: transparency becomes white, the EXIF rotation is applied.

    Grey pictures with alpha lose it without compositing, as in the published preprocessing.
    """
    if not all(image.size):
        raise ValueError(f"a picture of {image.width} x {image.height} pixels is empty")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"a picture with mode {image.mode!r} (16 bit or more per channel) has no defined "
            "brightness range; convert it to 8 bit first"
        )
    if image.mode == "RGBA" or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(rgba, mask=rgba.split()[3])
        return white
    return image.convert("RGB")


def to_pixels(image: Image.Image) -> Tensor:
    """RGB picture -> (3, height, width) in [-1, 1]."""
    array = torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)
    return (array.float() / 255 - 0.5) / 0.5
