"""What the routes share: the target of a request, bodies of limited size, pages of lists."""

import base64
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlencode

from fastapi import Request
from fastapi.responses import JSONResponse

from echo4o.sandbox.hub.access import Caller, Repo, identify, readable
from echo4o.sandbox.hub.errors import HubRefusal, repo_not_found, unsupported
from echo4o.sandbox.hub.names import KINDS
from echo4o.sandbox.hub.store import Store

JSON_LIMIT = 32 << 20
LINE_LIMIT = 16 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Who asks for which repo, and the decoded path segments after the verb."""

    store: Store
    caller: Caller
    repo: Repo
    revision: str
    path: str


def store_of(request: Request) -> Store:
    """The store of the app that serves the request."""
    store: Store = request.app.state.store
    return store


def caller_of(request: Request) -> Caller:
    """The account behind the request."""
    return identify(store_of(request), request.headers.get("authorization"))


def base_url(request: Request) -> str:
    """Scheme, host and port as the client addressed them."""
    return str(request.base_url).rstrip("/")


def segments(request: Request) -> list[str]:
    """The path split before it is decoded: `refs%2Fpr%2F1` stays one segment."""
    raw: bytes = request.scope["raw_path"]
    try:
        return [unquote(part, errors="strict") for part in raw.decode("ascii").split("/")[1:]]
    except UnicodeDecodeError as error:
        raise HubRefusal(400, "the path is not valid UTF-8") from error


def split_revision(parts: Sequence[str]) -> tuple[str, str]:
    """Revision and file path; `refs/pr/1` may also come undivided from a client."""
    if len(parts) >= 3 and parts[0] == "refs":
        return "/".join(parts[:3]), "/".join(parts[3:])
    return (parts[0] if parts else "main"), "/".join(parts[1:])


def api_target(request: Request) -> Target:
    """The target of `/api/{kinds}/{namespace}/{name}/{verb}/{revision}/{path}`."""
    _, kinds, namespace, name, *rest = segments(request)
    return _target(request, kinds, namespace, name, rest[1:])


def page_target(request: Request) -> Target:
    """The target of `/[{kinds}/]{namespace}/{name}/resolve/{revision}/{path}`."""
    parts = segments(request)
    if parts[0] not in ("datasets", "spaces"):
        parts.insert(0, "models")
    if parts[2] == "resolve":  # a repo without a namespace: none exists here
        raise repo_not_found(anonymous=caller_of(request).name is None)
    return _target(request, parts[0], parts[1], parts[2], parts[4:])


def _target(request: Request, kinds: str, namespace: str, name: str, rest: Sequence[str]) -> Target:
    if kinds not in KINDS:
        raise unsupported(f"repos of the kind {kinds!r}")
    store, caller = store_of(request), caller_of(request)
    repo = readable(store, caller, KINDS[kinds], namespace, name)
    revision, path = split_revision(rest)
    return Target(store=store, caller=caller, repo=repo, revision=revision, path=path)


async def read_json(request: Request) -> dict[str, object]:
    """The body as a JSON object of limited size."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > JSON_LIMIT:
            raise HubRefusal(413, f"the body has more than {JSON_LIMIT} bytes")
    try:
        value = json.loads(body or b"{}")
    except ValueError as error:
        raise HubRefusal(400, "the body is not valid JSON") from error
    if not isinstance(value, dict):
        raise HubRefusal(400, "the body must be a JSON object")
    return value


async def read_lines(request: Request) -> AsyncIterator[bytes]:
    """The lines of a body of any length, one at a time."""
    rest = bytearray()
    async for chunk in request.stream():
        rest += chunk
        if b"\n" in chunk:
            *lines, rest = rest.split(b"\n")
            for line in lines:
                if line.strip():
                    yield bytes(line)
        if len(rest) > LINE_LIMIT:
            raise HubRefusal(413, f"one line has more than {LINE_LIMIT} bytes; use LFS")
    if rest.strip():
        yield bytes(rest)


def flag(value: object) -> bool:
    """A boolean as query strings and forms spell it."""
    return str(value).lower() in ("1", "true")


def page(request: Request, items: Sequence[object], *, default: int, most: int) -> JSONResponse:
    """One page of a list; the Link header leads to the next, as on the real Hub."""
    query = dict(request.query_params)
    try:
        start = int(base64.urlsafe_b64decode(query.get("cursor", "MA==")))
        size = int(query.get("limit", default))
    except ValueError as error:
        raise HubRefusal(400, "`limit` or `cursor` is not valid") from error
    if start < 0 or size < 1:
        raise HubRefusal(400, "`limit` must be positive")
    end = start + min(size, most)
    headers = {}
    if end < len(items):
        cursor = base64.urlsafe_b64encode(str(end).encode()).decode()
        pairs = [pair for pair in request.query_params.multi_items() if pair[0] != "cursor"]
        url = f"{base_url(request)}{_raw_path(request)}?{urlencode([*pairs, ('cursor', cursor)])}"
        headers["Link"] = f'<{url}>; rel="next"'
    return JSONResponse(items[start:end], headers=headers)


def _raw_path(request: Request) -> str:
    return bytes(request.scope["raw_path"]).decode("ascii")
