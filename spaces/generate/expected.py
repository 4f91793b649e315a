"""The seconds on a button: what the settings beside it will probably take."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import checks
import look
import widgets
from checks import Refusal
from engine import Engine, Job
from engine import Settings as JobSettings


class Work(NamedTuple):
    """Pictures of one engine, as the widgets have them: nothing of it is checked."""

    engine: Engine
    aspect: object
    number: object
    quality: object
    steps: object
    guidance: object
    think: object = False


def label(word: str, works: Sequence[Work]) -> str:
    """The word on a button with the seconds of all works; alone while a field is typed into."""
    try:
        total = sum(_seconds(work) for work in works if work.engine.state == "ready")
    except (TypeError, Refusal):
        return word
    return f"{word} · {look.seconds(total)}" if total else word


def of_tab(engine: Engine, word: str, *values: Any) -> str:
    """The label of Create or Compose; `values` are those of `widgets.Settings`."""
    given = widgets.Settings(*values)
    work = Work(
        engine, given.aspect, given.number, given.quality, given.steps, given.guidance, given.think
    )
    return label(word, [work])


def _seconds(work: Work) -> float:
    engine = work.engine
    proportion = checks.ASPECTS.get(str(work.aspect), (1, 1))
    width, height = checks.size(proportion, engine.longest, engine.unit)
    how = JobSettings(
        width,
        height,
        checks.whole(work.steps, "steps", 1, checks.MAX_STEPS),
        checks.number(work.guidance, "guidance", 1, checks.MAX_GUIDANCE),
        fast=work.quality == checks.FAST,
        think=bool(work.think),
    )
    number = checks.whole(work.number, "number of pictures", 1, checks.MAX_PICTURES)
    return engine.seconds(Job("", (), how, tuple(range(number))))
