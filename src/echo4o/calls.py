"""What can be asked of an OpenAI-compatible API, as values with a content key, and the reply."""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from .moderation import ModerationRequest as ModerationRequest
from .pictures import picture_facts, sniff_mime
from .prices import Price, PriceTable, parse_size, text_tokens

JsonDict = dict[str, object]
# Tokens that a message costs beyond its text.
MESSAGE_TOKENS = 4


class Estimate(NamedTuple):
    """Expected tokens and price of one call."""

    text: int
    images: int
    output: int
    cost_usd: float


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """One picture to be made; equal requests have equal keys."""

    model: str
    prompt: str
    size: str = "1024x1024"
    """"WIDTHxHEIGHT" in pixels, or "auto"."""
    quality: str = "auto"
    references: tuple[bytes, ...] = field(default=(), repr=False)
    """Encoded pictures in the order the prompt means; with any, the picture is an edit of them."""
    output_format: str = "png"
    """png, jpeg or webp."""
    repeat: int = 0
    """Tells several purchases of the same picture apart."""

    kind = "image"

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ValueError("`prompt` is empty; say what the picture shows")
        if self.size != "auto":
            parse_size(self.size)
        if len(self.references) > 16:
            raise ValueError(f"at most 16 references are possible, got {len(self.references)}")

    @cached_property
    def record(self) -> str:
        """The request as JSON, pictures by their SHA-256; this is what the key is made of."""
        return _canonical(
            {
                "kind": self.kind,
                "model": self.model,
                "prompt": self.prompt,
                "size": self.size,
                "quality": self.quality,
                "references": [hashlib.sha256(data).hexdigest() for data in self.references],
                "output_format": self.output_format,
                "repeat": self.repeat,
            }
        )

    @cached_property
    def key(self) -> str:
        """Content key: SHA-256 in hexadecimal."""
        return hashlib.sha256(self.record.encode()).hexdigest()

    @property
    def endpoint(self) -> str:
        """Where it is sent."""
        return "/v1/images/edits" if self.references else "/v1/images/generations"

    def body(self) -> JsonDict:
        """Parameters as JSON; references as data URLs, which only the Batch API is sent."""
        body: JsonDict = {"model": self.model, "prompt": self.prompt, "size": self.size}
        if self.quality != "auto":
            body["quality"] = self.quality
        if self.output_format != "png":
            body["output_format"] = self.output_format
        if self.references:
            body["images"] = [{"image_url": _data_url(data)} for data in self.references]
        return body

    def estimate(self, prices: PriceTable) -> Estimate:
        """Expected tokens and price."""
        price = prices.price(self.model)
        output = price.output_image_tokens(self.size, self.quality)
        return _estimate(price, text_tokens(self.prompt), self._image_tokens(price), output)

    def bound_usd(self, prices: PriceTable) -> float:
        """Price that this call cannot exceed; no tokenizer makes more tokens than bytes."""
        price = prices.price(self.model)
        output = price.output_image_tokens(self.size, self.quality)
        text = len(self.prompt.encode()) + MESSAGE_TOKENS
        return price.cost(text=text, images=self._image_tokens(price), output=output)

    def _image_tokens(self, price: Price) -> int:
        return _picture_tokens(price, self.references)


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """One question, with or without pictures; equal requests have equal keys."""

    model: str
    system: str | None = None
    user: tuple[str | bytes, ...]
    """Texts and encoded pictures in the order they are sent."""
    temperature: float | None = 0.0
    """None leaves it to the server."""
    max_tokens: int | None = None
    json_schema: JsonDict | None = None
    """JSON schema that the reply must follow; the reply's text is then JSON."""
    image_mime: str | None = None
    """Media type to declare for every picture; None declares the true one."""
    system_as_parts: bool = False
    """Send the system text as a list of one text part instead of a string."""
    repeat: int = 0
    """Tells several answers to the same question apart."""

    kind = "chat"

    def __post_init__(self) -> None:
        if not self.user:
            raise ValueError("`user` is empty; ask something")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"`max_tokens` must be 1 or more, got {self.max_tokens}")

    @cached_property
    def record(self) -> str:
        """The request as JSON, pictures by their SHA-256; this is what the key is made of."""
        parts = [
            part if isinstance(part, str) else {"sha256": hashlib.sha256(part).hexdigest()}
            for part in self.user
        ]
        return _canonical(
            {
                "kind": self.kind,
                "model": self.model,
                "system": self.system,
                "user": parts,
                "temperature": self.temperature,
                "max_tokens": self.max_tokens,
                "json_schema": self.json_schema,
                "image_mime": self.image_mime,
                "system_as_parts": self.system_as_parts,
                "repeat": self.repeat,
            }
        )

    @cached_property
    def key(self) -> str:
        """Content key: SHA-256 in hexadecimal."""
        return hashlib.sha256(self.record.encode()).hexdigest()

    @property
    def endpoint(self) -> str:
        """Where it is sent."""
        return "/v1/chat/completions"

    def body(self) -> JsonDict:
        """Parameters of chat/completions."""
        messages: list[JsonDict] = []
        if self.system is not None:
            text = {"type": "text", "text": self.system}
            content: object = [text] if self.system_as_parts else self.system
            messages.append({"role": "system", "content": content})
        messages.append({"role": "user", "content": [self._part(part) for part in self.user]})
        body: JsonDict = {"model": self.model, "messages": messages}
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self.max_tokens is not None:
            body["max_tokens"] = self.max_tokens
        if self.json_schema is not None:
            schema = {"name": "reply", "strict": True, "schema": self.json_schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def estimate(self, prices: PriceTable, *, output_tokens: int) -> Estimate:
        """Expected tokens and price of an answer of `output_tokens`."""
        price = prices.price(self.model)
        text = sum(map(text_tokens, self._texts())) + MESSAGE_TOKENS * self._messages()
        images = _picture_tokens(price, self._pictures())
        return _estimate(price, text, images, min(output_tokens, self._longest(price)))

    def bound_usd(self, prices: PriceTable) -> float:
        """Price that this call cannot exceed; no tokenizer makes more tokens than bytes."""
        price = prices.price(self.model)
        schema = len(_canonical(self.json_schema)) if self.json_schema else 0
        text = sum(len(part.encode()) for part in self._texts()) + schema
        # Replies do not tell text from picture tokens, so the dearer price bounds both.
        sent = text + 2 * MESSAGE_TOKENS * self._messages()
        sent += _picture_tokens(price, self._pictures())
        dearer = max(price.input_text, price.input_image)
        return (sent * dearer + self._longest(price) * price.output) / 1e6

    def _texts(self) -> list[str]:
        return [part for part in (self.system, *self.user) if isinstance(part, str)]

    def _pictures(self) -> tuple[bytes, ...]:
        return tuple(part for part in self.user if isinstance(part, bytes))

    def _messages(self) -> int:
        return 1 if self.system is None else 2

    def _longest(self, price: Price) -> int:
        return price.output_max_tokens if self.max_tokens is None else self.max_tokens

    def _part(self, part: str | bytes) -> JsonDict:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        return {"type": "image_url", "image_url": {"url": _data_url(part, self.image_mime)}}


Request = ImageRequest | ChatRequest | ModerationRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What came of a request."""

    outcome: Literal["done", "refused", "failed"]
    """`refused`: the service declined the content; `failed`: no usable reply, asked again next
    time."""
    reason: str | None = None
    """Why it was refused or failed."""
    text: str | None = None
    image: bytes | None = field(default=None, repr=False)
    """The picture exactly as received."""
    image_sha256: str | None = None
    request_id: str | None = None
    model: str
    """The model that answered, as the service names it."""
    usage: dict[str, int] = field(default_factory=dict)
    """Tokens: `text`, `images` and `output`, as far as the service says."""
    cost_usd: float = 0.0
    cached: bool = False
    """True when the ledger answered and nothing was called."""
    created: str = ""
    """Time of the reply by the service's clock (UTC, ISO 8601)."""
    attempts: int = 0


def _data_url(data: bytes, mime: str | None = None) -> str:
    mime = mime or sniff_mime(data) or "application/octet-stream"
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _picture_tokens(price: Price, pictures: tuple[bytes, ...]) -> int:
    facts = map(picture_facts, pictures)
    return sum(price.input_image_tokens(fact.width, fact.height) for fact in facts)


def _estimate(price: Price, text: int, images: int, output: int) -> Estimate:
    return Estimate(text, images, output, price.cost(text=text, images=images, output=output))
