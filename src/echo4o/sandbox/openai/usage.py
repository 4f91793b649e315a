"""Token counts of the sandbox, by these formulas.

- text: one token per four bytes of UTF-8, rounded up; four more per chat message;
- a picture sent: one token per 32x32 patch, at most 1536;
- a picture made: one token per 16x16 patch, times 1 (low), 2 (medium, auto) or 4 (high).
"""

import math
from typing import Any

_QUALITY = {"low": 1, "medium": 2, "auto": 2, "high": 4}


def text_tokens(text: str) -> int:
    """Tokens of a text."""
    return math.ceil(len(text.encode()) / 4)


def sent_picture_tokens(width: int, height: int) -> int:
    """Tokens of a picture that is sent, sides in pixels."""
    return min(1536, math.ceil(width / 32) * math.ceil(height / 32))


def made_picture_tokens(width: int, height: int, quality: str) -> int:
    """Tokens of a picture that is made, sides in pixels."""
    return math.ceil(width / 16) * math.ceil(height / 16) * _QUALITY[quality]


def image_usage(*, text: int, images: int, output: int) -> dict[str, Any]:
    """The `usage` object of the image endpoints."""
    return {
        "input_tokens": text + images,
        "input_tokens_details": {"text_tokens": text, "image_tokens": images},
        "output_tokens": output,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": output},
        "total_tokens": text + images + output,
    }


def chat_usage(*, prompt: int, completion: int) -> dict[str, Any]:
    """The `usage` object of chat completions."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }
