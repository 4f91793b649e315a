"""Reads the bodies of requests, with limits."""

import base64
import binascii
import json
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile

from .images import MAX_REFERENCE_BYTES, MAX_REFERENCES
from .problems import ApiProblem, bad, unsupported

_MAX_JSON_BYTES = 128 * 1024 * 1024
_MAX_FORM_BYTES = 200 * 1024 * 1024


async def read_json(request: Request) -> dict[str, Any]:
    """The body as a JSON object; 400 when it is none."""
    _check_length(request, _MAX_JSON_BYTES)
    try:
        body = parse_json(await request.body())
    except ValueError as error:
        raise ApiProblem(400, "We could not parse the JSON body of your request.") from error
    if not isinstance(body, dict):
        raise ApiProblem(400, "The body must be a JSON object.")
    return body


def parse_json(data: bytes) -> Any:
    """What a client sent as JSON.

    Raises:
        ValueError: no JSON, nested too deeply, or half a surrogate pair, which is no text.
    """
    try:
        value = json.loads(data)
        if b"\\ud" in data or b"\\uD" in data:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


async def read_form(request: Request) -> tuple[dict[str, Any], list[bytes]]:
    """Fields and the pictures of a multipart request, in order."""
    _check_length(request, _MAX_FORM_BYTES)
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise bad("image", "Edits take multipart/form-data.", "invalid_content_type")
    body: dict[str, Any] = {}
    uploads: list[bytes] = []
    async with request.form(max_files=MAX_REFERENCES + 2, max_part_size=1 << 20) as form:
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                body[name] = value
            elif name in ("image", "image[]"):
                if (value.size or 0) > MAX_REFERENCE_BYTES:
                    raise bad("image", f"A picture may have {MAX_REFERENCE_BYTES} bytes.")
                uploads.append(await value.read())
            else:
                body[name] = value.filename
    if not 1 <= len(uploads) <= MAX_REFERENCES:
        raise bad("image", f"Edits take 1 to {MAX_REFERENCES} pictures, got {len(uploads)}.")
    return body, uploads


def data_url(url: str, where: str) -> bytes:
    """The picture in a data URL; `where` names the parameter in an error."""
    if not url.startswith("data:"):
        raise unsupported(where, "pictures by address, only data URLs")
    head, separator, encoded = url.partition(",")
    if not separator or not head.endswith(";base64"):
        raise bad(where, "A data URL must be base64: data:image/png;base64,...")
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise bad(where, "The data URL holds no valid base64.") from error


def edit_line(body: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """Parameters and pictures of an edit in a batch, which comes as JSON."""
    pictures = body.get("images")
    if not isinstance(pictures, list) or not 1 <= len(pictures) <= MAX_REFERENCES:
        raise bad("images", f"Edits take 1 to {MAX_REFERENCES} pictures in 'images'.")
    urls = [one.get("image_url") if isinstance(one, dict) else None for one in pictures]
    if not all(isinstance(url, str) for url in urls):
        raise bad("images", "Each of 'images' needs an 'image_url'.")
    rest = {name: value for name, value in body.items() if name != "images"}
    return rest, [data_url(str(url), "images") for url in urls]


def _check_length(request: Request, limit: int) -> None:
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise ApiProblem(413, f"The request has {length} bytes; at most {limit} are accepted.")
