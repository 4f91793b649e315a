"""Ends a check: marks near-duplicates, counts verdicts, and makes the file visible."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from echo4o.records import Input, JsonValue, RunRecord, sha256_file, whole_file

from .deciding import Rules
from .duplicates import find_duplicates, group_of
from .perceptual import VIEW_BYTES
from .plan import PLAN_NAME, Plan
from .verdicts import CHECK_NAME, Verdict, applied, header_line, paired, read_verdicts

if TYPE_CHECKING:
    import pyarrow as pa

RECORD_NAME = "check.json"
_BATCH_ROWS = 2_000


@dataclass(slots=True)
class Counted:
    """Counters over verdicts; `to_dict` is what the record and the card show."""

    by_decision: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    safety: Counter[str] = field(default_factory=Counter)
    credentials: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    before: dict[str, Counter[bool]] = field(default_factory=dict)
    """By subset: judged rows that follow the asked text, or do not."""
    after: dict[str, Counter[bool]] = field(default_factory=dict)
    """By subset: rows that stay, with the text that they have then."""

    def add(self, subset: str, verdict: Verdict) -> None:
        """Count one verdict."""
        self.by_decision[verdict.decision] += 1
        self.duplicates += verdict.duplicate_of is not None
        if verdict.decision == "drop":
            self.dropped[verdict.reason.partition(":")[0]] += 1
        for name, is_found in (
            ("unsafe content", verdict.unsafe),
            ("possible minor", verdict.possible_minor),
            ("known trademark", verdict.trademark),
            ("flagged by moderation", verdict.moderation),
        ):
            self.safety[name] += bool(is_found)
        if verdict.credentials is not None:
            valid = {True: "valid", False: "invalid", None: "not verified"}
            self.credentials[valid[verdict.credentials["valid"]]] += 1  # type: ignore[index]
        if verdict.aligned is None:
            return
        self.before.setdefault(subset, Counter())[verdict.aligned] += 1
        if verdict.decision != "drop":
            now = bool(verdict.aligned_after if verdict.decision == "rewrite" else verdict.aligned)
            self.after.setdefault(subset, Counter())[now] += 1

    def to_dict(self) -> dict[str, JsonValue]:
        """JSON, every counter sorted by name."""
        return {
            "rows": self.by_decision.total(),
            "decisions": _sorted(self.by_decision),
            "dropped": _sorted(self.dropped),
            "safety": _sorted(self.safety),
            "credentials": _sorted(self.credentials),
            "near_duplicates": self.duplicates,
            "aligned_before": _shares(self.before),
            "aligned_after": _shares(self.after),
        }

    def lines(self) -> Iterator[str]:
        """The counts in words."""
        told = ", ".join(f"{count} {name}" for name, count in sorted(self.by_decision.items()))
        yield f"{self.by_decision.total()} rows: {told}; {self.duplicates} near-duplicates"
        for subset, counts in sorted(self.before.items()):
            then = self.after.get(subset, Counter())
            yield (
                f"  {subset}: {counts[True]} of {counts.total()} follow their text, "
                f"{then[True]} of {then.total()} after rewriting and dropping"
            )
        for name, counter in (("dropped", self.dropped), ("safety", self.safety)):
            found = [f"{count} {what}" for what, count in sorted(counter.items()) if count]
            if found:
                yield f"  {name}: {', '.join(found)}"


def finish_check(
    folder: Path, partial_name: str, plan: Plan, rules: Rules, started: datetime
) -> Counted:
    """Turn the partial file into check.jsonl, with near-duplicates marked, and write the record."""
    clock = time.monotonic()
    partial = folder / partial_name
    marks = find_duplicates(_batches(partial, plan))
    repeats = dict(
        zip(marks.column("id").to_pylist(), marks.column("duplicate_of").to_pylist(), strict=True)
    )
    header, verdicts = read_verdicts(partial)
    counted = Counted()
    with whole_file(folder / CHECK_NAME) as file:
        file.write(header_line(header).encode())
        for row, verdict in paired(plan.rows, verdicts):
            marked = replace(verdict, duplicate_of=repeats.get(verdict.id))
            counted.add(row.subset, marked)
            file.write(marked.to_line().encode())
    partial.unlink()
    RunRecord(
        name="check",
        command="echo4o data check",
        inputs=(Input(kind="plan", id=plan.recipe, sha256=sha256_file(folder / PLAN_NAME)),),
        parameters=rules.to_dict(),
        metrics=counted.to_dict() | {"search_seconds": round(time.monotonic() - clock, 3)},
        files={CHECK_NAME: sha256_file(folder / CHECK_NAME)},
        started=started.isoformat(timespec="seconds"),
        seconds=round((datetime.now(UTC) - started).total_seconds(), 3),
    ).save(folder / RECORD_NAME)
    return counted


def _batches(path: Path, plan: Plan) -> Iterator["pa.RecordBatch"]:
    """`id`, `group`, `views` of the rows that stay, a batch at a time."""
    import pyarrow as pa

    kind = pa.schema(
        [("id", pa.string()), ("group", pa.string()), ("views", pa.binary(VIEW_BYTES))]
    )
    cells: list[dict[str, object]] = []
    for entry, verdict in paired(plan.rows, read_verdicts(path)[1]):
        if verdict.decision == "drop":
            continue
        row = applied(entry, verdict)
        group = group_of(row.subset, row.instruction, row.constraints, row.references)
        cells.append({"id": row.id, "group": group, "views": verdict.view_hashes()})
        if len(cells) == _BATCH_ROWS:
            yield pa.RecordBatch.from_pylist(cells, schema=kind)
            cells = []
    yield pa.RecordBatch.from_pylist(cells, schema=kind)


def _sorted(counts: Counter[str]) -> dict[str, JsonValue]:
    return dict(sorted(counts.items()))


def _shares(counts: dict[str, Counter[bool]]) -> dict[str, JsonValue]:
    """By subset and together: aligned rows, judged rows, share."""
    both = {**counts, "all": sum(counts.values(), Counter())}
    return {
        subset: {
            "aligned": found[True],
            "judged": found.total(),
            "share": round(found[True] / found.total(), 4) if found.total() else None,
        }
        for subset, found in both.items()
    }
