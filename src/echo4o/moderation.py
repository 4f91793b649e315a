"""What is asked of a moderation endpoint about a text and its picture, and what it answers."""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .pictures import picture_facts, sniff_mime
from .prices import PriceTable

_MOST_CATEGORIES = 64
_LONGEST_NAME = 60


@dataclass(frozen=True, kw_only=True)
class ModerationRequest:
    """One text with its picture; equal requests have equal keys."""

    model: str
    text: str
    picture: bytes = field(repr=False)
    """Encoded picture."""

    kind = "moderation"
    endpoint = "/v1/moderations"

    @cached_property
    def record(self) -> str:
        """The request as JSON, the picture by its SHA-256; this is what the key is made of."""
        asked = {
            "kind": self.kind,
            "model": self.model,
            "text": self.text,
            "picture": hashlib.sha256(self.picture).hexdigest(),
        }
        return json.dumps(asked, sort_keys=True, ensure_ascii=False, separators=(",", ":"))

    @cached_property
    def key(self) -> str:
        """Content key: SHA-256 in hexadecimal."""
        return hashlib.sha256(self.record.encode()).hexdigest()

    def body(self) -> dict[str, Any]:
        """Parameters of moderations."""
        mime = sniff_mime(self.picture) or "application/octet-stream"
        url = f"data:{mime};base64,{base64.b64encode(self.picture).decode()}"
        return {
            "model": self.model,
            "input": [
                {"type": "text", "text": self.text},
                {"type": "image_url", "image_url": {"url": url}},
            ],
        }

    def bound_usd(self, prices: PriceTable) -> float:
        """Price that this call cannot exceed; services that moderate for nothing have price 0."""
        price, facts = prices.price(self.model), picture_facts(self.picture)
        tokens = price.input_image_tokens(facts.width, facts.height)
        return price.cost(text=len(self.text.encode()), images=tokens, output=0)


def flagged_categories(document: Mapping[str, Any]) -> list[str]:
    """Names of the categories that a reply flags, sorted.

    Raises:
        ValueError: the reply has another form.
    """
    results = document.get("results")
    if not isinstance(results, list) or len(results) != 1 or not isinstance(results[0], dict):
        raise ValueError("`results` must hold one object")
    categories, is_flagged = results[0].get("categories"), results[0].get("flagged")
    if not isinstance(categories, dict) or not isinstance(is_flagged, bool):
        raise ValueError("`results` needs `flagged` and `categories`")
    if len(categories) > _MOST_CATEGORIES:
        raise ValueError(f"`categories` has {len(categories)} entries")
    named = sorted(str(name)[:_LONGEST_NAME] for name, is_so in categories.items() if is_so is True)
    return named or (["unnamed"] if is_flagged else [])
