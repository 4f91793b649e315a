"""`data plan` as one call: pool, draft, decontamination, plan file, coverage, estimate, record."""

import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from echo4o.records import JsonValue, RunRecord, write_atomic

from .coverage import Coverage
from .decontaminate import DROPPED_NAME, SIMILAR_NAME, Blocklist, summary
from .drafts import draft
from .estimate import Estimate, Estimator
from .generate import LEDGER_NAME
from .plan import Draft, Entry, parse_mix, write_plan
from .reference_pool import REFUSED_NAME, Pool, read_pool

RECORD_NAME = "plan.record.json"


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

    def parameters(self) -> dict[str, JsonValue]:
        """For the record."""
        return {
            "recipe": self.recipe,
            "rows": self.rows,
            "mix": self.mix,
            "references_license": self.references_license,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What was planned."""

    rows: int
    references: int
    dropped: int
    coverage: dict[str, JsonValue]
    estimate: Estimate | None


def write(
    request: Request,
    out: Path,
    *,
    estimator: Estimator | None = None,
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
    coverage = _walk(made, out, estimator, dry_run, progress)
    done = Done(
        rows=coverage.rows,
        references=len(made.references),
        dropped=len(block.dropped),
        coverage=coverage.to_dict(len(made.references)),
        estimate=None if estimator is None else estimator.total,
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


def _walk(
    made: Draft, out: Path, estimator: Estimator | None, dry_run: bool, progress: bool
) -> Coverage:
    """Make every row once: into the file, the coverage and the estimate."""
    from tqdm import tqdm

    coverage = Coverage()
    if estimator is not None:
        for reference in made.references:
            estimator.add(reference)
    with tqdm(desc="plan", total=made.count, disable=not progress, delay=1.0) as bar:

        def see(row: Entry) -> None:
            coverage.add(row)
            if estimator is not None:
                estimator.add(row)
            bar.update()

        lines = made.lines(see)
        if dry_run:
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
