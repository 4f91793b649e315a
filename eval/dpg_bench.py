"""DPG-Bench: how much of a long prompt does a picture show, question by question?

Four pictures of a prompt (or one picture cut into four) answer all questions of the prompt; a
question whose parent failed has failed, too. A picture's points are its share of questions, an
item's the mean of its pictures, the score the mean of the items (Hu et al., 2024, arXiv
2403.05135). Categories stand there twice: over all pictures after parents had their say, and as
the published script has them, from the last picture's bare answers.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from PIL import Image

from echo4o.errors import Echo4oError

from .dpg_items import TAG, DenseItem, questions_of, read_csv, read_row
from .dpg_judges import CROPS, SCALE, KitAnswers, ReleasedAnswers, SingleAnswers
from .dpg_rules import is_yes
from .dpg_rules import score as rule
from .fetch_more import fetch_dpg
from .intervals import mean_points
from .items import KIT, Item
from .layouts import Part, check_counts, check_prompts, check_sizes
from .protocols import Finding
from .scores import RELEASED, Grading, Scores, by_item, score_points
from .sheets import Sheet
from .tasks import PAPER, Hooks, Task
from .verdicts import Verdict

NAME = "dpg_bench"
AS_RELEASED = "as released"
"""What the categories of the published script's own convention are called."""
_ENDINGS = ("png", "jpg", "jpeg", "webp")
GRADING = Grading(scale=SCALE, group_of={}, weights={TAG: 1.0}, released_weights={TAG: 1.0})


def score(verdicts: Sequence[Verdict], protocol: str) -> Scores:
    """Return all scores: overall, and each category by both conventions."""
    scores = score_points(verdicts, protocol, GRADING)
    counted = by_item(one for one in verdicts if not one.is_left_out)
    right: dict[str, list[float]] = defaultdict(list)
    released: dict[str, list[float]] = defaultdict(list)
    details: dict[str, list[float]] = defaultdict(list)
    for item in counted:
        crops = [one for one in item if one.findings]
        if not crops:
            continue
        held: dict[int, list[Finding]] = defaultdict(list)
        for crop in crops:
            for finding in crop.findings:
                held[finding.number].append(finding)
        for group in held.values():
            # A crop without answers shows nothing: it counts, as it does overall.
            share = SCALE * sum(one.satisfied for one in group) / len(item)
            right[_broad(group[0].kind)].append(share)
            details[group[0].kind].append(share)
        for finding in crops[-1].findings:
            released[_broad(finding.kind)].append(SCALE * _was_yes(finding, protocol))
    means = {name: mean_points(values, SCALE) for name, values in sorted(right.items())}
    theirs = {
        f"{name}, {AS_RELEASED}": mean_points(values, SCALE)
        for name, values in sorted(released.items())
    }
    by_tag = {name: mean_points(values, SCALE) for name, values in sorted(details.items())}
    return replace(scores, by_group={**means, **theirs}, by_tag=by_tag or scores.by_tag)


def _names(items: Sequence[Item]) -> list[str]:
    kinds = sorted({one.category for item in items for one in questions_of(item)})
    broad = sorted({_broad(kind) for kind in kinds})
    return [*broad, *(f"{name}, {AS_RELEASED}" for name in broad), *kinds]


def find_layout(items: Sequence[Item], folder: Path) -> dict[str, Path | Part]:
    """Return the crops of `<item_id>.png`, each a grid of two by two pictures.

    Raises:
        Echo4oError: a picture cannot be cut into four of one size.
    """
    found: dict[str, Path | Part] = {}
    for item in items:
        files = [folder / f"{item.name}.{ending}" for ending in _ENDINGS]
        path = next((file for file in files if file.is_file()), None)
        if path is None or not path.resolve().is_relative_to(folder.resolve()):
            continue
        for sample, box in enumerate(quarters(path), start=1):
            suffix = "" if sample == 1 else f"-{sample}"
            found[f"{item.number}{suffix}.png"] = Part(path, box)
    return found


def quarters(path: Path) -> list[tuple[int, int, int, int]]:
    """Return the boxes of a grid of two by two pictures, row by row.

    Raises:
        Echo4oError: its sides are odd, or it is no picture.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Echo4oError(f"{path} is no picture that can be read ({error})") from error
    if width % 2 or height % 2 or min(width, height) < 2:
        raise Echo4oError(
            f"{path} has {width}x{height} pixels, which is no grid of two by two pictures of one "
            "size; give such grids, or four files of each prompt (7.png, 7-2.png, 7-3.png, 7-4.png)"
        )
    x, y = width // 2, height // 2
    return [(left, top, left + x, top + y) for top in (0, y) for left in (0, x)]


def check(items: Sequence[Item], samples: Sequence[Mapping[int, Path]], protocol: str) -> None:
    """Refuse pictures of other prompts, differing sizes, and another number than four.

    One picture of every prompt will do as well (the benchmark's `pic_num` of 1).

    Raises:
        Echo4oError: the first picture or item that does not fit.
    """
    check_counts(items, samples, CROPS if len(samples) > 1 else 1)
    check_prompts(items, samples)
    check_sizes(items, samples)


def sheet(item: Item) -> Sheet:
    """Return the item's questions; people say yes or no to each, and parents have their say.

    Raises:
        Echo4oError: its questions are not known.
    """
    if not isinstance(item, DenseItem):
        raise Echo4oError(
            f"the questions of item {item.number} are not known; put the items.jsonl of this run "
            "back into its folder"
        )
    asked = questions_of(item)

    def weigh(marks: Sequence[int]) -> float:
        held = {one.number: mark == 1 for one, mark in zip(asked, marks, strict=True)}
        return SCALE * rule(asked, [held]).average

    return Sheet(lines=tuple(one.text for one in asked), weigh=weigh, scale=SCALE)


def _broad(kind: str) -> str:
    return kind.partition(" - ")[0].strip() or "other"


def _was_yes(finding: Finding, protocol: str) -> bool:
    """Whether the bare answer was yes, before parents had their say."""
    if protocol in (RELEASED, KIT):
        return is_yes(finding.reason)
    return finding.reason.strip().lower().lstrip("\"'*").startswith("yes")


TASK = Task(
    name=NAME,
    title="DPG-Bench",
    kit_items=Path(__file__).parent / "items" / "dpg_bench_kit.jsonl",
    protocols={
        KIT: KitAnswers,
        PAPER: partial(SingleAnswers, PAPER),
        RELEASED: partial(ReleasedAnswers, RELEASED),
    },
    readings={PAPER: SingleAnswers(PAPER), RELEASED: ReleasedAnswers(RELEASED)},
    read_row=read_row,
    grading=GRADING,
    about="An item has up to 100 points: the share of its questions that hold over its pictures; "
    "a question falls with the one it depends on.",
    pictures=CROPS,
    hooks=Hooks(
        read_file=read_csv,
        score=score,
        names=_names,
        layout=find_layout,
        check=check,
        fetch=fetch_dpg,
        sheet=sheet,
    ),
)
