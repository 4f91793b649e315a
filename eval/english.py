"""Small English for prompts and checklists: plurals, number words, articles and lists."""

from collections.abc import Sequence

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_IRREGULAR = {
    "foot": "feet",
    "goose": "geese",
    "knife": "knives",
    "computer mouse": "computer mice",
    "mouse": "mice",
    "person": "people",
    "scissors": "scissors",
    "sheep": "sheep",
    "skis": "skis",
    "wolf": "wolves",
}


def plural(noun: str, count: int = 2) -> str:
    """Return the right form of `noun` for `count`: "cross" -> "crosses", "sheep" -> "sheep"."""
    if count == 1:
        return noun
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun.endswith(("s", "sh", "ch", "x", "z")):
        return noun + "es"
    if noun.endswith("y") and noun[-2:-1] not in tuple("aeiou"):
        return noun[:-1] + "ies"
    return noun + "s"


def article(words: str) -> str:
    """Return `words` with "a" or "an" in front."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def join(parts: Sequence[str]) -> str:
    """Return "x", "x and y" or "x, y, and z"."""
    if len(parts) < 3:
        return " and ".join(parts)
    return ", ".join(parts[:-1]) + f", and {parts[-1]}"
