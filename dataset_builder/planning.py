"""`data plan` as one call: pool, draft, decontamination, plan file, coverage, estimate, record."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from echo4o.client import PriceTable
from echo4o.records import JsonValue, RunRecord, write_atomic

from .author import Author, WordsEstimate
from .author import Settings as AuthorSettings
from .coverage import Coverage
from .decontaminate import DROPPED_NAME, SIMILAR_NAME, Blocklist, summary
from .drafts import draft
from .estimate import Estimate, Estimator
from .generate import LEDGER_NAME
from .plan import Draft, Entry, parse_mix, write_plan
from .reference_pool import REFUSED_NAME, Pool, read_pool

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
    author: AuthorSettings | None = None
    """Language model that words the rows; None leaves them to the grammar."""

    def parameters(self) -> dict[str, JsonValue]:
        """For the record."""
        return {
            "recipe": self.recipe,
            "rows": self.rows,
            "mix": self.mix,
            "references_license": self.references_license,
            "llm": None if self.author is None else self.author.model,
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
    """What the language model did, or would cost; empty without one."""


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
    block = Blocklist(request.against)
    with tempfile.TemporaryDirectory() as spare:
        pool = _pool(request, Path(spare) if dry_run else out, block)
        made = draft(
            request.recipe,
            rows=request.rows,
            seed=request.seed,
            mix=None if request.mix is None else parse_mix(request.mix),
            block=block,
            pool=None if pool is None else pool.entries,
        )
    seers: list[Seer] = [] if estimator is None else [estimator.add]
    if dry_run:
        coverage, words = _count(request, made, seers, prices, progress)
    else:
        coverage, words = _make(request, made, out, seers, block, prices, progress)
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


def _pool(request: Request, folder: Path, block: Blocklist) -> Pool | None:
    if request.references is None:
        return None
    return read_pool(request.references, folder, licence=request.references_license, block=block)


def _count(
    request: Request, made: Draft, seers: list[Seer], prices: PriceTable | None, progress: bool
) -> tuple[Coverage, dict[str, JsonValue]]:
    """Make every row and keep none."""
    if request.author is None:
        return _walk(made, None, seers, progress), {}
    words = WordsEstimate(request.author.model, prices or PriceTable.load())
    coverage = _walk(made, None, [*seers, words.add], progress)
    return coverage, {"calls": words.calls, "usd": words.usd}


def _make(
    request: Request,
    made: Draft,
    out: Path,
    seers: list[Seer],
    block: Blocklist,
    prices: PriceTable | None,
    progress: bool,
) -> tuple[Coverage, dict[str, JsonValue]]:
    """Write the plan, in the words of the language model if there is one."""
    if request.author is None:
        return _walk(made, out, seers, progress), {}
    with Author(out, request.author, block=block, prices=prices) as author:
        worded = replace(made, rows=author.rewrite(made.rows, made.references))
        coverage = _walk(worded, out, seers, progress)
        return coverage, {"usd": author.spent_usd, **dict(sorted(author.outcomes.items()))}


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
