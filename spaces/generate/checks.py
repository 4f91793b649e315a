"""What the server refuses, whoever asks: the page and the API pass through the same checks.

Every refusal is one sentence with the limit and the value; values are cut short, never a path.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from gradio.utils import get_upload_folder
from PIL import Image, ImageOps

PROMPT_CHARACTERS = 2_000
QUESTION_CHARACTERS = 1_000
MAX_PICTURES = 4
MAX_STEPS = 100
MAX_SEED = 2**31 - 1
MAX_GUIDANCE = 20.0
UPLOAD_BYTES = 10 * 1024 * 1024
UPLOAD_PIXELS = 25_000_000
UPLOAD_SIDE = 16
UPLOAD_RATIO = 8
FORMATS = ("PNG", "JPEG", "WEBP")
ASPECTS: dict[str, tuple[int, int]] = {
    "Square 1:1": (1, 1),
    "Landscape 4:3": (4, 3),
    "Portrait 3:4": (3, 4),
    "Wide 16:9": (16, 9),
    "Tall 9:16": (9, 16),
}
AS_REFERENCE = "Like the last picture"
FAST, BEST = "Fast", "Quality"
STEPS = {FAST: 25, BEST: 49}
"""Steps of each way to work, unless asked otherwise."""
CAPTION_CHARACTERS = 80
GUIDANCE = 4.0


class Refusal(ValueError):
    """The request cannot be served; the message is for the visitor."""


def text(value: object, what: str, limit: int) -> str:
    """A prompt or question without control characters, 1 to `limit` characters long."""
    if not isinstance(value, str):
        raise Refusal(f"The {what} must be text, not {_kind(value)}.")
    cleaned = "".join(c if c.isprintable() or c == "\n" else " " for c in value).strip()
    if not cleaned:
        raise Refusal(f"The {what} is empty: write a sentence first.")
    if len(cleaned) > limit:
        raise Refusal(f"The {what} has {len(cleaned):,} characters; at most {limit:,} are read.")
    return cleaned


def whole(value: object, what: str, low: int, high: int) -> int:
    """A whole number in [low, high]."""
    number_ = number(value, what, low, high)
    if number_ != int(number_):
        raise Refusal(f"The {what} must be a whole number, got {number_:g}.")
    return int(number_)


def number(value: object, what: str, low: float, high: float) -> float:
    """A finite number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Refusal(f"The {what} must be a number from {low:,} to {high:,}, not {_kind(value)}.")
    if not low <= value <= high:
        raise Refusal(f"The {what} must be from {low:,} to {high:,}, got {value:,}.")
    return float(value)


def switch(value: object, what: str) -> bool:
    """True or false, nothing that only resembles it."""
    if not isinstance(value, bool):
        raise Refusal(f"The {what} must be true or false, not {_kind(value)}.")
    return value


def aspect(value: object, *, reference: Image.Image | None = None) -> tuple[float, float]:
    """Width and height in proportion, from a name or from the last reference picture."""
    if value == AS_REFERENCE and reference is not None:
        return reference.width, reference.height
    if not isinstance(value, str) or value not in ASPECTS:
        raise Refusal(f"The aspect must be one of {', '.join(ASPECTS)}; got {_kind(value)}.")
    return ASPECTS[value]


def size(proportion: tuple[float, float], longest: int, unit: int) -> tuple[int, int]:
    """Width and height in pixels: multiples of `unit`, the long side at most `longest`."""
    scale = longest / max(proportion)
    width, height = (max(unit, round(side * scale / unit) * unit) for side in proportion)
    return min(width, longest), min(height, longest)


def quality(value: object) -> str:
    """How to work."""
    if not isinstance(value, str) or value not in STEPS:
        raise Refusal(f"The quality must be {FAST} or {BEST}; got {_kind(value)}.")
    return value


def picture(path: object, what: str) -> Image.Image:
    """Decode an uploaded picture, after its size on disk and in pixels was checked."""
    if not isinstance(path, str) or not is_upload(path):
        raise Refusal(f"The {what} is missing: upload a PNG, JPEG or WebP file.")
    megabytes = Path(path).stat().st_size / 1024 / 1024
    if megabytes * 1024 * 1024 > UPLOAD_BYTES:
        raise Refusal(f"The {what} has {megabytes:.0f} MB; at most 10 MB are taken.")
    try:
        with Image.open(path, formats=FORMATS) as opened:
            _check_sides(opened.width, opened.height, what)
            opened.load()
            return ImageOps.exif_transpose(opened)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(what) from error
    except ValueError as error:
        raise error if isinstance(error, Refusal) else _unreadable(what) from error


def is_upload(path: str) -> bool:
    """Whether a file lies where Gradio puts uploads: a request may name any path of this machine.

    Gradio looks at this itself only for paths that the request declares to be files.
    """
    real = Path(path).resolve()
    return real.is_relative_to(Path(get_upload_folder()).resolve()) and real.is_file()


def pictures(paths: Sequence[object]) -> list[Image.Image]:
    """The reference pictures in order; empty places between them are left out."""
    found = [
        picture(path, f"picture {place}") for place, path in enumerate(paths, 1) if path is not None
    ]
    if not found:
        raise Refusal("There is no picture yet: add one to four, in the order your prompt means.")
    return found


def captioned(prompt: str, captions: Sequence[object]) -> str:
    """The prompt with what each reference shows in front of it; one caption per reference."""
    named = [
        f"image {place} is {text(caption, f'caption of image {place}', CAPTION_CHARACTERS)}"
        for place, caption in enumerate(captions, 1)
        if caption not in (None, "")
    ]
    whole_ = f"I{', '.join(named)[1:]}. {prompt}" if named else prompt
    return text(whole_, "prompt with its captions", PROMPT_CHARACTERS)


def _check_sides(width: int, height: int, what: str) -> None:
    if width * height > UPLOAD_PIXELS:
        raise Refusal(f"The {what} has {width * height / 1e6:.0f} megapixels; at most 25 are read.")
    if min(width, height) < UPLOAD_SIDE:
        raise Refusal(f"The {what} is {width} x {height} pixels; both sides need at least 16.")
    if max(width, height) > UPLOAD_RATIO * min(width, height):
        raise Refusal(f"The {what} is {width} x {height} pixels: too long and narrow (8 to 1).")


def _unreadable(what: str) -> Refusal:
    return Refusal(f"The {what} cannot be read: it must be a whole PNG, JPEG or WebP file.")


def _kind(value: object) -> str:
    if isinstance(value, str):
        # The page shows messages as HTML, so nothing that could be markup is repeated.
        return f"'{''.join(c if c.isalnum() or c in ' .,:_-' else '?' for c in value[:40])}'"
    return "nothing" if value is None else type(value).__name__
