"""Benchmark results: runs with their scores, and each run's verdicts with the judged pictures.

Two sources look the same from here: a results dataset (`echo4o eval push` writes it; folder or Hub
id), and a folder with run folders as `echo4o eval run` leaves them. Everything in them is foreign:
a number that is none becomes None, text is cut, a run that cannot be read is left out and counted.
"""

import json
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import pyarrow as pa
from shards import THREADS, Shards
from stores import Found, SourceError, Store, is_hub_id, open_store, shown_name

from echo4o.errors import Echo4oError

logger = logging.getLogger(__name__)

State = Literal["none", "opening", "ready", "failed"]
Raw = Mapping[str, object]
MAX_RUNS = 2_000
MAX_VERDICTS = 50_000
TEXT_CHARACTERS = 4_000
FRESH_SECONDS = 300
"""After so long a results dataset on the Hub is looked at again: it grows with every push."""


class Tag(NamedTuple):
    """The score of a tag, or of a group of tags."""

    name: str
    score: float
    low: float
    high: float
    items: int


class Run(NamedTuple):
    """One run: a score never stands without its interval, judge and protocol."""

    name: str
    task: str
    model: str
    revision: str
    overall: float
    low: float
    high: float
    scale: float
    judge: str
    answered_as: str
    protocol: str
    items: int
    available: int
    coverage: float | None
    cost_usd: float | None
    started: str
    tags: tuple[Tag, ...]


class Line(NamedTuple):
    """What the judge was asked about a picture, and what it said."""

    asked: str
    satisfied: bool
    said: str
    points: float | None


class Verdict(NamedTuple):
    """One judged picture."""

    place: int
    """In its run."""
    number: int
    sample: int
    tag: str
    outcome: str
    correct: bool
    points: float | None
    prompt: str
    """Empty where the results leave texts out for their licence."""
    lines: tuple[Line, ...]
    reason: str
    raw_reply: str
    judge: str

    @property
    def seen(self) -> str:
        """right, wrong, marked (in points) or unjudged: the filter of the page."""
        if self.outcome != "judged":
            return "unjudged"
        return "marked" if self.points is not None else "right" if self.correct else "wrong"


class _Source(Protocol):
    def runs(self) -> dict[str, Raw]: ...
    def verdicts(self, run: str) -> list[Raw]: ...
    def picture(self, run: str, place: int) -> bytes | None: ...


class Results:
    """The runs of one source, best first within each task, protocol and judge."""

    def __init__(self, source: str | None) -> None:
        self.name = shown_name(source or "")
        self.state: State = "none" if source is None else "opening"
        self.fault = ""
        self.left_out = 0
        """Runs that could not be read."""
        self._source = source
        self._read: _Source | None = None
        self._runs: dict[str, Run] = {}
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._until = 0.0
        self._verdicts: OrderedDict[str, list[Verdict]] = OrderedDict()

    def start(self) -> None:
        """Begin to read."""
        if self._source is not None:
            threading.Thread(target=self._open, name="read-results", daemon=True).start()

    def wait(self, seconds: float) -> None:
        """Wait until the runs are there."""
        if self._source is not None:
            self._done.wait(seconds)

    def runs(self, task: str = "") -> list[Run]:
        """All runs (of a task); what is comparable stands together, best first."""
        self._refresh()
        runs = [run for run in self._runs.values() if task in ("", run.task)]
        return sorted(
            runs, key=lambda one: (one.task, one.protocol, one.judge, -one.overall, one.name)
        )

    def tasks(self) -> list[str]:
        """Tasks that there are runs of."""
        return sorted({run.task for run in self._runs.values()})

    def run(self, name: str) -> Run | None:
        """A run by its name."""
        return self._runs.get(name)

    def verdicts(self, run: str) -> list[Verdict]:
        """The verdicts of a run, in order; [] where the source keeps none."""
        assert self._read is not None
        with self._lock:
            if run not in self._verdicts:
                raw = self._read.verdicts(run)[:MAX_VERDICTS]
                self._verdicts[run] = [_verdict(one, place) for place, one in enumerate(raw)]
                while len(self._verdicts) > 4:
                    self._verdicts.popitem(last=False)
            return self._verdicts[run]

    def picture(self, run: str, place: int) -> bytes | None:
        """The judged picture; None where it was not published."""
        assert self._read is not None
        try:
            return self._read.picture(run, place)
        except (Echo4oError, OSError, pa.ArrowException, LookupError) as error:
            logger.warning("no picture of %s: %s", run, error)
            return None

    def _open(self) -> None:
        try:
            self._load()
            self.state = "ready"
        except Exception as error:
            # Foreign data may fail in any way; only our own sentences are for visitors.
            is_ours = isinstance(error, Echo4oError)
            logger.error("cannot read the results %s: %s", self.name, error, exc_info=not is_ours)
            if self.state != "ready":
                self.fault = str(error) if is_ours else "they cannot be read; the log says why"
                self.state = "failed"
        self._done.set()

    def _load(self) -> None:
        read = _open_source(self._source or "")
        runs, left_out = {}, 0
        for name, raw in read.runs().items():
            try:
                runs[name] = _run(raw, name)
            except (ValueError, TypeError, AttributeError) as error:
                logger.warning("left out the run %s: %s", name[:80], error)
                left_out += 1
        if not runs:
            raise SourceError(
                f"{self.name} holds no run that can be read; push one with `eval push`"
            )
        with self._lock:
            self._read, self._runs, self.left_out = read, runs, left_out
            self._verdicts.clear()
        self._until = time.monotonic() + FRESH_SECONDS

    def _refresh(self) -> None:
        """Look for new runs on the Hub now and then; the old ones stay while that fails."""
        is_old = self.state == "ready" and time.monotonic() > self._until
        if is_old and is_hub_id(self._source or ""):
            self._until = time.monotonic() + FRESH_SECONDS
            threading.Thread(target=self._open, name="read-results", daemon=True).start()


class _Repo:
    """A results dataset: data/runs/NAME.parquet and data/verdicts/NAME.parquet."""

    def __init__(self, store: Store, runs: list[Found], verdicts: list[Found]) -> None:
        self._store = store
        self._files = runs[-MAX_RUNS:]
        self._by_run = {Path(file.path).stem: file for file in verdicts}
        self._shards = lru_cache(8)(self._open)

    def runs(self) -> dict[str, Raw]:
        """Rows of the config `runs` by name."""
        found: dict[str, Raw] = {}
        with ThreadPoolExecutor(THREADS) as pool:
            for rows in pool.map(self._rows, self._files):
                for row in rows:
                    found[str(row.get("run"))] = row
        return found

    def verdicts(self, run: str) -> list[Raw]:
        """Rows of the config `verdicts`, without pictures."""
        if run not in self._by_run:
            return []
        shards, rows = self._shards(run), list[Raw]()
        for shard in shards.files:
            for group in range(len(shard.groups)):
                if len(rows) < MAX_VERDICTS:
                    rows += shards.texts(shard, group, lambda name: True).to_pylist()
        return rows

    def picture(self, run: str, place: int) -> bytes | None:
        """The stored picture."""
        return self._shards(run).pictures(place, "image")[0]

    def _open(self, run: str) -> Shards:
        return Shards(self._store, [self._by_run[run]], {"number", "outcome"})

    def _rows(self, file: Found) -> list[Raw]:
        try:
            shards = Shards(self._store, [file], {"run", "task", "overall", "judge", "protocol"})
            shard = shards.files[0]
            columns = [shards.texts(shard, g, lambda n: True) for g in range(len(shard.groups))]
            return [row for table in columns for row in table.slice(0, MAX_RUNS).to_pylist()]
        except (Echo4oError, pa.ArrowException, OSError, ValueError) as error:
            logger.warning("cannot read %s: %s", file.path, error)
            return []


class _Folders:
    """Run folders of this machine, as `echo4o eval run` leaves them."""

    def __init__(self, folders: list[Path]) -> None:
        from echo4o.eval.results_repo import run_name, run_row, verdict_row
        from echo4o.eval.runs import load_run

        self._runs, self._rows, self._verdict_row = {}, {}, verdict_row
        for folder in folders[:MAX_RUNS]:
            try:
                run = load_run(folder)
            except Echo4oError as error:
                logger.warning("%s", error)
                continue
            name = run_name(run)
            self._runs[name], self._rows[name] = run, run_row(run, name)

    def runs(self) -> dict[str, Raw]:
        """As the results dataset would have them."""
        return dict(self._rows)

    def verdicts(self, run: str) -> list[Raw]:
        """As the results dataset would have them."""
        return [self._verdict_row(one) for one in self._runs[run].verdicts]

    def picture(self, run: str, place: int) -> bytes | None:
        """The file beside the run; its name is used, never a path that a run names."""
        name = self._runs[run].verdicts[place].picture
        file = self._runs[run].pictures / Path(name or "-").name
        return file.read_bytes() if name and file.is_file() else None


def _open_source(source: str) -> _Source:
    if not is_hub_id(source):
        found = [
            file for depth in ("", "*/", "*/*/") for file in Path(source).glob(f"{depth}run.json")
        ]
        if found and not (Path(source) / "data" / "runs").is_dir():
            return _Folders(sorted(file.parent for file in found))
    store = open_store(source)
    files = store.files(".parquet")
    runs = [file for file in files if file.path.startswith("data/runs/")]
    if not runs:
        raise SourceError(
            f"{store.name} holds no results: neither data/runs/*.parquet nor run.json"
        )
    verdicts = [file for file in files if file.path.startswith("data/verdicts/")]
    return _Repo(store, runs, verdicts)


def _run(raw: Raw, name: str) -> Run:
    """A checked run; ValueError where it has no score with an interval, judge and protocol."""
    overall, low, high = (_number(raw.get(key)) for key in ("overall", "low", "high"))
    judge, protocol = _text(raw.get("judge")), _text(raw.get("protocol"))
    if overall is None or low is None or high is None or not judge or not protocol:
        raise ValueError("no score with interval, judge and protocol")
    version = _text(raw.get("protocol_version"))
    answered = raw.get("answered_as")
    names = [_text(one) for one in answered] if isinstance(answered, list) else []
    return Run(
        name=name,
        task=_text(raw.get("task")),
        model=_text(raw.get("model")) or "unknown",
        revision=_text(raw.get("model_revision")),
        overall=overall,
        low=low,
        high=high,
        scale=_number(raw.get("scale")) or 1.0,
        judge=judge,
        answered_as=", ".join(one for one in names if one != judge),
        protocol=f"{protocol} {version}".strip(),
        items=int(_number(raw.get("items_judged")) or 0),
        available=int(_number(raw.get("items_available")) or 0),
        coverage=_number(raw.get("coverage")),
        cost_usd=_number(raw.get("cost_usd")),
        started=_text(raw.get("started")),
        tags=tuple(_tags(_json(raw.get("scores")))),
    )


def _tags(scores: object) -> list[Tag]:
    by_tag = scores.get("by_tag") if isinstance(scores, dict) else None
    found = []
    for name, one in (by_tag if isinstance(by_tag, dict) else {}).items():
        if not isinstance(one, dict):
            continue
        numbers = [_number(one.get(key)) for key in ("score", "low", "high", "items")]
        if None not in numbers:
            score, low, high, items = (float(number or 0) for number in numbers)
            found.append(Tag(_text(name), score, low, high, int(items)))
    return found[:100]


def _verdict(raw: Raw, place: int) -> Verdict:
    findings = _json(raw.get("findings"))
    lines = [
        Line(
            asked=_text(one.get("expectation")),
            satisfied=one.get("satisfied") is True,
            said=_text(one.get("reason")),
            points=_number(one.get("points")),
        )
        for one in (findings if isinstance(findings, list) else [])[:50]
        if isinstance(one, dict)
    ]
    return Verdict(
        place=place,
        number=int(_number(raw.get("number")) or 0),
        sample=int(_number(raw.get("sample")) or 1),
        tag=_text(raw.get("tag")),
        outcome=_text(raw.get("outcome")) or "unknown",
        correct=raw.get("correct") is True,
        points=_number(raw.get("points")),
        prompt=_text(raw.get("prompt")),
        lines=tuple(lines),
        reason=_text(raw.get("reason")),
        raw_reply=_text(raw.get("raw_reply")),
        judge=_text(raw.get("judge_model")),
    )


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _text(value: object) -> str:
    return str(value)[:TEXT_CHARACTERS] if value is not None else ""


def _json(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None
