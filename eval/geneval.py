"""GenEval: are the objects, numbers, colours and places of a short prompt in the picture?

Six kinds of items (tags), four pictures of each prompt, judged by a detector and a colour
classifier (Ghosh et al., 2023, arXiv 2310.11513). A picture is right only if all of its item is;
the score is the mean of the tags' shares of right pictures. Published numbers mix the short prompts
with rewritten long ones, so a result always says which it had.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echo4o.errors import Echo4oError

from .bare_pixels import write_pixels
from .english import plural
from .fetch_more import fetch_geneval
from .geneval_classes import NAMES
from .geneval_rules import COLOURS, POSITIONS, Boxes, problems
from .intervals import stratified
from .items import KIT, Constraint, Item, ItemSet, tags, text
from .layouts import Part, check_counts, check_prompts
from .pictures import Picture, opened
from .protocols import Finding, JudgeProtocol, Question, UnreadableReply, one_object
from .scores import RELEASED, Scores, by_item, score_shares
from .sheets import Sheet
from .tasks import PAPER, Hooks, Task
from .verdicts import Verdict
from .wording import ITEM_FILES

NAME = "geneval"
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
SAMPLES = 4
REWRITTEN = "rewritten"
"""Source of the long prompts."""
ANY_RIGHT = "prompts with a right picture"
_LABELS = {
    ITEM_FILES["geneval"].sha256: "short prompts",
    ITEM_FILES["geneval_rewritten"].sha256: "rewritten long prompts",
}
_DIGITS = re.compile(r"\d+\.png", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectedItem(Item):
    """A prompt whose objects a detector can find."""

    positions: tuple[tuple[str, int] | None, ...] = ()
    """For each object in `include`: where it lies, as seen from which earlier one."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSONL object of this item."""
        include = []
        for part, position in zip(self.include, self.positions, strict=True):
            row: dict[str, Any] = {"class": part.name, "count": part.count}
            row |= {"color": part.color} if part.color else {}
            include.append(row | ({"position": list(position)} if position else {}))
        exclude = [{"class": part.name, "count": part.count} for part in self.exclude]
        row = {"tag": self.tag, "include": include}
        return {**row, **({"exclude": exclude} if exclude else {}), "prompt": self.prompt}


def read_row(value: object, index: int) -> Item:
    """Read a row {tag, include, exclude?, prompt}; ValueError says what is wrong with it."""
    if not isinstance(value, Mapping):
        raise ValueError(f"an item must be a JSON object, got {value!r:.80}")
    tag, prompt = text(value, "tag"), text(value, "prompt")
    if tag not in TAGS or prompt is None:
        raise ValueError(f"`prompt` must be a text and `tag` one of {', '.join(TAGS)}, got {tag!r}")
    include = value.get("include")
    if not isinstance(include, list) or not include:
        raise ValueError("`include` must list at least one object")
    exclude = value.get("exclude") or []
    if not isinstance(exclude, list):
        raise ValueError(f"`exclude` must be a list, got {exclude!r:.80}")
    return DetectedItem(
        number=index,
        tag=tag,
        prompt=prompt,
        name=str(index),  # the benchmark may have a prompt twice
        include=tuple(map(_constraint, include)),
        exclude=tuple(map(_constraint, exclude)),
        positions=tuple(_position(part, place) for place, part in enumerate(include)),
    )


def _constraint(part: object) -> Constraint:
    if not isinstance(part, Mapping):
        raise ValueError(f"a part of an item must be an object with `class`, got {part!r:.80}")
    known = Constraint.parse({key: one for key, one in part.items() if key != "position"})
    if known.name not in NAMES:
        raise ValueError(f"`class` is {known.name!r:.40}, none of the 80 things that are detected")
    if known.color is not None and known.color not in COLOURS:
        raise ValueError(f"`color` is {known.color!r:.40}; known: {', '.join(COLOURS)}")
    return known


def _position(part: Mapping[str, Any], place: int) -> tuple[str, int] | None:
    given = part.get("position")
    if given is None:
        return None
    if (
        not isinstance(given, list | tuple)
        or len(given) != 2
        or given[0] not in POSITIONS
        or type(given[1]) is not int
        or not 0 <= given[1] < place
    ):
        raise ValueError(
            f"`position` is {given!r:.60}; it must be one of {', '.join(POSITIONS)} and the index "
            "of an earlier object"
        )
    return given[0], given[1]


class DetectorProtocol(JudgeProtocol):
    """The benchmark's rules over what a detector found.

    `released` takes exactly four pictures of each prompt, as the published script does; the rules
    are the same in all readings.
    """

    version = "1"
    by_detector = True

    def __init__(self, name: str) -> None:
        self.name = name

    def load(self, path: Path) -> Picture:
        """Return the picture upright and RGB, as the bare pixels that a detector is given."""
        with opened(path.read_bytes(), path.name) as image:
            return Picture(name=path.name, data=write_pixels(image))

    def question(self, item: Item, attempt: int = 0) -> Question:
        """Return the item's row, which says whose colours matter."""
        row = {key: part for key, part in item.to_json().items() if key != "prompt"}
        return Question(system=None, text=json.dumps(row, sort_keys=True), max_tokens=1)

    def read(self, item: Item, reply: str) -> tuple[Finding, ...]:
        """Return one finding per part of the item.

        Raises:
            UnreadableReply: it is not what a detector answers.
        """
        objects = read_objects(reply)

        def colour_of(name: str, numbers: NDArray[np.int64]) -> list[str]:
            return [objects[name][1].get(int(number), "") for number in numbers]

        boxes = {name: found for name, (found, _) in objects.items()}
        wrong = problems(item.to_json(), boxes, colour_of)
        return tuple(
            Finding(expectation=line, satisfied=problem is None, reason=problem or "")
            for line, problem in zip(_lines(item), wrong, strict=True)
        )

    def usual_reply(self, item: Item) -> str:
        """Return an empty answer; a detector is not paid by its length."""
        return '{"objects": {}}'


def read_objects(reply: str) -> dict[str, tuple[Boxes, dict[int, str]]]:
    """Return what a detector's answer holds, by class: boxes (objects, 5), colours by number.

    Raises:
        UnreadableReply: it is not such an answer.
    """
    value = one_object(reply).get("objects")
    try:
        return {
            str(name): (
                np.array(found["boxes"], dtype=np.float32).reshape(-1, 5),
                {int(number): str(word) for number, word in found["colours"].items()},
            )
            for name, found in value.items()  # type: ignore[union-attr]
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableReply(f"this is not what a detector answers ({error!r:.80})") from error


def _lines(item: Item) -> list[str]:
    """What is expected, part by part."""
    assert isinstance(item, DetectedItem)
    lines = []
    for part, position in zip(item.include, item.positions, strict=True):
        words = [str(part.count), part.color, plural(part.name, part.count)]
        if position is not None:
            words.append(f"{position[0]} the {item.include[position[1]].name}")
        lines.append(" ".join(word for word in words if word))
    fewer = (f"fewer than {part.count} {plural(part.name, part.count)}" for part in item.exclude)
    return [*lines, *fewer]


def score(verdicts: Sequence[Verdict], protocol: str) -> Scores:
    """Return all scores, with the share of prompts of which at least one picture is right."""
    scores = score_shares(verdicts, protocol)
    groups: dict[str, list[float]] = {}
    for item in by_item(verdicts):
        groups.setdefault(item[0].tag, []).append(float(any(one.correct for one in item)))
    return replace(scores, by_group={ANY_RIGHT: stratified(groups, macro=False)})


def _names(items: Sequence[Item]) -> list[str]:
    return [ANY_RIGHT, *tags(items)]


def label(found: ItemSet) -> ItemSet:
    """Return the items under the name of their prompts, where that is known by their hash."""
    name = _LABELS.get(found.sha256)
    return found if name is None else replace(found, source=name)


def find_layout(items: Sequence[Item], folder: Path) -> dict[str, Path | Part]:
    """Return the pictures of `00000/samples/0000.png`, by the names that we give them.

    Raises:
        Echo4oError: a folder's own metadata name another prompt than its item's.
    """
    found: dict[str, Path | Part] = {}
    for item in items:
        own = folder / f"{item.number - 1:05d}"
        if not own.is_dir():
            continue
        _check_prompt(own, item)
        files = (own / "samples").iterdir() if (own / "samples").is_dir() else ()
        pictures = [one for one in files if _DIGITS.fullmatch(one.name) and not one.is_symlink()]
        for sample, path in enumerate(sorted(pictures), start=1):
            suffix = "" if sample == 1 else f"-{sample}"
            found[f"{item.number}{suffix}.png"] = path
    return found


def _check_prompt(folder: Path, item: Item) -> None:
    path = folder / "metadata.jsonl"
    if not path.is_file():
        return
    try:
        prompt = json.loads(path.read_text("utf-8")).get("prompt")
    except (ValueError, AttributeError) as error:
        raise Echo4oError(f"{path} is damaged ({error}); make the folder anew") from error
    if prompt != item.prompt:
        raise Echo4oError(
            f"{path} says that its pictures were made from {prompt!r:.60}, but item {item.number} "
            f"is {item.prompt!r:.60}; give the items that the pictures were made for"
        )


def check(items: Sequence[Item], samples: Sequence[Mapping[int, Path]], protocol: str) -> None:
    """Refuse pictures of other prompts, and another number than four outside of `kit`.

    Raises:
        Echo4oError: the first picture or item that does not fit.
    """
    check_counts(items, samples, len(samples) if protocol == KIT else SAMPLES)
    check_prompts(items, samples)


def sheet(item: Item) -> Sheet:
    """Return what people hold a picture against: the same lines as the detector's findings."""
    return Sheet(checklist=tuple(_lines(item) if isinstance(item, DetectedItem) else ()))


TASK = Task(
    name=NAME,
    title="GenEval",
    kit_items=Path(__file__).parent / "items" / "geneval_kit.jsonl",
    protocols={name: partial(DetectorProtocol, name) for name in (KIT, PAPER, RELEASED)},
    readings={},
    read_row=read_row,
    about="A picture is right only if all objects, numbers, colours and places of its prompt are "
    "found; an item counts the share of its right pictures.",
    pictures=SAMPLES,
    more_items={REWRITTEN: "geneval_rewritten"},
    hooks=Hooks(
        label=label,
        score=score,
        names=_names,
        layout=find_layout,
        check=check,
        fetch=fetch_geneval,
        sheet=sheet,
    ),
)
