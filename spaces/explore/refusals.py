"""What the server refuses, whoever asks: the page and the API pass through the same checks.

Every refusal is one sentence with the value and what is taken instead; values are cut short, and
nothing that could be markup is repeated.
"""

import math

WORDS_CHARACTERS = 200
ID_CHARACTERS = 300
MAX_PAGE = 1_000_000
MAX_SEED = 2**31 - 1


class Refusal(ValueError):
    """The request cannot be served; the message is for the visitor."""


def text(value: object, what: str, limit: int) -> str:
    """Text of at most `limit` characters; None is empty text."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Refusal(f"The {what} must be text, not {shown(value)}.")
    if len(value) > limit:
        raise Refusal(f"The {what} has {len(value):,} characters; at most {limit} are read.")
    return value.strip()


def whole(value: object, what: str, low: int, high: int) -> int:
    """A whole number in [low, high]."""
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    # Not a number is in no range.
    if low <= number <= high and number == int(number):
        return int(number)
    limits = f"from {low:,} to {high:,}"
    raise Refusal(f"The {what} must be a whole number {limits}, not {shown(value)}.")


def one_of(value: object, what: str, known: list[str]) -> str:
    """One of the known names, or empty text for all of them."""
    name = text(value, what, ID_CHARACTERS)
    if name and name not in known:
        listed = ", ".join(shown(one).strip("'") for one in known[:12]) or "none yet"
        raise Refusal(f"There is no {what} {shown(name)}; there are: {listed}.")
    return name


def shown(value: object) -> str:
    """A value as a message may repeat it: short, and nothing that could be markup."""
    if isinstance(value, str):
        return f"'{''.join(c if c.isalnum() or c in ' .,:_-/' else '?' for c in value[:40])}'"
    if isinstance(value, int | float):
        return str(value)[:20]
    return "nothing" if value is None else type(value).__name__
