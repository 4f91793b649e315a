"""The report's cards: each item with its pictures of all runs and what the judge said of them."""

import base64
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from echo4o.pictures import PictureError

from .pictures import load_picture
from .report_extras import has_boxes, with_boxes
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
    references: list[str]
    """Reference pictures of the item, in order."""


def make_cards(
    runs: Sequence[Run], progress: bool, references: Mapping[int, Sequence[str]] | None = None
) -> list[Card]:
    """Return a card for every item that any of the runs has, pictures embedded.

    Args:
        runs: Oldest first.
        progress: Show a bar on stderr.
        references: Files of each item's reference pictures, by number.
    """
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
                references=_references((references or {}).get(number, ())),
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
        url, is_small = _embed(folder / Path(verdict.picture).name, verdict)
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


def _references(files: Sequence[str]) -> list[str]:
    return [url for file in files if (url := _embed(Path(file))[0]) is not None]


def _embed(path: Path, verdict: Verdict | None = None) -> tuple[str | None, bool]:
    """Return a picture as a data URL of our own encoding, and whether it is tiny.

    A verdict of a detector has its boxes drawn.
    """
    try:
        data = load_picture(path).data
    except (PictureError, FileNotFoundError) as error:
        logger.warning("left out of the report: %s", error)
        return None, False
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        picture = image.convert("RGB")
    original = picture.size
    if verdict is not None and has_boxes(verdict) and max(original) < _LONGEST_SIDE:
        side = _LONGEST_SIDE // max(original)
        picture = picture.resize((side * original[0], side * original[1]), Image.Resampling.NEAREST)
    if max(picture.size) > _LONGEST_SIDE:
        picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
    if verdict is not None and has_boxes(verdict):
        picture = with_boxes(picture, verdict, original)
    if max(original) > _LONGEST_SIDE:
        picture.save(buffer, format="WEBP", quality=82)
        kind = "webp"
    else:
        picture.save(buffer, format="PNG", optimize=True)
        kind = "png"
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{kind};base64,{encoded}", max(picture.size) < _PIXEL_ART_BELOW
