"""OmniContext's rules: how a reply is read, which of six replies count, and the averages.

The released reading of the benchmark (Wu et al., 2025, arXiv 2506.18871), faults included: what is
no JSON is mended in a way that makes lists of numbers, three rounds are always asked, and what
nobody could read is guessed. How a judge is asked is elsewhere.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ROUNDS = 3
TASK_TYPES = (
    "single_character",
    "single_object",
    "multi_character",
    "multi_object",
    "multi_character_object",
    "scene_character",
    "scene_object",
    "scene_character_object",
)
FORK_TYPES = TASK_TYPES[2:]
"""What the statistics of Echo-4o's authors have: those with several references."""
LANGUAGE = "en"
"""Only instructions in it count."""

_RATE_LIMIT = "rate_limit_exceeded"
_ONLY_A_NUMBER = {"reasoning": "System: output is simply a number"}
_BARE_NAME = re.compile(r"(\w+)(?=:)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_CONSTANTS = ("true", "false", "null")


class NoAnswer(ValueError):
    """A reply that holds neither braces nor a whole number from 0 to 10."""


def parse_reply(reply: str) -> Any:
    """Read a reply as released: usually {"score", "reasoning"}, the score as it was given.

    Raises:
        NoAnswer: there is nothing to read in it.
        json.JSONDecodeError: what is in braces is no JSON, also after mending.
    """
    if reply == _RATE_LIMIT:
        return reply
    first, last = reply.find("{"), reply.rfind("}")
    if first < 0 or last < first:
        return {"score": _whole_number(reply), **_ONLY_A_NUMBER}
    text = reply[first : last + 1].replace("\n", "")
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return json.loads(mended(text))


def _whole_number(reply: str) -> int:
    try:
        number = int(reply)
    except ValueError:
        number = -1
    if not 0 <= number <= 10:
        raise NoAnswer("no braces, and no whole number from 0 to 10")
    return number


def mended(text: str) -> str:
    """Mend an object: names without quotes get them, numbers become lists, other values texts.

    A value reaches from its name's colon to the next comma or closing brace, quoted or not; so a
    text that had quotes has them twice, and stays unreadable.
    """
    text = _BARE_NAME.sub(r'"\1"', text)
    pieces: list[str] = []
    place = 0
    while (opening := text.find('"', place)) >= 0:
        colon = text.find('":', opening + 1) + 1
        ends = [end for end in (text.find(",", colon), text.find("}", colon)) if end > colon]
        if not colon or not ends:
            break
        end = min(ends)
        pieces += [text[place:colon], ": ", _mended_value(text[colon + 1 : end].strip()), text[end]]
        place = end + 1
    return "".join([*pieces, text[place:]])


def _mended_value(value: str) -> str:
    if _NUMBER.fullmatch(value):
        return f"[{value}]"
    return value if value.lower() in _CONSTANTS else f'"{value}"'


class Read(NamedTuple):
    """What the rounds of one sample come to."""

    following: Any
    """Parsed reply about prompt following; None when no round gave one."""
    consistency: Any
    """The same about subject consistency; often of another round."""
    failed_rounds: tuple[int, ...]
    """Rounds, from 0, in which a reply could not be read or spoke of too many calls."""


def read_rounds(replies: Sequence[str | None]) -> Read:
    """Read all rounds of one sample; the last readable reply of each kind wins.

    Args:
        replies: prompt following, subject consistency, and so on in turn; None for no reply. Once
            the first of a round cannot be read, the second one is not looked at.
    """
    found: list[Any] = [None, None]
    failed = []
    for turn in range(len(replies) // 2):
        try:
            for side in (0, 1):
                said = replies[2 * turn + side]
                if said is None:
                    raise NoAnswer("no reply")
                found[side] = parse_reply(said)
            if _RATE_LIMIT in found:  # both were read, and are kept
                raise NoAnswer("the service asked to wait")
        except (NoAnswer, ValueError, RecursionError):
            failed.append(turn)
    return Read(found[0], found[1], tuple(failed))


def guess_reason(reply: str | None) -> str:
    """What stands beside a guessed score: the last reply of its kind."""
    return f"guess_if_cannot_parse | {reply}"


def overall(following: float, consistency: float) -> float:
    """A sample's score: the geometric mean of both."""
    return math.sqrt(following * consistency)


class Averages(NamedTuple):
    """Means of prompt following, subject consistency and their geometric mean."""

    following: float
    consistency: float
    overall: float


class Statistics(NamedTuple):
    """All averages of a run; a type without a counted sample is NaN, and so is what contains it."""

    by_type: dict[str, Averages]
    eight: Averages
    """Over all task types, as the benchmark's authors report."""
    six: Averages
    """Over `FORK_TYPES`, as Echo-4o's authors report."""


class Sample(NamedTuple):
    """One scored picture."""

    following: float
    consistency: float
    language: str = LANGUAGE


def statistics(samples: Mapping[str, Sequence[Sample]]) -> Statistics:
    """Average samples by task type; only instructions in `LANGUAGE` count."""
    by_type = {name: _averages(group) for name, group in samples.items()}
    nothing = Averages(math.nan, math.nan, math.nan)

    def over(names: Sequence[str]) -> Averages:
        rows = [by_type.get(name, nothing) for name in names]
        return Averages(*(sum(column) / len(rows) for column in zip(*rows, strict=True)))

    return Statistics(by_type, over(TASK_TYPES), over(FORK_TYPES))


def _averages(samples: Sequence[Sample]) -> Averages:
    counted = [one for one in samples if one.language == LANGUAGE]
    if not counted:
        return Averages(math.nan, math.nan, math.nan)
    sums = (
        sum(one.following for one in counted),
        sum(one.consistency for one in counted),
        sum(overall(one.following, one.consistency) for one in counted),
    )
    return Averages(*(total / len(counted) for total in sums))
