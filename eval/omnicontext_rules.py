"""OmniContext's rules: how a reply is read, which of six replies count, and the averages.

The released reading of the benchmark (Wu et al., 2025, arXiv 2506.18871), faults included: what is
no JSON is mended in a way that makes lists of numbers, three rounds are always asked, and what
nobody could read is guessed. How a judge is asked is elsewhere.

Written from a description of the published script and from recorded replies. Where both are
silent, a comment that begins with "Open:" says what was decided and why.
"""

import json
import math
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
_MOST = 10

_RATE_LIMIT = "rate_limit_exceeded"
_BARE_NUMBER = "System: output is simply a number"


class NoAnswer(ValueError):
    """A reply that holds neither braces nor a whole number from 0 to 10."""


def parse_reply(reply: str) -> Any:
    """Read a reply as released: usually {"score", "reasoning"}, the score as it was given.

    Raises:
        NoAnswer: there is nothing to read in it.
        json.JSONDecodeError: what is in braces is no JSON, also after mending.
    """
    if reply == _RATE_LIMIT:
        return _RATE_LIMIT
    start, end = reply.find("{"), reply.rfind("}") + 1
    if start == -1 or end <= start:
        return _from_number(reply)
    braced = reply[start:end].replace("\n", "")
    try:
        try:
            return json.loads(braced)
        except json.JSONDecodeError:
            return json.loads(_mend(braced))
    except RecursionError as error:
        raise NoAnswer("what is in braces is nested too deeply") from error


def _from_number(reply: str) -> dict[str, Any]:
    try:
        # Digits of any script, as recorded. Open: so are "+7" and "007", as Python reads them.
        number = int(reply)
    except ValueError:
        number = -1
    if not 0 <= number <= _MOST:
        raise NoAnswer("neither braces nor a whole number from 0 to 10")
    return {"score": number, "reasoning": _BARE_NUMBER}


def _mend(braced: str) -> str:
    """Return braces with quotes around names and texts, and each number in a list of its own.

    Recorded: a text that has quotes gets them again, so no reply with one is ever mended.
    """
    parts = (part.partition(":") for part in braced[1:-1].split(","))
    return "{" + ",".join(_name(name) + colon + _value(text) for name, colon, text in parts) + "}"


def _name(name: str) -> str:
    # Open: only a bare word gets quotes; a name in quotes of any kind stays, as it may be right.
    word = name.strip()
    return f'"{word}"' if word.isidentifier() else name


def _value(text: str) -> str:
    word = text.strip()
    if not word:
        return text  # a part without a colon: nothing here can be mended
    try:
        known = json.loads(word)
    except (json.JSONDecodeError, RecursionError):
        known = word
    if known is None or isinstance(known, bool):
        return word
    if isinstance(known, int | float):
        return f"[{word}]"
    # Open: "True" and "None" are words like any other, as JSON does not know them, and so is a
    # list in brackets: the description names numbers alone.
    return f'"{word}"'


class Read(NamedTuple):
    """What three rounds came to."""

    following: Any
    """What the last readable reply on prompt following parsed to; None if none was readable."""
    consistency: Any
    """The same on subject consistency; may be of another round."""
    failed_rounds: tuple[int, ...]
    """From 0; the published script sleeps 2**round seconds after each."""


def read_rounds(replies: Sequence[str | None]) -> Read:
    """Read prompt following, subject consistency, prompt following ... of all rounds.

    A round whose first reply cannot be read is over: its second one is not looked at. What could
    be read stays until a later round's reply takes its place.
    """
    kept: list[Any] = [None, None]
    failed = []
    for turn in range(0, len(replies), 2):
        try:
            for side, reply in enumerate(replies[turn : turn + 2]):
                if reply is None:
                    raise NoAnswer("there is no text")
                # Open: "{}" is read, and wins when it is the last one: a reply without a score is
                # where the published script stops, not one of those that it asks for again.
                kept[side] = parse_reply(reply)
            # Recorded of subject consistency. Open: the same goes for prompt following, as nothing
            # tells the two replies apart.
            has_failed = _RATE_LIMIT in kept
        except ValueError:
            has_failed = True
        if has_failed:
            failed.append(turn // 2)
    return Read(kept[0], kept[1], tuple(failed))


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
