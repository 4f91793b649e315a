"""The authors' protocol of GenEval++: a checklist, and a reply that says right or wrong.

`released` does what the published script does, faults included. `paper` counts the same way and
takes a picture under any file name. `strict` sends the same words, but shows the picture as people
see it, asks for structured replies, and reads what an honest reply can mean - never more.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from .items import Item
from .pictures import Picture, find_named, find_pictures, load_reencoded
from .protocols import Finding, JudgeProtocol, Question, UnreadableReply, one_object
from .wording import Wording

_HEADER = "This image should contain:"
_EVERYTHING = "everything on the checklist"
_MAX_TOKENS = 200
_STRICT_MAX_TOKENS = 600
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "correct": {"type": "integer", "enum": [0, 1]},
        "reason": {"type": "string"},
    },
    "required": ["correct", "reason"],
    "additionalProperties": False,
}
_WORDS = {"0": False, "1": True, "false": False, "true": True}
# A field in prose, Markdown or broken JSON; what follows the value must end it, so that
# "1 if all is right, else 0" is no answer.
_FIELD = re.compile(
    r"""\bcorrect["'`*\u2018-\u201d]*\s*[:=\uff1a]\s*["'`*\u2018-\u201d]*(0|1|true|false)\b"""
    r"""(?=["'`*.\u2018-\u201d]*\s*(?:[,;}\uff0c]|\n|\Z))""",
    re.IGNORECASE,
)


def authors_checklist(row: Mapping[str, Any]) -> str:
    """Return the expectation checklist of a GenEval++ row, naive plurals and all."""
    lines = [_HEADER]
    for part in row.get("include") or []:
        count = part.get("count", 1)
        words = f"{part['color']}-colored " if part.get("color") else ""
        words += f"{part['size']} " if part.get("size") else ""
        place = (
            f"located in the {part['region']} part of the image"
            if part.get("region")
            else "present in the image"
        )
        lines.append(f"- {words}{count} {_noun(part, count)} {place}.")
    for part in row.get("exclude") or []:
        count = part.get("count", 1)
        lines.append(f"- No more than {count - 1} {_noun(part, count)} should appear.")
    # The header's line ends even where nothing follows it.
    return "\n".join(lines) if len(lines) > 1 else _HEADER + "\n"


def read_released(reply: str) -> dict[str, Any]:
    """Return the object that the published script reads: from the first brace to the last.

    Raises:
        UnreadableReply: there is none; the message is the one that the script would note.
    """
    first, last = reply.find("{"), reply.rfind("}")
    if first < 0 or last < first:
        raise UnreadableReply("No JSON object found")
    try:
        value: dict[str, Any] = json.loads(reply[first : last + 1])
    except (ValueError, RecursionError) as error:
        raise UnreadableReply(str(error)) from error
    return value


class AuthorsFlags(JudgeProtocol):
    """`released` and `paper`: three attempts at any reply, `correct` must equal 1."""

    asks_again: ClassVar[frozenset[Literal["failed", "refused"]]] = frozenset({"failed", "refused"})
    no_text = "'NoneType' object has no attribute 'strip'"

    def __init__(self, name: str, wording: Wording | None) -> None:
        self.name = name
        self._wording = wording
        self.version = "unworded" if wording is None else wording.version
        if name == "released":  # the published script looks for `<number>.jpg` only
            self.endings = ("jpg",)

    def question(self, item: Item, attempt: int = 0) -> Question:
        """Return the authors' words about one item; the same ones every time."""
        assert self._wording is not None, "a protocol made for reading only cannot ask"
        texts = {"instruction": item.prompt.strip(), "checklist": authors_checklist(item.to_json())}
        return Question(
            system=self._wording.system,
            text=self._wording.fill(texts),
            max_tokens=_MAX_TOKENS,
            repeat=attempt,
        )

    def read(self, item: Item, reply: str) -> tuple[Finding, ...]:
        """Return one finding; anything but a `correct` equal to 1 is wrong."""
        value = read_released(reply)
        right = bool(value.get("correct", 0) == 1)
        return (_finding(right, value.get("reason", "")),)

    def usual_reply(self, item: Item) -> str:
        """Return a reply about a wrong picture, which is the longer kind.

        It goes through every line and says what is there instead, what is there besides, and what
        the picture shows, all in words as long as the line's own. Most pictures of this benchmark
        are wrong: a budget shall suffice for them.
        """
        lines = authors_checklist(item.to_json()).replace("- ", "").split("\n")[1:]
        told = "; ".join(f"{line.rstrip('.')}: found 0 instead of 1 (nothing)" for line in lines)
        shown = ", ".join(_thing(part) for part in item.to_json().get("include") or [])
        reason = f"Not met: {told}; nothing else: also found {shown}. The picture shows {shown}."
        return json.dumps({"correct": 0, "reason": reason})

    def find(self, folder: Path, sample: int = 1) -> dict[int, Path]:
        """Return the pictures; under `released` as the published script finds them."""
        if self.name == "released":
            return find_named(folder, self.endings)
        return find_pictures(folder, sample)

    def load(self, path: Path) -> Picture:
        """Return the picture as the script sends it: JPEG again, never turned."""
        return load_reencoded(path)


class StrictFlags(AuthorsFlags):
    """`strict`: structured replies, upright pictures, no verdict from a doubtful reply."""

    asks_again = frozenset()
    no_text = JudgeProtocol.no_text
    find = JudgeProtocol.find
    load = JudgeProtocol.load

    def question(self, item: Item, attempt: int = 0) -> Question:
        """Return the authors' words with a schema for the reply."""
        asked = super().question(item, attempt)
        return Question(
            system=asked.system,
            text=asked.text,
            max_tokens=_STRICT_MAX_TOKENS,
            schema=_SCHEMA,
            repeat=attempt,
        )

    def read(self, item: Item, reply: str) -> tuple[Finding, ...]:
        """Return one finding, from an object or from a clear field in any other text.

        Raises:
            UnreadableReply: no answer, several that differ, or a value that is neither 0 nor 1.
        """
        try:
            value = one_object(reply)
        except UnreadableReply:
            return (_finding(_loose(reply), " ".join(reply.split())[:500]),)
        fields = [part for key, part in value.items() if key.strip().lower() == "correct"]
        if len(fields) != 1:
            raise UnreadableReply(f"the reply has {len(fields)} fields `correct` instead of one")
        return (_finding(_flag(fields[0]), value.get("reason", "")),)


def _thing(part: Mapping[str, Any]) -> str:
    return " ".join(str(part[key]) for key in ("count", "size", "color", "class") if part.get(key))


def _noun(part: Mapping[str, Any], count: float) -> str:
    return f"{part['class']}s" if count > 1 else str(part["class"])


def _finding(right: bool, reason: object) -> Finding:
    said = reason if isinstance(reason, str) else json.dumps(reason)
    return Finding(expectation=_EVERYTHING, satisfied=right, reason=said)


def _flag(value: object) -> bool:
    if isinstance(value, str) and value.strip().lower() in _WORDS:
        return _WORDS[value.strip().lower()]
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    raise UnreadableReply(f"`correct` is {value!r:.40}, neither 0 nor 1")


def _loose(reply: str) -> bool:
    said = {_WORDS[value.lower()] for value in _FIELD.findall(reply)}
    if len(said) != 1:
        raise UnreadableReply("the reply says both" if said else "the reply does not answer")
    return said.pop()
