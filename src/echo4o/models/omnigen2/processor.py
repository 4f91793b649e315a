"""OmniGen2's pictures and prompts: the sizes of references, and the text that the encoder reads."""

import math

from PIL import Image

STRIDE = 16
"""Picture sizes are multiples of it: 8 of the autoencoder times 2 of the patch."""
SYSTEM_LINE = (
    "You are a helpful assistant that generates high-quality images based on user instructions."
)
"""The line in front of every prompt in OmniGen2's released pipeline; part of its interface."""


def reference_size(width: int, height: int, max_pixels: int, max_side: int) -> tuple[int, int]:
    """The (width, height) that a picture is shrunk to; nothing is enlarged.

    Raises:
        ValueError: a side of less than 16 pixels would be left.
    """
    scale = min(math.sqrt(max_pixels / (width * height)), max_side / max(width, height), 1.0)
    found = tuple(int(side * scale) // STRIDE * STRIDE for side in (width, height))
    if not all(found):
        raise ValueError(
            f"a picture of {width} x {height} pixels leaves less than {STRIDE} pixels on a side; "
            "give a larger or less narrow one"
        )
    return found[0], found[1]


def resized(image: Image.Image, max_pixels: int, max_side: int) -> Image.Image:
    """An RGB picture in its `reference_size`."""
    return resized_to(image, reference_size(*image.size, max_pixels, max_side))


def resized_to(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture in a (width, height), filtered as the released pipeline does."""
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def chat_text(prompt: str) -> str:
    """A prompt in Qwen2.5's chat form, as its template writes it, without an answer's beginning."""
    turns = (("system", SYSTEM_LINE), ("user", prompt))
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
