"""Sizes of pictures and how they are brought to them, and what a written text says.

Sizes are (width, height) for PIL pictures, (height, width) for tensors.
"""

from dataclasses import dataclass

from PIL import Image

MAX_PIXELS = 14 * 14 * 9 * 1024


@dataclass(frozen=True, slots=True)
class ResizeRule:
    """Longest side, shortest side and stride in pixels (specification, section 8)."""

    longest: int
    shortest: int
    stride: int
    max_pixels: int = MAX_PIXELS
    """Limit of one picture; the pictures of a vision-language sample share it."""

    def __post_init__(self) -> None:
        """Refuse sides that are not positive."""
        if min(self.longest, self.shortest, self.stride, self.max_pixels) < 1:
            raise ValueError(f"a resize rule needs positive numbers, got {self}")

    def size(self, width: int, height: int, *, num_images: int = 1) -> tuple[int, int]:
        """The (width, height) a picture of this size is resized to.

        The published rule: short sides are enlarged, both sides are rounded to the stride, and a
        picture with too many pixels is shrunk by the ratio of areas (not its square root).
        """
        scale = min(self.longest / max(width, height), 1.0)
        scale = max(scale, self.shortest / min(width, height))
        width, height = self._scaled(width, height, scale)
        limit = self.max_pixels / num_images
        if width * height > limit:
            width, height = self._scaled(width, height, limit / (width * height))
        if max(width, height) > self.longest:
            width, height = self._scaled(width, height, self.longest / max(width, height))
        return width, height

    def resize(self, image: Image.Image, *, num_images: int = 1) -> Image.Image:
        """Resize an RGB picture by this rule (bicubic on 8 bits)."""
        size = self.size(*image.size, num_images=num_images)
        if size == image.size:
            return image
        return image.resize(size, Image.Resampling.BICUBIC)

    def _scaled(self, width: int, height: int, scale: float) -> tuple[int, int]:
        return self._to_stride(round(width * scale)), self._to_stride(round(height * scale))

    def _to_stride(self, value: int) -> int:
        return max(self.stride, round(value / self.stride) * self.stride)


def check_size(height: int, width: int, stride: int, table_side: int) -> None:
    """Refuse picture sizes the model cannot make.

    Raises:
        ValueError: a side is no multiple of `stride` or exceeds the position table.
    """
    for name, value in (("height", height), ("width", width)):
        if not isinstance(value, int):
            raise ValueError(f"`{name}` must be a whole number of pixels, got {value!r}")
        if value < stride or value % stride:
            better = max(stride, value // stride * stride)
            raise ValueError(f"`{name}` must be a multiple of {stride}, got {value}; try {better}")
        if value > table_side * stride:
            raise ValueError(
                f"`{name}` must be at most {table_side * stride} pixels for this model, got {value}"
            )


def text_between(text: str, opening: str, closing: str) -> str:
    """What a decoded answer says: cut at the first `closing`, then behind the first `opening`."""
    before = text.split(closing)[0]
    return before.split(opening)[1] if opening in before else before
