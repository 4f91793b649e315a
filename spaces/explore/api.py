"""The four endpoints for programs, and what the page and they have in common.

Types are those of JSON; every argument is checked here, whoever asks.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypedDict

import refusals
from catalogue import Catalogue, Listed, View
from pictures import LARGE, REFERENCE, TILE, Shown, show
from refusals import Refusal
from results import Results, Run, Verdict
from stores import configured
from visitors import for_visitors

logger = logging.getLogger(__name__)

PAGE = 24
MAX_REFERENCES = 16
MAX_PAGE_ROWS = 100
CARDS = 12
WAIT_SECONDS = 20
NOTHING_SET = "No dataset is named here: set ECHO4O_DATASET to a dataset's Hub id or folder."
NO_RESULTS = (
    "No results are named here: set ECHO4O_RESULTS to a results dataset or a folder of runs."
)
catalogue = Catalogue(configured("dataset"))
results = Results(configured("results"))
_readers = ThreadPoolExecutor(8, thread_name_prefix="pictures")


class RowSummary(TypedDict):
    """A row in a list."""

    id: str
    subset: str
    category: str
    instruction: str


class RowList(TypedDict):
    """One page of rows."""

    rows: list[RowSummary]
    page: int
    pages: int
    total: int
    complete: bool


class Picture(TypedDict):
    """A bounded JPEG as a data address, and the size of the original."""

    url: str
    width: int
    height: int
    fault: str


class Row(TypedDict):
    """A row with everything that is known of it."""

    id: str
    subset: str
    category: str
    facts: dict[str, object]
    picture: Picture
    references: list[Picture]


class Score(TypedDict):
    """A score of a tag with its 95 % interval."""

    tag: str
    score: float
    low: float
    high: float
    items: int


class RunSummary(TypedDict):
    """A run: score, interval, judge and protocol stand together."""

    run: str
    task: str
    model: str
    revision: str
    score: float
    low: float
    high: float
    scale: float
    judge: str
    answered_as: str
    protocol: str
    items: int
    available: int
    started: str
    tags: list[Score]


class VerdictSummary(TypedDict):
    """What a judge said of one picture."""

    item: int
    sample: int
    tag: str
    outcome: str
    correct: bool
    points: float | None
    prompt: str
    findings: list[dict[str, object]]
    reason: str


class ResultList(TypedDict):
    """All runs, or one run with a page of its verdicts."""

    runs: list[RunSummary]
    verdicts: list[VerdictSummary]
    page: int
    pages: int
    total: int


@for_visitors
def rows(
    subset: str = "", category: str = "", page: int = 1, size: int = 24, seed: int = 0
) -> RowList:
    """Rows of a subset and category (empty: all), as released or shuffled by a seed.

    `complete` is false while the dataset is still being read: `total` will grow.
    """
    return _list(View(subset, category, "", _seed(seed)), page, size)


@for_visitors
def search(
    words: str, subset: str = "", category: str = "", page: int = 1, size: int = 24
) -> RowList:
    """Rows whose id or text holds all words; "several together" in quotes."""
    sought = refusals.text(words, "search", refusals.WORDS_CHARACTERS)
    if not sought:
        raise Refusal("The search is empty: give at least one word.")
    return _list(View(subset, category, sought), page, size)


@for_visitors
def row(id: str) -> Row:
    """One row by its id: texts, constraints, register, provenance, pictures of at most 1024 px."""
    found = find_row(id)
    target, references = row_pictures(found.place)
    return Row(
        id=found.id,
        subset=found.subset,
        category=found.category,
        facts=catalogue.facts(found.place),
        picture=_picture(target),
        references=[_picture(one) for one in references],
    )


@for_visitors
def result_list(
    task: str = "", run: str = "", tag: str = "", seen: str = "", page: int = 1
) -> ResultList:
    """All runs (of a task); for one `run` also its verdicts, 12 a page.

    `tag` and `seen` (right, wrong, marked, unjudged) choose among the verdicts.
    """
    require_results()
    if not run:
        chosen = results.runs(refusals.one_of(task, "task", results.tasks()))
        return ResultList(runs=[_run(one) for one in chosen], verdicts=[], page=1, pages=1, total=0)
    one = find_run(run)
    sought = verdicts_of(one, tag, seen)
    place, pages = page_of(page, len(sought), CARDS)
    return ResultList(
        runs=[_run(one)],
        verdicts=[_verdict(v) for v in sought[(place - 1) * CARDS : place * CARDS]],
        page=place,
        pages=pages,
        total=len(sought),
    )


def require_dataset() -> None:
    """Refuse politely while there is no dataset."""
    catalogue.wait(WAIT_SECONDS)
    if catalogue.state in ("none", "failed"):
        raise Refusal(why_no_dataset())


def why_no_dataset() -> str:
    """Why there are no rows, in one sentence."""
    if catalogue.state == "failed":
        return f"The dataset {catalogue.name} cannot be shown: {catalogue.fault}."
    return NOTHING_SET


def require_results() -> None:
    """Refuse politely while there are no results."""
    results.wait(WAIT_SECONDS)
    if results.state in ("none", "failed"):
        raise Refusal(why_no_results())


def why_no_results() -> str:
    """Why there are no runs, in one sentence."""
    if results.state == "failed":
        return f"The results {results.name} cannot be shown: {results.fault}."
    return NO_RESULTS


def checked(view: View) -> View:
    """The view, when its names are known; waits for the index before it says that they are not."""
    require_dataset()
    names = [refusals.text(one, "name", refusals.ID_CHARACTERS) for one in view[:2]]
    if (names[0] and names[0] not in catalogue.subsets()) or (
        names[1] and names[1] not in catalogue.categories(names[0])
    ):
        catalogue.wait(WAIT_SECONDS, whole=True)
    subset = refusals.one_of(names[0], "subset", catalogue.subsets())
    category = refusals.one_of(names[1], "category", catalogue.categories(subset))
    return view._replace(subset=subset, category=category)


def find_row(row_id: object) -> Listed:
    """The row of an id.

    Raises:
        Refusal: there is none, also not after the whole index was read.
    """
    require_dataset()
    sought = refusals.text(row_id, "row id", refusals.ID_CHARACTERS)
    found = catalogue.find(sought)
    if found is None and catalogue.state == "indexing":
        catalogue.wait(WAIT_SECONDS, whole=True)
        found = catalogue.find(sought)
    if found is None:
        still = "" if catalogue.state == "ready" else " (the dataset is still being read)"
        raise Refusal(f"There is no row {refusals.shown(sought)} in {catalogue.name}{still}.")
    return found


def find_run(name: object) -> Run:
    """The run of a name."""
    require_results()
    found = results.run(refusals.text(name, "run", refusals.ID_CHARACTERS * 2))
    if found is None:
        raise Refusal(f"There is no run {refusals.shown(name)} in {results.name}.")
    return found


def verdicts_of(run: Run, tag: object, seen: object) -> list[Verdict]:
    """The verdicts of a run that a filter lets through."""
    sought = results.verdicts(run.name)
    tag = refusals.one_of(tag, "tag", list(dict.fromkeys(one.tag for one in sought)))
    seen = refusals.one_of(seen, "verdict", ["right", "wrong", "marked", "unjudged"])
    return [one for one in sought if tag in ("", one.tag) and seen in ("", one.seen)]


def page_of(page: object, total: int, size: int) -> tuple[int, int]:
    """The page and the number of pages; a page beyond them is the last."""
    pages = max(1, -(-total // size))
    return min(refusals.whole(page, "page", 1, refusals.MAX_PAGE), pages), pages


@lru_cache(1024)
def thumb(place: int) -> Shown:
    """The small picture of a row."""
    return show(catalogue.pictures(place, "output_image")[0], TILE)


def thumbs(places: Sequence[int]) -> list[Shown]:
    """Small pictures of many rows, read side by side."""
    return list(_readers.map(lambda place: tried(lambda: [thumb(place)])[0], places))


def tried(read: Callable[[], list[Shown]]) -> list[Shown]:
    """Pictures, or that they cannot be read now: a bad page or a slow Hub costs nothing else."""
    try:
        return read()
    except Exception:
        logger.exception("a picture cannot be read")
        return [Shown("", fault="This picture cannot be read now")]


def row_pictures(place: int) -> tuple[Shown, list[Shown]]:
    """Target and references of a row, in order."""

    def read(column: str, side: int) -> list[Shown]:
        return [show(one, side) for one in catalogue.pictures(place, column)[:MAX_REFERENCES]]

    target = _readers.submit(read, "output_image", LARGE)
    references = tried(lambda: read("input_images", REFERENCE))
    return tried(target.result)[0], references


@lru_cache(256)
def judged(run: str, place: int) -> Shown:
    """The picture of a verdict."""
    data = results.picture(run, place)
    return show(data, REFERENCE) if data else Shown("", fault="Not published with the results")


def judged_pictures(run: str, verdicts: Sequence[Verdict]) -> list[Shown]:
    """The pictures of many verdicts, read side by side."""
    return list(_readers.map(lambda one: judged(run, one.place), verdicts))


def _seed(value: object) -> int:
    return refusals.whole(value, "seed", 0, refusals.MAX_SEED)


def _list(view: View, page: object, size: object) -> RowList:
    view = checked(view)
    rows_ = refusals.whole(size, "size", 1, MAX_PAGE_ROWS)
    total = catalogue.total(view)
    place, pages = page_of(page, total, rows_)
    listed = catalogue.page(view, (place - 1) * rows_, rows_)
    return RowList(
        rows=[
            RowSummary(id=o.id, subset=o.subset, category=o.category, instruction=o.instruction)
            for o in listed
        ],
        page=place,
        pages=pages,
        total=total,
        complete=catalogue.state == "ready",
    )


def _picture(shown: Shown) -> Picture:
    return Picture(url=shown.url, width=shown.width, height=shown.height, fault=shown.fault)


def _run(run: Run) -> RunSummary:
    return RunSummary(
        run=run.name,
        task=run.task,
        model=run.model,
        revision=run.revision,
        score=run.overall,
        low=run.low,
        high=run.high,
        scale=run.scale,
        judge=run.judge,
        answered_as=run.answered_as,
        protocol=run.protocol,
        items=run.items,
        available=run.available,
        started=run.started,
        tags=[
            Score(tag=one.name, score=one.score, low=one.low, high=one.high, items=one.items)
            for one in run.tags
        ],
    )


def _verdict(verdict: Verdict) -> VerdictSummary:
    return VerdictSummary(
        item=verdict.number,
        sample=verdict.sample,
        tag=verdict.tag,
        outcome=verdict.outcome,
        correct=verdict.correct,
        points=verdict.points,
        prompt=verdict.prompt,
        findings=[line._asdict() for line in verdict.lines],
        reason=verdict.reason,
    )
