"""Words a refused prompt anew, so that it can be tried again; the facts of the row stay.

The question and the answer lie in the ledger beside the purchase, with the reason of the refusal:
what became of a row follows from the ledger alone.
"""

from dataclasses import replace

from echo4o.client import ChatRequest
from echo4o.schema import RowError, check_instruction

from .plan import Entry
from .questions import read_object
from .similarity import content_words

_MAX_TOKENS = 400
_KEPT_FROM = 0.5
"""Share of the refused prompt's content words that the new one must keep."""
_SYSTEM = (
    "An image service declined an instruction that means no harm. Word it anew in plain, factual "
    "English, so that it cannot be mistaken for anything offensive. Keep every object, number, "
    "color, place and property, and every mention of an image by its number. Reply in JSON."
)


def rewording(entry: Entry, reason: str, *, model: str, turn: int) -> ChatRequest:
    """The question for a refused entry; `turn` counts from 0."""
    return ChatRequest(
        model=model,
        system=_SYSTEM,
        user=(f"Why it was declined: {reason}\nInstruction: {entry.prompt}",),
        max_tokens=_MAX_TOKENS,
        repeat=turn,
        json_schema={
            "type": "object",
            "properties": {"instruction": {"type": "string"}},
            "required": ["instruction"],
            "additionalProperties": False,
        },
    )


def reworded(entry: Entry, text: str | None) -> Entry | None:
    """The entry with the answer's words, None when they cannot stand for the old ones."""
    prompt = " ".join(str(read_object(text).get("instruction", "")).split())
    try:
        check_instruction(prompt, entry.id)
    except RowError:
        return None
    before, after = content_words(entry.prompt), content_words(prompt)
    if prompt == entry.prompt or (before & after).total() < _KEPT_FROM * before.total():
        return None
    return replace(entry, prompt=prompt, instruction=prompt)
