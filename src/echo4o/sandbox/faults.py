"""Faults on purpose: latency, 429, 5xx, cut replies, refusals, garbage, wrong or unsafe pictures.

Every fault can be replayed. Transport faults follow from (seed, content of the request, attempt
number of that content); outcomes (refuse, garbage or flag of a judge, misalign) from (seed,
content) alone, because they decide what is bought, and a purchase must not depend on when a client
was killed.
"""

import asyncio
import hashlib
import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

from ..errors import Echo4oError
from ..limits import duration

TransportFault = Literal["429", "500", "503", "cut", "truncate", "garbage"]
OutcomeFault = Literal["refuse", "garbage", "misalign", "flag"]
Style = Literal["openai", "hub"]

Scope = dict[str, Any]
Message = dict[str, Any]
# `abort(client, reset)` ends the TCP connection of a client, by reset or in the ordinary way.
Abort = Callable[[Any, bool], None]

_OUTCOMES = ("refuse", "garbage", "misalign", "flag")
_SHARES = ("429", "500", "503", "cut", "truncate", "expire", *_OUTCOMES)
_KNOWN = (*_SHARES, "latency", "retry_after", "rpm", "burst", "silent", "seed")
# Of larger bodies only the start and the length count as content: uploads stay streams.
_CONTENT_BYTES = 1 << 20
_BOUNDARY = re.compile(rb"boundary=\"?([^\";]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults:
    """What goes wrong and how often."""

    seed: int = 0
    """Another seed, other faults."""
    shares: tuple[tuple[str, float], ...] = ()
    """Probability in [0, 1] by kind of fault."""
    latency_s: float = 0.0
    """Added to every reply."""
    retry_after_s: float = 0.1
    """What a 429 asks the client to wait."""
    requests_per_minute: float | None = None
    """A real limit, by clock: more are answered 429."""
    burst: float | None = None
    """Most of these requests at once; None allows a whole minute's."""
    is_silent: bool = False
    """No x-ratelimit headers: a client finds the limit out by its 429 answers."""

    def __post_init__(self) -> None:
        for name, share in self.shares:
            if not 0 <= share <= 1:
                raise Echo4oError(f"fault {name!r} needs a share between 0 and 1, got {share}")
        for kinds in (("429", "500", "503", "cut", "truncate"), _OUTCOMES):
            if sum(self._share(kind) for kind in kinds) > 1:
                raise Echo4oError(f"the shares of {', '.join(kinds)} must sum to at most 1")

    @classmethod
    def parse(cls, spec: str) -> Self:
        """Read "429=0.05,cut=0.01,latency=200ms,seed=7"; "" means no faults.

        Raises:
            Echo4oError: a key or value that makes no sense; names the known keys.
        """
        pairs: dict[str, str] = {}
        for part in filter(None, (part.strip() for part in spec.split(","))):
            name, separator, value = part.partition("=")
            if not separator or name.strip() not in _KNOWN:
                raise Echo4oError(f"unknown fault {part!r}; known: {', '.join(_KNOWN)} (key=value)")
            if name.strip() in pairs:
                raise Echo4oError(f"fault {name.strip()!r} is given twice")
            pairs[name.strip()] = value.strip()
        shares = tuple((name, _number(name, pairs[name])) for name in _SHARES if name in pairs)
        return cls(
            seed=int(_number("seed", pairs.get("seed", "0"))),
            shares=shares,
            latency_s=_seconds("latency", pairs.get("latency", "0s")),
            retry_after_s=_seconds("retry_after", pairs.get("retry_after", "100ms")),
            requests_per_minute=_number("rpm", pairs["rpm"]) if "rpm" in pairs else None,
            burst=_number("burst", pairs["burst"]) if "burst" in pairs else None,
            is_silent=_number("silent", pairs.get("silent", "0")) > 0,
        )

    @property
    def is_quiet(self) -> bool:
        """True when the transport behaves."""
        quiet = not any(share for _, share in self.shares)
        return quiet and not self.latency_s and self.requests_per_minute is None

    def transport(self, content: str, attempt: int) -> TransportFault | None:
        """What happens to this attempt (from 1) on its way."""
        kinds = ("429", "500", "503", "cut", "truncate", "garbage")
        return self._draw(f"{content}|{attempt}", kinds)

    def expires(self, content: str, attempt: int) -> bool:
        """Whether a batch ends before its turn comes to this line."""
        return self._draw(f"{content}|{attempt}|batch", ("expire",)) is not None

    def outcome(self, content: str, *, kinds: tuple[OutcomeFault, ...]) -> OutcomeFault | None:
        """What the service does wrong with this content, every time it is asked."""
        return self._draw(f"{content}|outcome", kinds)

    def _share(self, kind: str) -> float:
        return dict(self.shares).get(kind, 0.0)

    def _draw(self, what: str, kinds: tuple[Any, ...]) -> Any:
        digest = hashlib.sha256(f"{self.seed}|{what}".encode()).digest()
        point = int.from_bytes(digest[:8], "big") / 2**64
        for kind in kinds:
            point -= self._share(kind)
            if point < 0:
                return kind
        return None


class FaultMiddleware:
    """ASGI middleware that puts `Faults` into effect for one server.

    Sets `scope["echo4o.lost"]` when the reply of this request will not reach the client whole.
    """

    def __init__(
        self, app: Any, faults: Faults, *, style: Style, abort: Abort | None = None
    ) -> None:
        self._app = app
        self._faults = faults
        self._style = style
        self._abort = abort
        self._attempts: Counter[str] = Counter()
        self._allowance = _Allowance(faults.requests_per_minute, faults.burst)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Serve one request, or fail to."""
        if scope["type"] != "http" or scope["path"] == "/healthz":
            await self._app(scope, receive, send)
            return
        send = self._with_rate_headers(scope, send)
        if self._faults.is_quiet:
            await self._app(scope, receive, send)
            return
        content, receive = await _content(scope, receive)
        self._attempts[content] += 1
        fault = self._faults.transport(content, self._attempts[content])
        if self._faults.latency_s:
            await asyncio.sleep(self._faults.latency_s)
        if not self._allowance.take():
            await self._answer(send, 429, after_s=self._allowance.reset_s)
        elif fault in ("429", "500", "503"):
            after_s = self._faults.retry_after_s if fault == "429" else None
            await self._answer(send, int(fault), after_s=after_s)
        elif fault in ("cut", "truncate"):
            await self._lose(scope, receive, send, reset=fault == "cut")
        elif fault == "garbage" and scope["path"].startswith("/v1/images/"):
            await _html(send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, send: Any, status: int, *, after_s: float | None) -> None:
        words = {429: "Rate limit reached", 500: "Internal error", 503: "Overloaded"}
        message = f"{words[status]} (injected by the sandbox); try again later."
        code = {429: "rate_limit_exceeded"}.get(status)
        kind = "requests" if status == 429 else "server_error"
        error: object = message
        if self._style == "openai":
            error = {"message": message, "type": kind, "param": None, "code": code}
        headers = [(b"content-type", b"application/json")]
        if after_s is not None:
            headers.append((b"retry-after", str(math.ceil(after_s)).encode()))
            headers.append((b"retry-after-ms", str(math.ceil(after_s * 1000)).encode()))
        await _respond(send, status, headers, json.dumps({"error": error}).encode())

    async def _lose(self, scope: Scope, receive: Any, send: Any, *, reset: bool) -> None:
        """Let the app answer, pass on half of the body, and end the connection."""
        scope["echo4o.lost"] = True
        messages: list[Message] = []

        async def collect(message: Message) -> None:
            messages.append(message)

        await self._app(scope, receive, collect)
        body = b"".join(message.get("body", b"") for message in messages[1:])
        await send(messages[0])
        await send(
            {"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True}
        )
        if self._abort is None:
            raise ConnectionResetError("the sandbox cut this reply")
        await asyncio.sleep(0.005)  # the first half leaves this machine before the end does
        self._abort(scope.get("client"), reset)
        while (await receive())["type"] != "http.disconnect":
            pass

    def _with_rate_headers(self, scope: Scope, send: Any) -> Any:
        if self._style != "openai" or scope["method"] != "POST" or self._faults.is_silent:
            return send

        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *self._allowance.headers()]}
            await send(message)

        return add


class _Allowance:
    """Token bucket: `per_minute` requests, at most `burst` at once."""

    def __init__(self, per_minute: float | None, burst: float | None) -> None:
        self._limit = per_minute
        self._most = per_minute or 0.0 if burst is None else burst
        self._left = self._most
        self._at = time.monotonic()

    def take(self) -> bool:
        if self._limit is None:
            return True
        self._refill()
        if self._left < 1:
            return False
        self._left -= 1
        return True

    @property
    def reset_s(self) -> float:
        """Seconds until one request is allowed again."""
        return max(0.0, 1 - self._left) * 60 / (self._limit or 60.0)

    def headers(self) -> list[tuple[bytes, bytes]]:
        limit, left, full = 1_000_000.0, 999_999.0, 0.0
        if self._limit is not None:
            self._refill()
            limit, left = self._limit, self._left
            full = (self._most - left) * 60 / limit
        return [
            (b"x-ratelimit-limit-requests", str(int(limit)).encode()),
            (b"x-ratelimit-remaining-requests", str(int(left)).encode()),
            (b"x-ratelimit-reset-requests", f"{math.ceil(full * 1000)}ms".encode()),
        ]

    def _refill(self) -> None:
        now = time.monotonic()
        limit = self._limit or 0.0
        self._left = min(self._most, self._left + (now - self._at) * limit / 60)
        self._at = now


def content_key(method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes) -> str:
    """Hash of what a request asks, without what differs between two sendings of it.

    The client's own request id belongs to it: it tells two purchases of the same thing apart.
    """
    facts = dict(headers)
    found = _BOUNDARY.search(facts.get(b"content-type", b""))
    if found is not None:
        body = body.replace(found[1], b"boundary")
    identity = facts.get(b"x-client-request-id", b"")
    head = f"{method} {path}\n".encode() + identity + b"\n"
    return hashlib.sha256(head + body).hexdigest()


async def _content(scope: Scope, receive: Any) -> tuple[str, Any]:
    """Content key of a request, and a `receive` that gives its body again."""
    messages: list[Message] = []
    size = 0
    while size < _CONTENT_BYTES:
        messages.append(await receive())
        size += len(messages[-1].get("body", b""))
        if not messages[-1].get("more_body", False):
            break
    body = b"".join(message.get("body", b"") for message in messages)[:_CONTENT_BYTES]
    path = scope["path"] + "?" + scope["query_string"].decode("latin-1")
    key = content_key(scope["method"], path, scope["headers"], body)
    pending = iter(messages)

    async def replay() -> Message:
        message = next(pending, None)
        return await receive() if message is None else message

    return key, replay


async def _respond(send: Any, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _html(send: Any) -> None:
    body = b"<html><body><h1>It works!</h1></body></html>"
    await _respond(send, 200, [(b"content-type", b"text/html")], body)


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise Echo4oError(f"fault {name!r} needs a number of 0 or more, got {text!r}")
    return value


def _seconds(name: str, text: str) -> float:
    value = duration(text)
    if value is None:
        raise Echo4oError(f"fault {name!r} needs a time such as 200ms or 2s, got {text!r}")
    return value
