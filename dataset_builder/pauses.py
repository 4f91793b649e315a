"""The report of a pilot as a file: the band of the full run, and where that was paused.

A run pauses when a rate leaves the band, says so, and goes on when it is told to. What was paused
and accepted stays in `pilot.json`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from echo4o.errors import Echo4oError
from echo4o.records import JsonValue, sha256_file, write_atomic

from .band import Range, Watch
from .pilot import Report
from .plan import PLAN_NAME, read_plan

PILOT_NAME = "pilot.json"


def save(folder: Path, report: Report) -> None:
    """Write the report; an earlier one, with its pauses, is replaced."""
    digest = sha256_file(folder / PLAN_NAME)
    facts: dict[str, JsonValue] = {"plan_sha256": digest, **report.to_dict(), "pauses": []}
    _write(folder, facts)


def watch(folder: Path, *, go_on: bool) -> Watch:
    """The watch of a full run; without a pilot it watches nothing.

    `go_on` accepts what the last run was paused for.

    Raises:
        Echo4oError: the last run was paused and nobody told it to go on, or the report is damaged
            or of another plan.
    """
    facts = _read(folder)
    if facts is None:
        return Watch()
    if facts.get("plan_sha256") != sha256_file(folder / PLAN_NAME):
        read_plan(folder)  # a damaged plan is also another one
        raise Echo4oError(
            f"{folder / PILOT_NAME} is of another plan; make a pilot of this one or remove the file"
        )
    try:
        pauses = cast(list[dict[str, JsonValue]], facts["pauses"])
        strata = cast(dict[str, dict[str, dict[str, list[float]]]], facts["strata"])
        waiting = [pause for pause in pauses if not pause["accepted"]]
        if waiting and not go_on:
            raise Echo4oError(_pause_words(str(waiting[0]["words"])))
        for pause in waiting:
            pause["accepted"] = True
            _widen(strata[str(pause["stratum"])]["band"], pause)
        bands = {
            name: {rate: Range(*ends) for rate, ends in one["band"].items()}
            for name, one in strata.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(folder, error) from None
    if waiting:
        _write(folder, facts)
    return Watch(bands)


def note_pause(folder: Path, seen: Watch) -> str | None:
    """Keep an alarm in the report; returns what to tell the user, None without an alarm."""
    facts = _read(folder)
    if seen.alarm is None or seen.left is None or facts is None:
        return None
    name, rate, now = seen.left
    pauses = cast(list[JsonValue], facts["pauses"])
    pauses.append(
        {
            "words": seen.alarm,
            "stratum": name,
            "rate": rate,
            "now": list(now),
            "accepted": False,
        }
    )
    _write(folder, facts)
    return _pause_words(seen.alarm)


def _pause_words(alarm: str) -> str:
    return (
        f"paused: {alarm}; look at the pictures and reasons, then run the same command with "
        "--continue to accept it, or make another --pilot"
    )


def _widen(band: dict[str, list[float]], pause: Mapping[str, JsonValue]) -> None:
    low, high = cast(list[float], pause["now"])
    rate = str(pause["rate"])
    band[rate] = [min(low, band[rate][0]), max(high, band[rate][1])]


def _read(folder: Path) -> dict[str, JsonValue] | None:
    path = folder / PILOT_NAME
    if not path.is_file():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(facts, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise _damaged(folder, error) from None
    return facts


def _damaged(folder: Path, error: Exception) -> Echo4oError:
    return Echo4oError(
        f"{folder / PILOT_NAME} is damaged ({type(error).__name__}: {error}); make the pilot again"
    )


def _write(folder: Path, facts: Mapping[str, JsonValue]) -> None:
    write_atomic(folder / PILOT_NAME, json.dumps(facts, indent=2) + "\n")
