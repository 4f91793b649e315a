"""The dataset as people browse it: an index of its texts in the background, rows when asked for.

The index is a temporary SQLite database on the disk (memory stays flat): id, subset, category and
instruction of every row, searchable as soon as they are read. Pictures and everything else of a row
are read from its Parquet page when somebody looks at it.
"""

import json
import logging
import re
import sqlite3
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import pyarrow as pa
from shards import THREADS, Shard, Shards
from stores import SourceError, open_store, shown_name

from echo4o.errors import Echo4oError

logger = logging.getLogger(__name__)

State = Literal["none", "opening", "indexing", "ready", "failed"]
LISTED = ("id", "subset", "category", "instruction", "requested_instruction")
NEEDED = {"id", "instruction", "output_image"}
INDEXED_CHARACTERS = 8_000
MAX_TERMS = 16
_PRIME, _ROOT = 2_147_483_647, 48_271
"""A shuffle is a multiplication by a power of the root modulo the prime (Lehmer)."""
_TERMS = re.compile(r'"([^"]*)"?|(\S+)')


class View(NamedTuple):
    """Which rows, in which order."""

    subset: str = ""
    """Empty: all."""
    category: str = ""
    """Empty: all."""
    words: str = ""
    """Full-text search; empty: no search."""
    seed: int = 0
    """0: as released, else shuffled by this number."""


class Listed(NamedTuple):
    """A row as the index has it."""

    place: int
    id: str
    subset: str
    category: str
    instruction: str


class Catalogue:
    """One dataset; opens and indexes it beside the page's start."""

    def __init__(self, source: str | None) -> None:
        self.name = shown_name(source or "")
        self.revision: str | None = None
        self.state: State = "none" if source is None else "opening"
        self.fault = ""
        """Why nothing can be shown, for visitors."""
        self.facets: Counter[tuple[str, str]] = Counter()
        """Rows of each subset and category so far."""
        self.indexed = 0
        self.unreadable = 0
        """Row groups that could not be read."""
        self._source = source
        self._shards: Shards | None = None
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        # The empty name: SQLite deletes the file when the connection ends, however it ends.
        self._index = sqlite3.connect("", check_same_thread=False)
        self._index.executescript(
            """PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16000;
            CREATE TABLE rows (place INTEGER PRIMARY KEY, id TEXT, subset TEXT, category TEXT,
                               instruction TEXT, requested TEXT);
            CREATE INDEX by_kind ON rows (subset, category);
            CREATE INDEX by_id ON rows (id);
            CREATE VIRTUAL TABLE words USING fts5 (id, instruction, requested, content = 'rows',
                content_rowid = 'place', tokenize = 'porter unicode61 remove_diacritics 2');"""
        )

    def start(self) -> None:
        """Begin to read."""
        if self._source is not None:
            threading.Thread(target=self._read, name="read-dataset", daemon=True).start()

    @property
    def rows(self) -> int:
        """All rows there are, indexed or not."""
        return 0 if self._shards is None else self._shards.rows

    def wait(self, seconds: float, *, whole: bool = False) -> None:
        """Wait until the first rows (or the whole index) can be shown."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self.state == "opening" or (
                self.state == "indexing" and (whole or not self.indexed)
            ):
                if (left := deadline - time.monotonic()) <= 0:
                    return
                self._changed.wait(left)

    def subsets(self) -> list[str]:
        """Known subsets by size."""
        counts: Counter[str] = Counter()
        for (subset, _), count in list(self.facets.items()):
            counts[subset] += count
        return [name for name, _ in counts.most_common() if name]

    def categories(self, subset: str) -> list[str]:
        """Known categories of a subset (of all for the empty name) by size."""
        counts: Counter[str] = Counter()
        for (name, category), count in list(self.facets.items()):
            counts[category] += count if subset in ("", name) else 0
        return [name for name, count in counts.most_common() if name and count]

    def count(self, subset: str = "", category: str = "") -> int:
        """Indexed rows of a subset and category."""
        return sum(
            count
            for (one, other), count in list(self.facets.items())
            if subset in ("", one) and category in ("", other)
        )

    def total(self, view: View) -> int:
        """Indexed rows of a view."""
        if not view.words:
            return self.count(view.subset, view.category)
        tables, values = _where(view)
        return int(self._ask(f"SELECT count(*) {tables}", values)[0][0])

    def page(self, view: View, offset: int, size: int) -> list[Listed]:
        """`size` rows of a view from position `offset` on."""
        tables, values = _where(view)
        order = "rows.place"
        if view.seed:
            order = f"(rows.place + 1) * {pow(_ROOT, view.seed, _PRIME)} % {_PRIME}"
        # Places alone are sorted: with the texts a deep page of a shuffle took ten times as long.
        chosen = f"SELECT rows.place AS chosen {tables} ORDER BY {order} LIMIT ? OFFSET ?"
        found = self._ask(
            "SELECT rows.place, rows.id, rows.subset, rows.category, rows.instruction "
            f"FROM ({chosen}) JOIN rows ON rows.place = chosen ORDER BY {order}",
            [*values, size, offset],
        )
        return [Listed(*one) for one in found]

    def position(self, view: View, place: int) -> int | None:
        """Where in a view a row stands; None where that would cost a sort."""
        if view.seed:
            return None
        tables, values = _where(view)
        join = "AND" if "WHERE" in tables else "WHERE"
        before, inside = self._ask(
            f"SELECT coalesce(sum(rows.place < ?), 0), coalesce(sum(rows.place = ?), 0) "
            f"{tables} {join} rows.place <= ?",
            [place, place, *values, place],
        )[0]
        return int(before) if inside else None

    def find(self, row_id: str) -> Listed | None:
        """The row of that id; the first where several claim it."""
        found = self._ask(
            "SELECT place, id, subset, category, instruction FROM rows WHERE id = ? "
            "ORDER BY place LIMIT 1",
            [row_id],
        )
        return Listed(*found[0]) if found else None

    def facts(self, place: int) -> dict[str, object]:
        """Every column of a row except its pictures; JSON columns parsed where they can be."""
        assert self._shards is not None
        shard, group, line = self._shards.where(place)
        table = self._shards.texts(shard, group, lambda name: True).slice(line, 1)
        row: dict[str, object] = table.to_pylist()[0]
        for name in ("constraints", "references", "provenance"):
            row[name] = _parsed(row.get(name))
        return row

    def pictures(self, place: int, column: str) -> list[bytes | None]:
        """The picture of a row, or its references in order; [] where the dataset has no column."""
        assert self._shards is not None
        try:
            return self._shards.pictures(place, column)
        except SourceError as error:
            logger.warning("%s", error)
            return [None] if column == "output_image" else []

    def _ask(self, query: str, values: list[object]) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._index.execute(query, values).fetchall()

    def _read(self) -> None:
        started = time.monotonic()
        try:
            self._open()
            logger.info("%s: %s rows in %.1f s", self.name, self.rows, time.monotonic() - started)
            assert self._shards is not None
            with ThreadPoolExecutor(THREADS if self.revision else 2) as pool:
                for shard in self._shards.files:
                    list(
                        pool.map(
                            lambda place, shard=shard: self._add(shard, place),
                            range(len(shard.groups)),
                        )
                    )
            self._set("ready")
            logger.info("%s: indexed in %.1f s", self.name, time.monotonic() - started)
        except Exception as error:
            # Foreign data may fail in any way; only our own sentences are for visitors.
            is_ours = isinstance(error, Echo4oError)
            told = "cannot read the dataset %s: %s"
            logger.error(told, self.name, error, exc_info=not is_ours)
            self._set("failed", str(error) if is_ours else "it cannot be read; the log says why")

    def _open(self) -> None:
        store = open_store(self._source or "")
        self.revision = store.revision
        files = store.files(".parquet")
        # The preview config repeats rows of the others.
        whole = [file for file in files if "preview" not in file.path.split("/")[:-1]]
        self._shards = Shards(store, whole or files, NEEDED)
        self._set("indexing")

    def _add(self, shard: Shard, group: int) -> None:
        """Index the texts of one row group."""
        assert self._shards is not None
        try:
            table = self._shards.texts(shard, group, lambda name: name in LISTED)
            columns = [_texts(table, name) for name in LISTED]
        except (pa.ArrowException, OSError, ValueError, Echo4oError) as error:
            logger.warning("a row group of %s cannot be read: %s", shard.path, error)
            self.unreadable += 1
            return
        first = shard.first + sum(shard.groups[:group])
        rows = [(first + line, *values) for line, values in enumerate(zip(*columns, strict=True))]
        with self._lock:
            self._index.execute("BEGIN")
            self._index.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._index.executemany(
                "INSERT INTO words (rowid, id, instruction, requested) VALUES (?, ?, ?, ?)",
                [(row[0], row[1], row[4], row[5]) for row in rows],
            )
            self._index.execute("COMMIT")
            self.facets.update(zip(columns[1], columns[2], strict=True))
            self.indexed += len(rows)
        with self._changed:
            self._changed.notify_all()

    def _set(self, state: State, fault: str = "") -> None:
        with self._changed:
            self.state, self.fault = state, fault
            self._changed.notify_all()


def _where(view: View) -> tuple[str, list[object]]:
    """The FROM and WHERE of a view, and its values."""
    tables, wanted, values = "FROM rows", [], list[object]()
    if view.words:
        tables = "FROM words JOIN rows ON rows.place = words.rowid"
        wanted.append("words MATCH ?")
        values.append(match(view.words))
    for column, value in (("subset", view.subset), ("category", view.category)):
        if value:
            wanted.append(f"rows.{column} = ?")
            values.append(value)
    return f"{tables} WHERE {' AND '.join(wanted)}" if wanted else tables, values


def match(words: str) -> str:
    """A visitor's words as an FTS5 query: all of them, "these together", the last one a beginning.

    Every term is quoted, so that nothing a visitor types is an operator.
    """
    terms = []
    for phrase, word in _TERMS.findall(words)[:MAX_TERMS]:
        if any(one.isalnum() for one in phrase or word):
            quoted = (phrase or word).replace('"', "").replace("\0", "")
            terms.append(f'"{quoted}"' + ("" if phrase else "*"))
    return " ".join(one if last else one.rstrip("*") for last, one in _ends(terms)) or '""'


def _ends(terms: list[str]) -> list[tuple[bool, str]]:
    return [(place == len(terms) - 1, term) for place, term in enumerate(terms)]


def _texts(table: pa.Table, name: str) -> list[str]:
    """A column as short texts; empty ones where it is missing."""
    if name not in table.column_names:
        return [""] * table.num_rows
    return [str(value or "")[:INDEXED_CHARACTERS] for value in table[name].to_pylist()]


def _parsed(value: object) -> object:
    """JSON text as its value; text that is no JSON stays text."""
    if not isinstance(value, str) or not value:
        return value or None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
