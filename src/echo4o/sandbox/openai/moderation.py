"""/v1/moderations: texts, or a text with its pictures, held against a list of words."""

from typing import Any

from .chat import read_parts
from .problems import bad
from .safety import moderate


def moderation_results(given: object, *, is_flagged: bool) -> list[dict[str, Any]]:
    """The `results` of /v1/moderations for a text, texts, or parts that belong together.

    Pictures are opened, but this list knows only words; `is_flagged` is a fault on purpose.
    """
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, list) or not given:
        raise bad("input", "'input' must be a text, a list of texts or a list of parts.")
    if all(isinstance(one, dict) for one in given):
        parts = read_parts(given, "input")
        texts = [" ".join(value for kind, value in parts if kind == "text")]
    elif all(isinstance(one, str) for one in given):
        texts = given
    else:
        raise bad("input", "'input' must not mix texts and parts.")
    results = [moderate(text) for text in texts]
    if is_flagged:
        results[0] |= {"flagged": True}
        results[0]["categories"]["violence"] = True
    return results
