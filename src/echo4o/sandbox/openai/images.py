"""/v1/images/generations and /v1/images/edits: paints what the prompt says."""

import base64
import io
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from ...pictures import PictureError, picture_facts
from .. import world
from .problems import ApiProblem, bad, refuse_unknown, unsupported
from .safety import flagged
from .usage import image_usage, made_picture_tokens, sent_picture_tokens, text_tokens

if TYPE_CHECKING:
    from .service import Job

IMAGE_MODELS = ("sandbox-image",)
MAX_REFERENCES = 16
MAX_REFERENCE_BYTES = 50 * 1024 * 1024
MAX_REFERENCE_PIXELS = 40_000_000
MAX_PROMPT = 32_000
_SIDES = (32, 2048)
_KNOWN = (
    *("model", "prompt", "n", "size", "quality", "background", "output_format", "moderation"),
    *("output_compression", "user", "safety_identifier", "response_format", "stream"),
    *("partial_images", "mask", "input_fidelity", "image"),
)
_FORMATS: dict[str, str] = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}


def make_pictures(job: "Job", references: list[Image.Image]) -> dict[str, Any]:
    """Paint and encode; the reply of both endpoints."""
    body = job.body
    refuse_unknown(body, _KNOWN)
    prompt, count = _prompt(body), _whole(body, "n", 1, 1, 10)
    width, height = _size(body)
    quality = _choice(body, "quality", ("auto", "low", "medium", "high"))
    output_format = _choice(body, "output_format", tuple(_FORMATS), "png")
    _refuse_unsupported(body)
    compression = _whole(body, "output_compression", 100, 0, 100)
    outcome = job.outcome("refuse", "misalign")
    if outcome == "refuse":
        raise _refused("content_policy_violation", "image_generation_user_error")
    words = flagged(prompt)
    if words:
        raise _refused("moderation_blocked", "image_generation_user_error", words)
    data = []
    for number in range(count):
        try:
            picture = world.paint(
                prompt,
                width=width,
                height=height,
                seed=job.content.seed + number,
                references=references,
                misalign=outcome == "misalign",
            )
        except world.CrowdedError as error:
            raise bad("prompt", f"The sandbox cannot paint this: {error}.") from error
        encoded = _encode(picture, output_format, compression)
        data.append({"b64_json": base64.b64encode(encoded).decode()})
    text = text_tokens(prompt)
    sent = sum(sent_picture_tokens(*picture.size) for picture in references)
    made = made_picture_tokens(width, height, quality) * count
    job.charge(text, sent, made)
    return {
        "created": job.content.created,
        "background": "opaque",
        "data": data,
        "output_format": output_format,
        "quality": "medium" if quality == "auto" else quality,
        "size": f"{width}x{height}",
        "usage": image_usage(text=text, images=sent, output=made),
    }


def open_picture(data: bytes, param: str) -> Image.Image:
    """Decode a picture that a client sent; its header is looked at before its pixels.

    Raises:
        ApiProblem: too large, of another kind, or damaged.
    """
    if len(data) > MAX_REFERENCE_BYTES:
        raise bad(param, f"A picture may have {MAX_REFERENCE_BYTES} bytes, got {len(data)}.")
    try:
        facts = picture_facts(data)
        if facts.width * facts.height > MAX_REFERENCE_PIXELS:
            size = f"{facts.width}x{facts.height}"
            raise bad(param, f"A picture may have {MAX_REFERENCE_PIXELS} pixels, got {size}.")
        return Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "GIF")).convert("RGB")
    except PictureError as error:
        raise bad(param, f"Invalid image: {error}.", "invalid_image") from error
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise bad(param, "Invalid image: it does not decode.", "invalid_image") from error


def _encode(picture: Image.Image, output_format: str, compression: int) -> bytes:
    buffer = io.BytesIO()
    if output_format == "png":
        picture.save(buffer, "PNG", compress_level=4)
    else:
        picture.save(buffer, _FORMATS[output_format], quality=min(95, compression))
    return buffer.getvalue()


def _prompt(body: dict[str, Any]) -> str:
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise bad("prompt", "Missing required parameter: 'prompt'.", "missing_required_parameter")
    if len(prompt) > MAX_PROMPT:
        raise bad("prompt", f"A prompt may have {MAX_PROMPT} characters, got {len(prompt)}.")
    return prompt


def _size(body: dict[str, Any]) -> tuple[int, int]:
    size = body.get("size") or "auto"
    if size == "auto":
        return 1024, 1024
    parts = str(size).split("x")
    low, high = _SIDES
    if len(parts) == 2 and all(part.isdecimal() and len(part) < 6 for part in parts):
        width, height = int(parts[0]), int(parts[1])
        in_range = low <= min(width, height) and max(width, height) <= high
        if in_range and width % 16 == height % 16 == 0:
            return width, height
    raise bad(
        "size", f"'size' must be WIDTHxHEIGHT, multiples of 16, {low} to {high}; got {size!r}."
    )


def _choice(
    body: dict[str, Any], name: str, allowed: tuple[str, ...], default: str = "auto"
) -> str:
    value = body.get(name) or default
    if value not in allowed:
        raise bad(name, f"'{name}' must be one of {', '.join(allowed)}; got {value!r}.")
    return str(value)


def _whole(body: dict[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = body.get(name)
    value = default if value is None else value
    # Multipart forms carry numbers as text.
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise bad(name, f"'{name}' must be a whole number from {low} to {high}; got {value!r}.")
    return value


def _refuse_unsupported(body: dict[str, Any]) -> None:
    if body.get("stream") not in (None, False, "false") or body.get("partial_images"):
        raise unsupported("stream", "streaming of pictures")
    if body.get("mask") is not None:
        raise unsupported("mask", "masks")
    if body.get("response_format") not in (None, "b64_json"):
        raise bad("response_format", "Pictures are always returned as b64_json.")
    if body.get("background") not in (None, "auto", "opaque"):
        raise unsupported("background", "transparent backgrounds")
    _choice(body, "moderation", ("auto", "low"))
    _choice(body, "input_fidelity", ("low", "high"), "low")


def _refused(
    code: Literal["content_policy_violation", "moderation_blocked"],
    kind: str,
    categories: list[str] | None = None,
) -> ApiProblem:
    why = f" safety_violations={categories}." if categories else ""
    message = f"Your request was rejected by the safety system.{why}"
    return ApiProblem(400, message, code=code, kind=kind)
