"""Draws what a detector found over its picture: boxes that count in colour, the others thin."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .geneval import read_objects
from .geneval_rules import DetectionRule, keep
from .protocols import UnreadableReply
from .verdicts import Verdict

_COLOURS = ("#e6194b", "#1f77ff", "#12a14b", "#f58231", "#911eb4", "#008080", "#b8860b", "#d81b9c")
_OTHER = "#777777"
_LETTER = 0.07
"""Height of a label, as a share of the picture's longer side."""
_SMALLEST = 10
_Corners: TypeAlias = tuple[float, float, float, float]


def drawn(
    image: Image.Image, verdict: Verdict, original: tuple[int, int] | None = None
) -> Image.Image:
    """Return a copy of the picture with a GenEval verdict's boxes.

    Args:
        image: RGB, perhaps made smaller.
        verdict: Its `raw_reply` holds the boxes.
        original: Width and height of the picture that the detector saw; those of `image` if None.
    """
    try:
        objects = read_objects(verdict.raw_reply or "")
    except UnreadableReply:
        return image
    picture = image.copy()
    canvas = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(_SMALLEST, round(_LETTER * max(image.size))))
    wide, high = original or image.size
    x, y = image.width / wide, image.height / high
    line = max(1, round(max(image.size) / 200))
    labels: list[tuple[str, _Corners, str]] = []
    for place, (name, (boxes, colours)) in enumerate(sorted(objects.items())):
        counted = {int(one) for one in keep(boxes, verdict.tag, DetectionRule())}
        # The best is drawn last, over the others.
        for number in sorted(range(len(boxes)), key=lambda one: float(boxes[one, 4])):
            # A run may come from anywhere: what lies outside of the picture is not drawn there.
            left, right = (float(one) for one in np.clip(boxes[number, [0, 2]], 0, wide))
            top, bottom = (float(one) for one in np.clip(boxes[number, [1, 3]], 0, high))
            if left > right or top > bottom:
                continue
            sure = float(boxes[number, 4])
            colour = _COLOURS[place % len(_COLOURS)] if number in counted else _OTHER
            corners = (
                left * x,
                top * y,
                max(left * x, right * x - 1),
                max(top * y, bottom * y - 1),
            )
            canvas.rectangle(corners, outline=colour, width=line if number in counted else 1)
            words = " ".join(part for part in (colours.get(number), name, f"{sure:.2f}") if part)
            labels.append((words, corners, colour))
    taken: list[_Corners] = []
    for words, corners, colour in reversed(labels):  # the best of a class has the first choice
        taken.append(_label(canvas, words, corners, colour, font, image.size, taken))
    return picture


def _label(
    canvas: ImageDraw.ImageDraw,
    words: str,
    corners: _Corners,
    colour: str,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    size: tuple[int, int],
    taken: Sequence[_Corners],
) -> _Corners:
    """Write over the box, or inside it where the picture ends; always inside the picture.

    A label goes down where others have taken its place, as far as there is room.
    """
    left, top, right, bottom = canvas.textbbox((0, 0), words, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = min(max(0.0, corners[0]), max(0.0, size[0] - width))
    y = corners[1] - height if corners[1] >= height else corners[1]
    y = min(max(0.0, y), max(0.0, size[1] - height))
    while _is_taken((x, y, x + width, y + height), taken) and y + 2 * height <= size[1]:
        y += height
    canvas.rectangle((x, y, x + width, y + height), fill=colour)
    canvas.text((x + 2 - left, y + 2 - top), words, fill="white", font=font)
    return x, y, x + width, y + height


def _is_taken(place: _Corners, taken: Sequence[_Corners]) -> bool:
    return any(
        place[0] < other[2] and other[0] < place[2] and place[1] < other[3] and other[1] < place[3]
        for other in taken
    )
