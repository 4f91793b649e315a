"""The authors' protocol of Imagine-Bench: three marks from 0 to 10 on lines of text.

`released` does what the published script does, faults included: a mark that its pattern misses is
-1 and counts. `paper` counts the same way and takes a picture under any file name. `strict` sends
the same words, shows the picture as people see it, asks for structured replies, reads Markdown,
decimals and "8/10", and lets no doubtful mark count.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from .items import Item
from .pictures import Picture, find_named, find_pictures, load_reencoded
from .protocols import Finding, JudgeProtocol, Question, UnreadableReply, one_object
from .wording import Wording

ASPECTS = ("Fantasy Fulfillment", "Identity Preservation", "Aesthetic Quality")
MOST = 10.0
NO_MARK = -1.0
"""What the published script notes for a mark that it did not find."""
_KEYS = tuple(aspect.lower().replace(" ", "_") for aspect in ASPECTS)
_MAX_TOKENS = 1024
_STRICT_MAX_TOKENS = 1500
_SENTENCE = 60
"""Characters of a reason of usual length; structured replies say more."""
_LONG_SENTENCE = 100
_RELEASED = {
    aspect: re.compile(re.escape(aspect) + r"\s*[:\uff1a]?\s*(\d{1,2})") for aspect in ASPECTS
}
_MARKUP = r"""[\s*_`"'\u2018-\u201d#]*"""
_STRICT = {
    aspect: re.compile(
        r"\s+".join(aspect.split()).replace("Fulfillment", "Fulfill?ment")
        + rf"{_MARKUP}(?:\(\s*0\s*[-\u2013]\s*10\s*\))?{_MARKUP}[:=\uff1a\u2013-]{_MARKUP}<?"
        + r"([-+]?\d*\.?\d+)>?(?![\d.]*[\d%e])(?:\s*/\s*(\d+))?",
        re.IGNORECASE,
    )
    for aspect in ASPECTS
}


def weigh(findings: Sequence[Finding]) -> float:
    """Return an item's points from its three marked findings (Echo-4o paper, section 5)."""
    fulfilment, identity, quality = (
        NO_MARK if one.points is None else one.points for one in findings
    )
    return round(0.8 * min(fulfilment, identity) + 0.2 * quality, 3)


def marks_schema(names: Sequence[str]) -> dict[str, Any]:
    """Return the JSON schema of a reply with a reason and a mark under each name."""
    mark = {"type": "integer", "minimum": 0, "maximum": 10}
    fields: dict[str, Any] = {}
    for name in names:
        fields |= {f"{name}_reason": {"type": "string"}, name: mark}
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }


def usual_marks(names: Sequence[str], characters: int = _LONG_SENTENCE) -> str:
    """Return a reply in the form of `marks_schema`, with reasons of usual length."""
    fields = {f"{name}_reason": "." * characters for name in names}
    return json.dumps({**fields, **dict.fromkeys(names, 8)})


def read_marks(value: Mapping[str, Any], names: Sequence[str]) -> tuple[Finding, ...]:
    """Return one finding per name from an object in the form of `marks_schema`.

    Raises:
        UnreadableReply: a mark is missing or not from 0 to 10.
    """
    by_key = {key.strip().lower().replace(" ", "_"): part for key, part in value.items()}
    findings = []
    for name in names:
        mark = by_key.get(name)
        if isinstance(mark, bool) or not isinstance(mark, int | float) or not 0 <= mark <= MOST:
            raise UnreadableReply(f"`{name}` is {mark!r:.40}, no mark from 0 to 10")
        findings.append(_finding(name, float(mark), str(by_key.get(f"{name}_reason", ""))))
    return tuple(findings)


class AuthorsPoints(JudgeProtocol):
    """`released` and `paper`: any text is read, what fails is tried three times and counts 0."""

    asks_again: ClassVar[frozenset[Literal["failed", "refused"]]] = frozenset({"failed", "refused"})
    pause_s = 2.0
    leaves_out_missing = True

    def __init__(self, name: str, wording: Wording | None) -> None:
        self.name = name
        self._wording = wording
        self.version = "unworded" if wording is None else wording.version

    def question(self, item: Item, attempt: int = 0) -> Question:
        """Return the authors' words about one item; the same ones every time."""
        assert self._wording is not None, "a protocol made for reading only cannot ask"
        return Question(
            system=self._wording.system,
            text=self._wording.fill({"instruction": item.prompt, "note": item.note}),
            max_tokens=_MAX_TOKENS,
            repeat=attempt,
            image_mime="image/png",  # the script's word for its JPEG
            system_as_parts=True,
        )

    def read(self, item: Item, reply: str) -> tuple[Finding, ...]:
        """Return three findings; the last mark named for an aspect wins, one not found is -1."""
        return tuple(
            _finding(aspect, _last(_RELEASED[aspect], reply), _reason(reply, aspect))
            for aspect in ASPECTS
        )

    def points(self, findings: Sequence[Finding]) -> float | None:
        """Return the item's points, -1 to 10; 0 without findings."""
        return weigh(findings) if findings else 0.0

    def usual_reply(self, item: Item) -> str:
        """Return three marks, each with a sentence."""
        return "\n\n".join(f"{aspect}: 8\nReason: {'.' * _SENTENCE}" for aspect in ASPECTS)

    def find(self, folder: Path, sample: int = 1) -> dict[int, Path]:
        """Return the pictures; the published script takes the first of four endings."""
        if self.name == "released":
            return find_named(folder, ("png", "jpg", "jpeg", "webp"))
        return find_pictures(folder, sample)

    def load(self, path: Path) -> Picture:
        """Return the picture as the script sends it: JPEG again, never turned."""
        return load_reencoded(path)


class StrictPoints(AuthorsPoints):
    """`strict`: structured replies, upright pictures; what is missing or doubtful counts 0."""

    asks_again = frozenset()
    pause_s = 0.0
    leaves_out_missing = False
    find = JudgeProtocol.find
    load = JudgeProtocol.load

    def question(self, item: Item, attempt: int = 0) -> Question:
        """Return the authors' words with a schema for the reply and the picture's true type."""
        asked = super().question(item, attempt)
        return Question(
            system=asked.system,
            text=asked.text,
            max_tokens=_STRICT_MAX_TOKENS,
            schema=marks_schema(_KEYS),
            repeat=attempt,
            system_as_parts=True,
        )

    def usual_reply(self, item: Item) -> str:
        """Return an object of three marks and three reasons."""
        return usual_marks(_KEYS)

    def read(self, item: Item, reply: str) -> tuple[Finding, ...]:
        """Return three findings, from an object or from clear lines.

        Raises:
            UnreadableReply: a mark is missing, named twice differently, or not from 0 to 10.
        """
        try:
            value = one_object(reply)
        except UnreadableReply:
            return tuple(
                _finding(aspect, _only(aspect, reply), _reason(reply, aspect)) for aspect in ASPECTS
            )
        return read_marks(value, _KEYS)


def _finding(aspect: str, mark: float, reason: str) -> Finding:
    return Finding(expectation=aspect, satisfied=mark == MOST, reason=reason, points=mark)


def _last(pattern: re.Pattern[str], reply: str) -> float:
    found = pattern.findall(reply)
    return min(float(int(found[-1])), MOST) if found else NO_MARK


def _only(aspect: str, reply: str) -> float:
    found = {(mark, out_of or "10") for mark, out_of in _STRICT[aspect].findall(reply)}
    values = {float(mark) for mark, _ in found}
    if len(values) != 1:
        said = f"{len(values)} different marks" if values else "no mark"
        raise UnreadableReply(f"the reply gives {said} for {aspect}")
    value = values.pop()
    if not 0 <= value <= MOST or any(out_of != "10" for _, out_of in found):
        raise UnreadableReply(f"{aspect} is not marked from 0 to 10")
    return value


def _reason(reply: str, aspect: str) -> str:
    """The "Reason:" line below the aspect's last mention, else that mention's own line."""
    lines = reply.rpartition(aspect)[2].splitlines()
    told = next((line for line in lines[1:3] if line.strip().lower().startswith("reason")), None)
    if told is not None:
        return told.partition(":")[2].strip()
    return lines[0].strip() if lines else ""
