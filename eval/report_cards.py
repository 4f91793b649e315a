"""The report's cards: each item with its pictures of all runs and what the judge said of them."""

import base64
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from echo4o.pictures import PictureError

from .pictures import load_picture
from .runs import Run
from .verdicts import Verdict

logger = logging.getLogger(__name__)

_LONGEST_SIDE = 384
_PIXEL_ART_BELOW = 129


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """One picture with its verdict."""

    run: int
    """Which run, from 0."""
    verdict: Verdict
    url: str | None
    is_small: bool
    seen: str
    """right, wrong, marked (in points) or unjudged; a CSS class and a filter value."""
    repeats: int
    """How often it was judged; the first verdict is shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One item with its pictures of all runs."""

    number: int
    tag: str
    prompt: str
    shown: list[list[Shown]]
    """By run: its pictures of the item; empty where the run lacks it."""
    outcome: str
    """Filter values, separated by spaces."""


def make_cards(runs: Sequence[Run], progress: bool) -> list[Card]:
    """Return a card for every item that any of the runs has, pictures embedded."""
    by_number = [_by_number(run.verdicts) for run in runs]
    numbers = sorted({number for verdicts in by_number for number in verdicts})
    cards = []
    for number in tqdm(numbers, desc="report", unit="item", disable=not progress):
        groups = [verdicts.get(number, []) for verdicts in by_number]
        shown = [
            _show(group, place, run.pictures)
            for place, (group, run) in enumerate(zip(groups, runs, strict=True))
        ]
        verdict = next(group[0] for group in groups if group)
        cards.append(
            Card(
                number=number,
                tag=verdict.tag,
                prompt=verdict.prompt,
                shown=shown,
                outcome=_outcome(groups, shown),
            )
        )
    return cards


def first_of_each_tag(cards: Sequence[Card]) -> list[Card]:
    """Return a fixed choice for the top of the page; nobody picked the good ones."""
    first: dict[str, Card] = {}
    for card in cards:
        first.setdefault(card.tag, card)
    return list(first.values())


def _by_number(verdicts: Sequence[Verdict]) -> dict[int, list[Verdict]]:
    groups: dict[int, list[Verdict]] = {}
    for one in verdicts:
        groups.setdefault(one.number, []).append(one)
    return groups


def _show(group: Sequence[Verdict], run: int, folder: Path) -> list[Shown]:
    """Return the pictures of one item of one run, each with its first verdict."""
    by_sample: dict[int, list[Verdict]] = {}
    for one in group:
        by_sample.setdefault(one.sample, []).append(one)
    return [_show_one(repeats, run, folder) for repeats in by_sample.values()]


def _show_one(repeats: Sequence[Verdict], run: int, folder: Path) -> Shown:
    verdict = repeats[0]
    url, is_small = None, False
    if verdict.picture is not None:
        url, is_small = _embed(folder / Path(verdict.picture).name)
    seen = "unjudged"
    if verdict.outcome == "judged":
        in_points = verdict.points is not None
        seen = "marked" if in_points else "right" if verdict.correct else "wrong"
    return Shown(
        run=run, verdict=verdict, url=url, is_small=is_small, seen=seen, repeats=len(repeats)
    )


def _outcome(groups: Sequence[Sequence[Verdict]], shown: Sequence[Sequence[Shown]]) -> str:
    words = list(dict.fromkeys(one.seen for one in shown[-1]))
    if len(groups) > 1 and groups[0] and groups[-1]:
        step = _mean(groups[-1]) - _mean(groups[0])
        words += ["gained"] * (step > 0) + ["lost"] * (step < 0)
    return " ".join(words)


def _mean(verdicts: Sequence[Verdict]) -> float:
    return sum(one.value for one in verdicts) / len(verdicts)


def _embed(path: Path) -> tuple[str | None, bool]:
    """Return a picture as a data URL of our own encoding, and whether it is tiny."""
    try:
        data = load_picture(path).data
    except (PictureError, FileNotFoundError) as error:
        logger.warning("left out of the report: %s", error)
        return None, False
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        picture = image.convert("RGB")
    if max(picture.size) > _LONGEST_SIDE:
        picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
        picture.save(buffer, format="WEBP", quality=82)
        kind = "webp"
    else:
        picture.save(buffer, format="PNG", optimize=True)
        kind = "png"
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{kind};base64,{encoded}", max(picture.size) < _PIXEL_ART_BELOW
