"""`data plan` as one call: pool, draft, decontamination, plan file, coverage, estimate, record."""

import contextlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from echo4o.client import PriceTable
from echo4o.errors import Echo4oError
from echo4o.records import JsonValue, RunRecord, write_atomic

from .author import Author, WordsEstimate
from .coverage import Coverage
from .decontaminate import DROPPED_NAME, SIMILAR_NAME, Blocklist, summary
from .drafts import draft
from .estimate import Estimate, Estimator
from .generate import LEDGER_NAME
from .plan import Draft, Entry, parse_mix, write_plan
from .pool_candidates import candidates_of
from .pool_vision import described, estimate_described
from .questions import ApiSettings, Questions
from .reference_pool import REFUSED_NAME, Pool, fill_pool

RECORD_NAME = "plan.record.json"
Seer = Callable[[Entry], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is to be planned."""

    recipe: str
    """shapes, or a recipe of drafts.py."""
    rows: int | None = None
    """None takes the recipe's own number."""
    seed: int = 0
    mix: str | None = None
    """`subset=share,...`, for recipe shapes."""
    against: tuple[Path, ...] = ()
    """Benchmark items and pictures."""
    references: str | None = None
    """Pool of pictures: a folder or `ORG/NAME[:CONFIG]`."""
    references_license: str | None = None
    """Licence of pool pictures whose metadata names none."""
    llm: str | None = None
    """Language model that words the rows; None leaves them to the grammar."""
    vlm: str | None = None
    """Vision model that classifies pool pictures of unknown kind; None refuses them."""
    api: ApiSettings = ApiSettings()
    """Of both models."""

    def parameters(self) -> dict[str, JsonValue]:
        """For the record."""
        return {
            "recipe": self.recipe,
            "rows": self.rows,
            "mix": self.mix,
            "references_license": self.references_license,
            "llm": self.llm,
            "vlm": self.vlm,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What was planned."""

    rows: int
    references: int
    dropped: int
    coverage: dict[str, JsonValue]
    estimate: Estimate | None
    words: dict[str, JsonValue]
    """What language and vision model did and cost, or would cost; empty without them."""


def write(
    request: Request,
    out: Path,
    *,
    estimator: Estimator | None = None,
    prices: PriceTable | None = None,
    dry_run: bool = False,
    progress: bool = False,
) -> Done:
    """Plan rows into the folder `out`; with `dry_run` only count and estimate.

    Raises:
        Echo4oError: `out` holds another plan with pictures, or the request needs the user.
        ValueError: a number or a share makes no sense.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    if out.exists() and not out.is_dir():
        raise Echo4oError(f"--out {out} is a file; give a folder for the plan")
    block = Blocklist(request.against)
    prices = PriceTable.load() if prices is None else prices
    seers: list[Seer] = [] if estimator is None else [estimator.add]
    with contextlib.ExitStack() as stack:
        questions = None
        if (request.llm or request.vlm) and not dry_run:
            questions = stack.enter_context(Questions(out, request.api, prices))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) if dry_run else out
        try:
            pool, made = _begin(request, folder, block, questions)
        except Echo4oError as error:
            if request.vlm is None or questions is not None:
                raise
            calls, usd = _price_of_looking(request, prices)
            raise Echo4oError(
                f"{error}. A dry run asks no model: to let {request.vlm} look at {calls} pictures "
                f"would cost about {usd:.4f} USD"
            ) from None
        if questions is None:
            coverage, words = _count(
                request, made, None if dry_run else out, seers, prices, progress
            )
        else:
            coverage, words = _word(request, made, out, seers, block, questions, progress)
    done = Done(
        rows=coverage.rows,
        references=len(made.references),
        dropped=len(block.dropped),
        coverage=coverage.to_dict(len(made.references)),
        estimate=None if estimator is None else estimator.total,
        words=words,
    )
    if not dry_run:
        write_atomic(out / DROPPED_NAME, block.report())
        write_atomic(out / SIMILAR_NAME, block.report_similar())
        if pool is not None:
            write_atomic(out / REFUSED_NAME, pool.report())
        _record(request, done, block, pool, started, time.monotonic() - clock).save(
            out / RECORD_NAME
        )
    return done


def _begin(
    request: Request, folder: Path, block: Blocklist, questions: Questions | None
) -> tuple[Pool | None, Draft]:
    pool = _pool(request, folder, block, questions)
    made = draft(
        request.recipe,
        rows=request.rows,
        seed=request.seed,
        mix=None if request.mix is None else parse_mix(request.mix),
        block=block,
        pool=None if pool is None else pool.entries,
    )
    return pool, made


def _price_of_looking(request: Request, prices: PriceTable) -> tuple[int, float]:
    """How many pictures a vision model would be asked about, and for about how much."""
    if request.vlm is None or request.references is None:
        return 0, 0.0
    return estimate_described(candidates_of(request.references)[1], request.vlm, prices)


def _pool(
    request: Request, folder: Path, block: Blocklist, questions: Questions | None
) -> Pool | None:
    if request.references is None:
        return None
    origin, candidates = candidates_of(request.references)
    if request.vlm is not None and questions is not None:
        candidates = described(candidates, request.vlm, questions)
    return fill_pool(origin, candidates, folder, licence=request.references_license, block=block)


def _count(
    request: Request,
    made: Draft,
    out: Path | None,
    seers: list[Seer],
    prices: PriceTable,
    progress: bool,
) -> tuple[Coverage, dict[str, JsonValue]]:
    """Walk the rows as they are; also tells what the models would cost that are not asked."""
    told: dict[str, JsonValue] = {}
    words = None if request.llm is None else WordsEstimate(request.llm, prices)
    coverage = _walk(made, out, seers if words is None else [*seers, words.add], progress)
    if words is not None:
        told["llm"] = {"calls": words.calls, "usd": words.usd}
    if request.vlm is not None:
        calls, usd = _price_of_looking(request, prices)
        told["vlm"] = {"calls": calls, "usd": usd}
    return coverage, told


def _word(
    request: Request,
    made: Draft,
    out: Path,
    seers: list[Seer],
    block: Blocklist,
    questions: Questions,
    progress: bool,
) -> tuple[Coverage, dict[str, JsonValue]]:
    """Walk the rows in the words of the language model, if there is one."""
    told: dict[str, JsonValue] = {}
    if request.llm is not None:
        author = Author(request.llm, questions, block)
        made = replace(made, rows=author.rewrite(made.rows, made.references))
    coverage = _walk(made, out, seers, progress)
    if request.llm is not None:
        told["llm"] = dict(sorted(author.outcomes.items()))
    return coverage, told | {"usd": questions.spent_usd}


def _walk(made: Draft, out: Path | None, seers: list[Seer], progress: bool) -> Coverage:
    """Make every row once: past everybody who wants to see it, and into `out` if there is one."""
    from tqdm import tqdm

    coverage = Coverage()
    for reference in made.references:
        for look in seers:
            look(reference)
    with tqdm(desc="plan", total=made.count, disable=not progress, delay=1.0) as bar:

        def see(row: Entry) -> None:
            coverage.add(row)
            for look in seers:
                look(row)
            bar.update()

        lines = made.lines(see)
        if out is None:
            for _ in lines:
                pass
        else:
            write_plan(out, lines, may_replace=not (out / LEDGER_NAME).exists())
    return coverage


def _record(
    request: Request,
    done: Done,
    block: Blocklist,
    pool: Pool | None,
    started: datetime,
    seconds: float,
) -> RunRecord:
    metrics = done.coverage | summary(block)
    if pool is not None:
        metrics["references_refused"] = len(pool.refused)
    if done.words:
        metrics["words"] = done.words
    if done.estimate is not None:
        metrics["estimate"] = done.estimate.to_dict()
    return RunRecord(
        name="plan",
        command="echo4o data plan",
        inputs=(*block.inputs, *(pool.inputs if pool is not None else ())),
        parameters=request.parameters(),
        seed=request.seed,
        metrics=metrics,
        started=started.isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
    )
