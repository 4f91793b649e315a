"""Reads the bodies of requests, with limits."""

import json
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile

from .images import MAX_REFERENCE_BYTES, MAX_REFERENCES
from .problems import ApiProblem, bad

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


def _check_length(request: Request, limit: int) -> None:
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise ApiProblem(413, f"The request has {length} bytes; at most {limit} are accepted.")
