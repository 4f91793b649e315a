"""English for planned rows: articles, plurals, numbers and lists."""

from collections.abc import Sequence

NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
)
_OF = " of "
_VOWELS = "aeiou"


def plural(noun: str, irregular: dict[str, str] | None = None) -> str:
    """Several of `noun`; of "x of y" the x is counted. `irregular` wins, by whole phrase."""
    if irregular and noun in irregular:
        return irregular[noun]
    head, of, rest = noun.partition(_OF)
    if of:
        return plural(head, irregular) + of + rest
    if noun.endswith("y") and noun[-2:-1] not in _VOWELS:
        return f"{noun[:-1]}ies"
    return noun + ("es" if noun.endswith(("s", "sh", "ch", "x", "z")) else "s")


def article(words: str, irregular: dict[str, str] | None = None) -> str:
    """`words` with "a" or "an" before them; `irregular` gives the article by first word."""
    first = words.split()[0]
    known = irregular.get(first) if irregular else None
    return f"{known or ('an' if first[0].lower() in _VOWELS else 'a')} {words}"


def join(phrases: Sequence[str]) -> str:
    """English list: "x", "x and y", "x, y, and z"."""
    if len(phrases) < 3:
        return " and ".join(phrases)
    return ", ".join(phrases[:-1]) + f", and {phrases[-1]}"


def sentence(text: str) -> str:
    """`text` with a capital letter and a full stop."""
    return f"{text[0].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
