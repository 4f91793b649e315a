"""What `data stats` and `data show` say of a dataset: its contents, and the paper's two arguments.

That texts fit their pictures (before and after rewriting), and that rare combinations and plain
backgrounds are there in numbers.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from echo4o.hub_errors import patiently
from echo4o.ledger import Ledger
from echo4o.records import JsonValue
from echo4o.schema import Row, included

from .captions import Combinations, read_captions
from .generate import LEDGER_NAME
from .look import pinned, stream, text_columns
from .questions import read_object
from .sampling import is_plain_or_none, sample
from .tally import Tally

if TYPE_CHECKING:
    from tqdm import tqdm


@dataclass(slots=True)
class Quality:
    """Counters over rows that were checked."""

    checked: Counter[str] = field(default_factory=Counter)
    before: Counter[str] = field(default_factory=Counter)
    """By subset: rows whose picture follows what was asked."""
    after: Counter[str] = field(default_factory=Counter)
    """By subset: rows whose picture follows the text that they have."""
    rewritten: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    credentials: Counter[str] = field(default_factory=Counter)
    combinations: Combinations = field(default_factory=Combinations)

    def add(self, record: Mapping[str, object]) -> None:
        """Count one row as loaded."""
        subset = str(record["subset"])
        if subset == "instruction_following" and record["constraints"] is not None:
            self.combinations.add(included(read_object(record["constraints"])))
        provenance = read_object(record["provenance"])
        found, signed = provenance.get("check"), provenance.get("content_credentials")
        if isinstance(signed, dict) and signed.get("present"):
            names = {"True": "valid", "False": "invalid"}
            self.credentials[names.get(str(signed.get("valid")), "not verified")] += 1
        if not isinstance(found, dict):
            return
        self.duplicates += found.get("duplicate_of") is not None
        if found.get("aligned") is None:
            return
        is_rewritten = found.get("decision") == "rewrite"
        self.checked[subset] += 1
        self.rewritten[subset] += is_rewritten
        self.before[subset] += bool(found["aligned"])
        self.after[subset] += bool(found.get("aligned_after" if is_rewritten else "aligned"))

    def to_dict(self) -> dict[str, JsonValue]:
        """JSON, by subset and together."""
        subsets: dict[str, JsonValue] = {
            name: _alignment(count, self.before[name], self.after[name], self.rewritten[name])
            for name, count in sorted(self.checked.items())
        }
        sums = (one.total() for one in (self.checked, self.before, self.after, self.rewritten))
        return {
            "aligned": {**subsets, "all": _alignment(*sums)},
            "near_duplicates": self.duplicates,
            "content_credentials": dict(sorted(self.credentials.items())),
            "combinations": self.combinations.to_dict(),
        }


def stats(
    dataset: str,
    config: str = "all",
    revision: str | None = None,
    *,
    pictures: int = 0,
    captions: Path | None = None,
    plan: Path | None = None,
    progress: bool = False,
) -> dict[str, JsonValue]:
    """Everything that can be said of one config; `pictures` of each subset are looked at.

    Args:
        dataset: Folder or Hub id.
        config: One of its configs.
        revision: Commit, branch or tag of a Hub id.
        pictures: How many pictures of each subset are held against "plain background".
        captions: File of real captions to compare combinations with.
        plan: Folder with the ledger that paid for the pictures.
        progress: Whether bars are drawn on stderr.

    Raises:
        Echo4oError: the dataset, the captions or the ledger cannot be read.
    """
    revision = pinned(dataset, revision)
    paid = None if plan is None else bought(plan)
    if captions is not None:
        next(read_captions(captions), None)  # a wrong file is told before minutes are spent
    count = partial(_count, dataset, config, revision, captions, progress)
    told = patiently(f"read {dataset}", count)
    if pictures:
        look = partial(_plain, dataset, config, pictures, revision, progress)
        told["plain_backgrounds"] = patiently(f"read pictures of {dataset}", look)
    if paid is not None:
        told["bought"] = paid
    return told


def _count(
    dataset: str, config: str, revision: str | None, captions: Path | None, progress: bool
) -> dict[str, JsonValue]:
    tally, quality = Tally(), Quality()
    with _bar("count", progress) as bar:
        for rows in stream(dataset, config, revision, text_columns()).values():
            for row in rows:
                tally.add(row)
                quality.add(row)
                bar.update()
    told = tally.to_dict() | {"quality": quality.to_dict()}
    if captions is not None:
        told["captions"] = quality.combinations.against(read_captions(captions))
    return told


def _plain(
    dataset: str, config: str, count: int, revision: str | None, progress: bool
) -> dict[str, JsonValue]:
    with _bar("look at pictures", progress) as bar:
        return plain_shares(_told(sample(dataset, config, count, revision), bar))


def _bar(name: str, progress: bool) -> "tqdm[NoReturn]":
    from tqdm import tqdm

    return tqdm(desc=name, unit=" rows", disable=not progress)


def _told(rows: Iterable[Row], bar: "tqdm[NoReturn]") -> Iterator[Row]:
    for row in rows:
        yield row
        bar.update()


def plain_shares(rows: Iterable[Row]) -> dict[str, JsonValue]:
    """Share of pictures with a plain background, by subset; damaged pictures are counted apart."""
    seen: dict[str, Counter[bool | None]] = {}
    for row in rows:
        seen.setdefault(row.subset, Counter())[is_plain_or_none(row)] += 1
    return {
        subset: {
            "looked_at": counts.total(),
            "plain": counts[True],
            "share": _share(counts[True], counts[True] + counts[False]),
            "damaged": counts[None],
        }
        for subset, counts in sorted(seen.items())
    }


def bought(plan: Path) -> dict[str, JsonValue]:
    """Outcomes, refusals by reason and money of a plan's ledger.

    Raises:
        LedgerError: there is none, or it cannot be read.
    """
    states: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    attempts, spent = 0, 0.0
    with Ledger(plan / LEDGER_NAME, read_only=True) as ledger:
        for entry in ledger.entries():
            if entry.kind != "image":
                continue
            states[entry.state] += 1
            attempts += entry.attempts
            spent += entry.cost_usd
            if entry.state == "refused":
                reasons[(entry.reason or "no reason given").partition(":")[0][:80]] += 1
    done = states["done"]
    return {
        "calls": dict(sorted(states.items())),
        "refusals": dict(reasons.most_common(20)),
        "refused_share": _share(states["refused"], done + states["refused"]),
        "attempts": attempts,
        "spent_usd": round(spent, 6),
        "usd_for_each_picture": round(spent / done, 6) if done else None,
    }


def _alignment(checked: int, before: int, after: int, rewritten: int) -> dict[str, JsonValue]:
    return {
        "checked": checked,
        "before": _share(before, checked),
        "after": _share(after, checked),
        "rewritten": rewritten,
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
