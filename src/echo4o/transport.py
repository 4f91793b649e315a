"""One HTTP call through the openai SDK, its answer or failure put in our words; keeps nothing."""

import base64
import contextlib
import dataclasses
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from .calls import ChatRequest, ModerationRequest, Request
from .errors import Echo4oError, shown_address
from .limits import retry_after
from .moderation import flagged_categories
from .pictures import PictureError, picture_facts, sniff_mime

if TYPE_CHECKING:
    from openai import APIConnectionError, APIStatusError, AsyncOpenAI

# Error codes with which services decline a content; everything else about a 400 is a bad request.
REFUSAL_CODES = ("content_policy_violation", "moderation_blocked", "content_filter")
_RETRIED = (408, 409, 425, 429)
_LONGEST_REASON = 500
# JSON can name half of a character; no file and no database can keep it.
_HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")


class Transient(Exception):
    """An attempt that may be repeated."""

    def __init__(
        self,
        reason: str,
        *,
        may_be_billed: bool,
        after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        is_rate_limit: bool = False,
    ) -> None:
        super().__init__(reason)
        self.may_be_billed = may_be_billed
        self.after_s = after_s
        """Seconds the server asks to wait."""
        self.headers = headers or {}
        self.is_rate_limit = is_rate_limit


class Rejected(Exception):
    """The service will never accept this request; others may be fine."""

    def __init__(self, reason: str, *, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A usable reply of the service, or its refusal."""

    outcome: Literal["done", "refused"]
    model: str
    created: str
    headers: Mapping[str, str] = field(repr=False)
    request_id: str | None = None
    reason: str | None = None
    text: str | None = None
    image: bytes | None = field(default=None, repr=False)
    usage: dict[str, int] = field(default_factory=dict)
    is_free: bool = False
    """True when the service declined before doing anything."""


async def ask(client: "AsyncOpenAI", request: Request) -> Answer:
    """Send one request once.

    Raises:
        Transient: try again; says when, and whether the attempt may have been billed.
        Rejected: this request can never work.
        Echo4oError: no request can work until the user changes something.
    """
    import openai

    try:
        response = await _send(client, request)
    except openai.APIStatusError as error:
        return _read_error(error, request, client)
    except openai.APIConnectionError as error:
        raise _connection_failure(error) from error
    document = _json_object(response.content)
    return read_answer(request.kind, request.model, document, response.headers)


def read_answer(
    kind: str, model: str, document: Mapping[str, Any], headers: Mapping[str, str]
) -> Answer:
    """The answer in the body of a reply with status 200; `kind` is that of the request.

    Raises:
        Transient: the body is not what was asked for.
    """
    readers = {"image": _read_image, "chat": _read_chat, "moderation": _read_moderation}
    return readers[kind](document, headers, model)


async def _send(client: "AsyncOpenAI", request: Request) -> Any:
    """The raw HTTP response; the SDK's models would cost more time than the call."""
    # A documented header for one's own id; servers log it, so a bill can be matched to the ledger.
    identity = {"X-Client-Request-Id": request.key}
    if isinstance(request, ChatRequest):
        chat = client.chat.completions.with_raw_response
        raw = await chat.create(**request.body(), extra_headers=identity)
        return raw.http_response
    if isinstance(request, ModerationRequest):
        moderations = client.moderations.with_raw_response
        raw = await moderations.create(**request.body(), extra_headers=identity)
        return raw.http_response
    images = client.images.with_raw_response
    if request.references:
        files = [_upload(number, data) for number, data in enumerate(request.references, 1)]
        fields = dataclasses.replace(request, references=()).body()
        raw = await images.edit(image=files, **fields, extra_headers=identity)
    else:
        raw = await images.generate(**request.body(), extra_headers=identity)
    return raw.http_response


def _upload(number: int, data: bytes) -> tuple[str, bytes, str]:
    mime = sniff_mime(data)
    if mime is None:
        raise Rejected(f"reference {number} is no PNG, JPEG, WebP or GIF picture")
    return f"{number}.{mime.removeprefix('image/')}", data, mime


def _read_image(document: Mapping[str, Any], headers: Mapping[str, str], model: str) -> Answer:
    try:
        image = base64.b64decode(document["data"][0]["b64_json"], validate=True)
        picture_facts(image)
    except (KeyError, IndexError, TypeError, ValueError, PictureError) as error:
        raise Transient(
            f"the reply holds no whole picture ({type(error).__name__}: {error})",
            may_be_billed=True,
        ) from error
    usage = document.get("usage")
    tokens: dict[str, int] = {}
    if isinstance(usage, dict):
        details = usage.get("input_tokens_details")
        images = _count(details.get("image_tokens")) if isinstance(details, dict) else 0
        sent = _count(usage.get("input_tokens"))
        tokens = {
            "text": max(0, sent - images),
            "images": images,
            "output": _count(usage.get("output_tokens")),
        }
    return Answer(
        outcome="done",
        model=whole(document.get("model") or model),
        created=_moment(document),
        headers=headers,
        request_id=headers.get("x-request-id"),
        image=image,
        usage=tokens,
    )


def _read_chat(document: Mapping[str, Any], headers: Mapping[str, str], model: str) -> Answer:
    try:
        choice = document["choices"][0]
        message = choice["message"]
        text, refusal = message.get("content"), message.get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise Transient("the reply holds no message", may_be_billed=True) from error
    usage = document.get("usage")
    tokens: dict[str, int] = {}
    if isinstance(usage, dict):
        sent, output = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
        tokens = {"text": sent, "images": 0, "output": output}
    filtered = choice.get("finish_reason") == "content_filter"
    reason = whole(refusal) if refusal else ("content_filter" if filtered else None)
    return Answer(
        outcome="done" if reason is None else "refused",
        model=whole(document.get("model") or model),
        created=_moment(document),
        headers=headers,
        request_id=headers.get("x-request-id"),
        reason=reason,
        text=None if text is None else whole(text),
        usage=tokens,
    )


def _read_moderation(document: Mapping[str, Any], headers: Mapping[str, str], model: str) -> Answer:
    try:
        flagged = flagged_categories(document)
    except ValueError as error:
        raise Transient(f"the reply is no moderation ({error})", may_be_billed=True) from error
    return Answer(
        outcome="done",
        model=whole(document.get("model") or model),
        created="",
        headers=headers,
        request_id=headers.get("x-request-id"),
        text=json.dumps(flagged),
    )


def _read_error(error: "APIStatusError", request: Request, client: "AsyncOpenAI") -> Answer:
    body = error.body if isinstance(error.body, dict) else {"message": error.message}
    headers = error.response.headers
    return read_problem(error.status_code, body, headers, model=request.model, client=client)


def read_problem(
    status: int,
    body: Mapping[str, Any],
    headers: Mapping[str, str],
    *,
    model: str | None,
    client: "AsyncOpenAI",
) -> Answer:
    """The refusal that an error status and its `error` object mean; everything else is raised.

    Without a `model` nothing can be refused: what was sent was no content.

    Raises:
        Transient, Rejected, Echo4oError: as `ask` does.
    """
    code = str(body.get("code") or body.get("type") or "")
    message = clean(str(body.get("message") or "no reason given"), client.api_key)
    if status == 400 and code in REFUSAL_CODES and model is not None:
        return Answer(
            outcome="refused",
            model=model,
            created="",
            headers=headers,
            request_id=headers.get("x-request-id"),
            reason=f"{code}: {message}",
            is_free=True,
        )
    place = shown_address(client.base_url)
    if code == "insufficient_quota":
        raise Echo4oError(f"the account has no credit left: {message}")
    if status == 401:
        raise Echo4oError(f"{place} refused the API key; set OPENAI_API_KEY")
    if status == 403:
        raise Echo4oError(f"{place} does not allow this key to do that: {message}")
    if status == 404 and model is not None:
        raise Echo4oError(f"{place} has no model {model!r}: {message}")
    reason = f"{status} {message}"
    if status in _RETRIED or status >= 500:
        raise Transient(
            reason,
            # A gateway that gave up waiting does not know what the service behind it did.
            may_be_billed=status in (408, 504),
            after_s=retry_after(headers),
            headers=headers,
            is_rate_limit=status == 429,
        )
    raise Rejected(reason, status=status)


@contextlib.asynccontextmanager
async def translated(client: "AsyncOpenAI", model: str | None) -> AsyncIterator[None]:
    """Errors of the SDK inside come out as `Transient`, `Rejected` or `Echo4oError`."""
    import httpx2
    import openai

    try:
        yield
    except openai.APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {"message": error.message}
        headers = error.response.headers
        answer = read_problem(error.status_code, body, headers, model=model, client=client)
        raise Rejected(str(answer.reason)) from error
    except openai.APIConnectionError as error:
        raise _connection_failure(error) from error
    except (httpx2.TransportError, openai.APIError) as error:
        # The body of a reply broke off, or was none.
        raise Transient(f"{type(error).__name__}: {error}", may_be_billed=True) from error


def _connection_failure(error: "APIConnectionError") -> Transient:
    import httpx2

    cause = error.__cause__
    never_sent = isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
    reason = f"{type(cause or error).__name__}: {clean(str(cause or error), '')}"
    failure = Transient(reason, may_be_billed=not never_sent)
    nobody = isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout)
    return Unreachable(reason) if nobody else failure


class Unreachable(Transient):
    """Nothing listens at the address, or its name is unknown."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, may_be_billed=False)


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Transient(
            f"the reply of {len(content)} bytes is no JSON", may_be_billed=True
        ) from error
    if not isinstance(document, dict):
        raise Transient("the reply is no JSON object", may_be_billed=True)
    return document


def whole(text: object) -> str:
    """A text of the service as it can be kept."""
    return _HALF_A_CHARACTER.sub("\ufffd", str(text))


def _moment(document: Mapping[str, Any]) -> str:
    """The service's own time; ours only when it does not say."""
    created = document.get("created")
    if isinstance(created, int | float) and 0 < created < 1e11:
        return datetime.fromtimestamp(created, UTC).isoformat(timespec="seconds")
    return datetime.now(UTC).isoformat(timespec="seconds")


def _count(value: object) -> int:
    return int(value) if isinstance(value, int | float) and 0 <= value < 1e12 else 0


def clean(message: str, api_key: str) -> str:
    """A message fit for a file: one line, not too long, without the key."""
    line = " ".join(whole(message).split())
    if api_key:
        line = line.replace(api_key, "(key)")
    return line[:_LONGEST_REASON]
