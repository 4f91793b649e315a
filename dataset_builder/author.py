"""Lets a language model put planned rows into words: structured replies, cached in a ledger.

The grammar decides what is asked for, so constraints stay known; the model names the object's
regular look and words the instruction. A reply that loses what was asked for is not used.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import cast

from echo4o.client import ChatRequest, PriceTable, Reply
from echo4o.prices import text_tokens
from echo4o.records import JsonValue
from echo4o.schema import RowError, check_instruction

from .decontaminate import Blocklist
from .plan import Entry, Repeats
from .questions import Questions, read_object
from .similarity import content_words, overlap

_SUBSETS = ("surreal_fantasy", "multi_reference")
_CHUNK = 512
_LONGEST = 400
_KEPT_FROM = 0.5
"""Share of the draft's content words that a reply must keep."""
_FIELD_TOKENS = 6
"""Of a field's name and quotes in the reply, and of a short value."""
_MAX_TOKENS = 300
_LOOKS = ("color", "shape")
_SYSTEM = (
    "You word instructions for a dataset of pictures. Keep every object and every property that "
    "is asked for, add none, and write one natural English sentence. Reply in JSON."
)


class Author:
    """Rewrites rows in plan order; the same rows and the same ledger give the same words."""

    def __init__(self, model: str, questions: Questions, block: Blocklist | None = None) -> None:
        self.outcomes: Counter[str] = Counter()
        """used, draft kept: why."""
        self._model = model
        self._questions = questions
        self._block = block or Blocklist()

    def rewrite(self, rows: Iterable[Entry], references: Iterable[Entry]) -> Iterator[Entry]:
        """The rows with the model's words, numbered anew after `references`.

        Raises:
            BudgetExceeded: the next call could cost more than is left.
            Echo4oError: the key, the model or the address needs the user.
        """
        repeats, source = Repeats(), iter(rows)
        for reference in references:
            repeats.take(reference)
        while chunk := list(islice(source, _CHUNK)):
            asked = {row.id: request(row, self._model) for row in chunk if is_worded(row)}
            answers = self._questions.ask(list(asked.values()))
            replies = dict(zip(asked, answers, strict=True))
            for row in chunk:
                worded = self._word(row, replies.get(row.id))
                yield replace(worded, repeat=repeats.take(worded))

    def _word(self, row: Entry, reply: Reply | None) -> Entry:
        if reply is None:
            return row
        if reply.outcome != "done":
            self.outcomes[f"draft kept: {reply.outcome}"] += 1
            return row
        found = read_object(reply.text)
        said = {name: value.strip() for name, value in found.items() if isinstance(value, str)}
        reason = _unusable(row, said)
        if reason is None and not self._block.allows(said["instruction"], row.constraints):
            reason = "a benchmark item"
        if reason is not None:
            self.outcomes[f"draft kept: {reason}"] += 1
            return row
        self.outcomes["used"] += 1
        return _reworded(row, said, reply.model)


def is_worded(entry: Entry) -> bool:
    """Whether the model words this row; compositions are exact as they are."""
    return entry.kind == "row" and entry.subset in _SUBSETS


def request(row: Entry, model: str) -> ChatRequest:
    """The question for a row."""
    names = ["instruction"]
    lines = ["Word the instruction anew."]
    if "deflected" in row.constraints and row.category != "multi_object":
        names = [*_LOOKS, "instruction"]
        lines = [
            f"Object: {row.constraints['object']}",
            "Say which color and shape the object usually has, and word the instruction anew.",
        ]
    lines.append(f"Instruction: {row.instruction}")
    properties: dict[str, object] = {name: {"type": "string"} for name in names}
    return ChatRequest(
        model=model,
        system=_SYSTEM,
        user=("\n".join(lines),),
        max_tokens=_MAX_TOKENS,
        json_schema={
            "type": "object",
            "properties": properties,
            "required": names,
            "additionalProperties": False,
        },
    )


class WordsEstimate:
    """What the words will cost, before any is asked for."""

    def __init__(self, model: str, prices: PriceTable) -> None:
        prices.price(model)
        self.model = model
        self.calls = 0
        self.usd = 0.0
        self._prices = prices

    def add(self, entry: Entry) -> None:
        """Count the question for a row, if it gets one."""
        if is_worded(entry):
            asked = request(entry, self.model)
            self.calls += 1
            fields = cast(dict[str, object], (asked.json_schema or {})["properties"])
            expected = text_tokens(entry.instruction) + _FIELD_TOKENS * len(fields)
            self.usd += asked.estimate(self._prices, output_tokens=expected).cost_usd


def _unusable(row: Entry, said: dict[str, str]) -> str | None:
    """Why a reply cannot stand for the draft."""
    text = said.get("instruction", "")
    if not text or len(text) > _LONGEST or "\n" in text:
        return "no such reply"
    try:
        check_instruction(text, row.id)
    except RowError:
        return "no such reply"
    words, drafted = content_words(text), content_words(row.instruction)
    if "deflected" in row.constraints and row.category != "multi_object":
        subject = content_words(str(row.constraints["object"]))
        facts = content_words(" ".join(_values(row.constraints["deflected"])))
        if not subject <= words or overlap(words, facts & drafted) < _KEPT_FROM:
            return "it lost what was asked for"
    if (words & drafted).total() < _KEPT_FROM * drafted.total():
        return "it lost what was asked for"
    return None


def _values(deflected: JsonValue) -> list[str]:
    return [str(value) for value in deflected.values()] if isinstance(deflected, dict) else []


def _reworded(row: Entry, said: dict[str, str], model: str) -> Entry:
    constraints = {**row.constraints, "worded_by": model}
    regular = row.constraints.get("regular")
    if isinstance(regular, dict) and row.category != "multi_object":
        named = {name: said[name] for name in _LOOKS if said.get(name, "unknown") != "unknown"}
        constraints["regular"] = {**regular, **named}
    text = said["instruction"]
    # A multi-reference row is asked for by numbers; only its training text changes.
    prompt = row.prompt if row.references else text
    return replace(row, prompt=prompt, instruction=text, constraints=constraints)
