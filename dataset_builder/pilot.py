"""The pilot: a small stratified purchase that tells what the whole plan will cost and lose.

What is done with its report is in pauses.py.
"""

import heapq
import math
import statistics
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from echo4o.errors import Echo4oError
from echo4o.records import JsonValue

from .band import WATCHED, Range, stratum, wilson
from .plan import Entry, quotas
from .purchases import Purchases

_Z = 1.96
_UNKNOWN_USD = 1e9
"""Stands for no bound, in a file that knows no infinity."""


class Chosen(Collection[Entry]):
    """Some rows of a plan, in its order."""

    def __init__(self, rows: Collection[Entry], ids: frozenset[str]) -> None:
        self._rows = rows
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, entry: object) -> bool:
        return isinstance(entry, Entry) and entry.id in self.ids

    def __iter__(self) -> Iterator[Entry]:
        return (row for row in self._rows if row.id in self.ids)


def choose(rows: Collection[Entry], count: int) -> Chosen:
    """`count` rows, of every subset and category by its share and at least one; always the same.

    Raises:
        Echo4oError: there are fewer rows than that, or more strata.
    """
    sizes = Counter(map(stratum, rows))
    if not len(sizes) <= count <= len(rows):
        raise Echo4oError(
            f"--pilot {count} does not fit: the plan has {len(rows)} rows in {len(sizes)} "
            f"categories, so give {len(sizes)} to {len(rows)}"
        )
    wanted = quotas(count, dict(sizes))
    for name in [name for name, some in wanted.items() if not some]:
        wanted[name] = 1
        wanted[max(wanted, key=lambda one: (wanted[one], one))] -= 1
    best: dict[str, list[tuple[int, str]]] = {name: [] for name in sizes}
    for row in rows:
        rank = int.from_bytes(blake2b(row.id.encode(), digest_size=8).digest(), "big")
        kept = best[stratum(row)]
        add = heapq.heappush if len(kept) < wanted[stratum(row)] else heapq.heappushpop
        add(kept, (-rank, row.id))
    return Chosen(rows, frozenset(name for kept in best.values() for _, name in kept))


@dataclass(slots=True)
class Stratum:
    """What the pilot saw in one subset and category."""

    planned: int
    outcomes: Counter[str] = field(default_factory=Counter)
    reworded: int = 0
    costs: list[float] = field(default_factory=list)
    """Of each row that was asked, all attempts together."""
    prices: list[float] = field(default_factory=list)
    """Of each picture alone, without the discount of the Batch API."""
    judged: int = 0
    """Rows that a check model could judge; 0 without one."""
    misaligned: int = 0
    rewritten: int = 0
    """Rows whose text the check rewrote."""

    @property
    def asked(self) -> int:
        """Rows of the pilot."""
        return self.outcomes.total()

    def bands(self) -> dict[str, Range]:
        """What the full run may do in this stratum."""
        done = [price for price in self.prices if price > 0] or [0.0, _UNKNOWN_USD]
        rates = {name: wilson(self.outcomes[name], self.asked) for name in WATCHED}
        return {**rates, "usd": Range(min(done), max(done))}


@dataclass(slots=True)
class Report:
    """What a pilot found; `bill` is for the whole plan."""

    strata: dict[str, Stratum]
    reference_costs: list[float]
    references: int
    """Reference pictures that the whole plan has to buy."""
    check_usd: float
    """Paid for checking the pilot's rows."""

    def share(self, name: str) -> tuple[int, int]:
        """How many rows of how many: refused, failed, reworded, misaligned or rewritten."""
        all_ = self.strata.values()
        if name in ("misaligned", "rewritten"):
            return sum(getattr(one, name) for one in all_), sum(one.judged for one in all_)
        if name == "reworded":
            return sum(one.reworded for one in all_), sum(one.asked for one in all_)
        return sum(one.outcomes[name] for one in all_), sum(one.asked for one in all_)

    @property
    def rows(self) -> int:
        """Rows of the pilot."""
        return sum(one.asked for one in self.strata.values())

    def bill(self) -> tuple[float, Range]:
        """Price of the whole plan in USD and its 95 % interval, by a stratified estimate."""
        every = [cost for one in self.strata.values() for cost in one.costs]
        parts = [(one.planned, one.costs) for one in self.strata.values()]
        parts.append((self.references, self.reference_costs))
        total = variance = 0.0
        for size, costs in parts:
            if not costs:
                continue
            sample = costs if len(costs) > 1 else every
            spread = statistics.variance(sample) if len(sample) > 1 else 0.0
            total += size * statistics.fmean(costs)
            unseen = max(0.0, 1 - len(costs) / size)
            variance += size * size * spread / len(costs) * unseen
        planned = sum(one.planned for one in self.strata.values())
        total += self.check_usd * planned / max(1, self.rows)
        half = _Z * math.sqrt(variance)
        return total, Range(max(0.0, total - half), total + half)

    def lines(self) -> Iterator[str]:
        """The report in words."""
        yield f"pilot: {self.rows} rows in {len(self.strata)} categories"
        for name in ("refused", "failed", "reworded", "misaligned", "rewritten"):
            hits, of = self.share(name)
            if not of:
                yield f"  {name}: unknown, no check was made (give --check-model)"
                continue
            low, high = wilson(hits, of)
            yield (
                f"  {name}: {hits} of {of}, {100 * hits / of:.1f} % "
                f"[{100 * low:.1f}, {100 * high:.1f}]"
            )
        for name, one in sorted(self.strata.items()):
            told = ", ".join(f"{count} {word}" for word, count in sorted(one.outcomes.items()))
            yield f"  {name}: {told}; {statistics.fmean(one.costs or [0.0]):.5f} USD a row"
        total, (low, high) = self.bill()
        planned = sum(one.planned for one in self.strata.values())
        yield f"cost per row: {total / max(1, planned):.5f} USD, references and checks included"
        yield f"projected bill of {planned} rows: {total:.2f} USD [{low:.2f}, {high:.2f}]"

    def to_dict(self) -> dict[str, JsonValue]:
        """The report for its file."""
        total, interval = self.bill()
        shares: dict[str, JsonValue] = {}
        for name in ("refused", "failed", "reworded", "misaligned", "rewritten"):
            hits, of = self.share(name)
            shares[name] = {"rows": hits, "of": of, "interval": list(wilson(hits, of))}
        strata: dict[str, JsonValue] = {
            name: {
                "planned": one.planned,
                "outcomes": dict(sorted(one.outcomes.items())),
                "band": {rate: list(range_) for rate, range_ in one.bands().items()},
            }
            for name, one in sorted(self.strata.items())
        }
        return {
            "rows": self.rows,
            "shares": shares,
            "strata": strata,
            "bill_usd": {"total": total, "low": interval.low, "high": interval.high},
            "check_usd": self.check_usd,
        }


def examine(
    purchases: Purchases,
    chosen: Chosen,
    *,
    judged: Mapping[str, tuple[bool | None, bool]] | None = None,
    check_usd: float = 0.0,
    batch_factor: float = 1.0,
) -> Report:
    """Count what became of the chosen rows.

    `batch_factor` is the share of the price that a batch pays.
    `judged` is, by row, whether the picture follows its text (None: unknown) and whether the text
    was rewritten.
    """
    strata = {
        name: Stratum(size) for name, size in Counter(map(stratum, purchases.plan.rows)).items()
    }
    for row in chosen:
        one = strata[stratum(row)]
        story = purchases.story(row)
        if story is None or story.bought is None:
            one.outcomes["no reference" if story is None else "not asked"] += 1
            continue
        one.outcomes[story.bought.state] += 1
        one.costs.append(story.cost_usd)
        if story.bought.state == "done":
            share = batch_factor if story.bought.batch is not None else 1.0
            one.prices.append(story.bought.cost_usd / share)
        one.reworded += bool(story.before) and story.bought.state == "done"
        is_aligned, is_rewritten = (judged or {}).get(row.id, (None, False))
        if is_aligned is not None:
            one.judged += 1
            one.misaligned += not is_aligned
            one.rewritten += is_rewritten
    made = [entry for entry in purchases.plan.references if entry.source is None]
    stories = (purchases.story(entry) for entry in made)
    costs = [story.cost_usd for story in stories if story and story.bought]
    return Report(strata, costs, len(made), check_usd)


def needed(references: Sequence[Entry], chosen: Chosen) -> list[Entry]:
    """The references of the chosen rows."""
    names = {name for row in chosen for name in row.references}
    return [entry for entry in references if entry.id in names]
