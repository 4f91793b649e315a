"""Moderation by a word list. It is honest about being one: no model, no context."""

import re
from typing import Any

# Stems by category, named as the moderation endpoint names them.
_WORDS: dict[str, tuple[str, ...]] = {
    "violence/graphic": ("gore", "beheading", "dismember", "mutilat"),
    "violence": ("massacre", "execution scene"),
    "sexual": ("porn", "nude", "naked", "explicit sex"),
    "hate": ("swastika", "ethnic slur"),
    "self-harm": ("suicide", "self-harm"),
    "illicit": ("bomb recipe", "build a bomb"),
}
_ALL = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit"),
    *("illicit/violent", "self-harm", "self-harm/instructions", "self-harm/intent", "sexual"),
    *("sexual/minors", "violence", "violence/graphic"),
)
_PATTERNS = {
    name: re.compile("|".join(rf"\b{re.escape(word)}" for word in words), re.IGNORECASE)
    for name, words in _WORDS.items()
}


def flagged(text: str) -> list[str]:
    """Categories whose words occur in `text`."""
    return [name for name, pattern in _PATTERNS.items() if pattern.search(text)]


def moderate(text: str) -> dict[str, Any]:
    """One entry of the `results` of /v1/moderations; scores are 0 or 1, since it is a list."""
    found = flagged(text)
    return {
        "flagged": bool(found),
        "categories": {name: name in found for name in _ALL},
        "category_scores": {name: float(name in found) for name in _ALL},
        "category_applied_input_types": {name: ["text"] for name in _ALL},
    }
