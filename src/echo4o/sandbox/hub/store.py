"""Everything but file contents, in one SQLite file: accounts, repos, commits, refs, discussions.

Every change is one transaction, so a server that is killed comes back in the state of its last
answered request.
"""

import hashlib
import json
import secrets
import sqlite3
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from echo4o.sandbox.hub.blobs import Blobs
from echo4o.sandbox.hub.objects import Entry, Files
from echo4o.sandbox.keys import HUB_TOKEN

USER, USER_TOKEN = "rehearsal", HUB_TOKEN
READER, READER_TOKEN = "reader", "hf_sandbox_reader"
ORGANISATION = "echo4o-sandbox"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY COLLATE NOCASE, kind TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tokens (
    sha256 TEXT PRIMARY KEY, account TEXT NOT NULL, role TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS members (
    organisation TEXT NOT NULL COLLATE NOCASE, account TEXT NOT NULL COLLATE NOCASE,
    role TEXT NOT NULL, PRIMARY KEY (organisation, account));
CREATE TABLE IF NOT EXISTS repos (
    uid INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL,
    namespace TEXT NOT NULL COLLATE NOCASE, name TEXT NOT NULL COLLATE NOCASE,
    private INTEGER NOT NULL, sdk TEXT, created TEXT NOT NULL, UNIQUE (kind, namespace, name));
CREATE TABLE IF NOT EXISTS trees (id TEXT PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS commits (
    repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE, id TEXT NOT NULL,
    tree TEXT NOT NULL REFERENCES trees, parent TEXT, title TEXT NOT NULL, message TEXT NOT NULL,
    author TEXT NOT NULL, date TEXT NOT NULL, PRIMARY KEY (repo, id));
CREATE TABLE IF NOT EXISTS refs (
    repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE, name TEXT NOT NULL,
    target TEXT NOT NULL, PRIMARY KEY (repo, name));
CREATE TABLE IF NOT EXISTS lfs (
    repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE, sha256 TEXT NOT NULL,
    size INTEGER NOT NULL, PRIMARY KEY (repo, sha256));
CREATE TABLE IF NOT EXISTS discussions (
    repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE, num INTEGER NOT NULL,
    title TEXT NOT NULL, author TEXT NOT NULL, status TEXT NOT NULL,
    pull_request INTEGER NOT NULL, merge_commit TEXT, created TEXT NOT NULL,
    PRIMARY KEY (repo, num));
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
    repo INTEGER NOT NULL, num INTEGER NOT NULL, type TEXT NOT NULL, author TEXT NOT NULL,
    created TEXT NOT NULL, data TEXT NOT NULL,
    FOREIGN KEY (repo, num) REFERENCES discussions ON DELETE CASCADE);
CREATE TABLE IF NOT EXISTS collections (
    slug TEXT PRIMARY KEY, owner TEXT NOT NULL COLLATE NOCASE, title TEXT NOT NULL,
    description TEXT, private INTEGER NOT NULL, updated TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS collection_items (
    uid INTEGER PRIMARY KEY AUTOINCREMENT,
    collection TEXT NOT NULL REFERENCES collections ON DELETE CASCADE,
    kind TEXT NOT NULL, item TEXT NOT NULL COLLATE NOCASE, note TEXT, position INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS webhooks (
    uid INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, url TEXT NOT NULL,
    watched TEXT NOT NULL, domains TEXT NOT NULL, secret TEXT, disabled INTEGER NOT NULL);
"""


def now() -> str:
    """The time in the form of the Hub's JSON."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class Store:
    """The database and the blobs of one sandbox Hub."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.on_push: Callable[[Any, str], None] = lambda repo, commit: None
        """Told of every commit that main points to, after it is stored."""
        self.blobs = Blobs(root)
        self._lock = threading.RLock()
        self._trees: OrderedDict[str, dict[str, Entry]] = OrderedDict()
        self._db = sqlite3.connect(
            root / "hub.sqlite3", check_same_thread=False, isolation_level=None, timeout=30
        )
        self._db.row_factory = sqlite3.Row
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_SCHEMA)
        with self.transaction():
            self._seed()
        self.secret = self.one("SELECT value FROM meta WHERE key = 'secret'")["value"].encode()

    def _seed(self) -> None:
        self.execute("INSERT OR IGNORE INTO meta VALUES ('secret', ?)", secrets.token_hex(32))
        self.add_user(USER, USER_TOKEN, "write")
        self.add_user(READER, READER_TOKEN, "read")
        self.add_organisation(ORGANISATION, {USER: "admin"})

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; transactions of all threads run one after the other."""
        with self._lock:
            if self._db.in_transaction:
                yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def execute(self, sql: str, *values: object) -> int:
        """Run one statement; the number of rows that it changed."""
        with self._lock:
            return self._db.execute(sql, values).rowcount

    def all(self, sql: str, *values: object) -> list[sqlite3.Row]:
        """Every row of a query."""
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def find(self, sql: str, *values: object) -> sqlite3.Row | None:
        """The first row of a query, if any."""
        with self._lock:
            row: sqlite3.Row | None = self._db.execute(sql, values).fetchone()
            return row

    def one(self, sql: str, *values: object) -> sqlite3.Row:
        """The row of a query that always has one."""
        row = self.find(sql, *values)
        assert row is not None, sql
        return row

    # Accounts ------------------------------------------------------------------------------

    def add_user(self, name: str, token: str, role: Literal["read", "write"]) -> None:
        """Add a user with one token; a second call adds another token."""
        digest = hashlib.sha256(token.encode()).hexdigest()
        with self.transaction():
            self.execute("INSERT OR IGNORE INTO accounts VALUES (?, 'user')", name)
            self.execute("INSERT OR REPLACE INTO tokens VALUES (?, ?, ?)", digest, name, role)

    def add_organisation(self, name: str, members: dict[str, str]) -> None:
        """Add an organisation; members have the role `admin`, `write` or `read`."""
        with self.transaction():
            self.execute("INSERT OR IGNORE INTO accounts VALUES (?, 'org')", name)
            for user, role in members.items():
                self.execute("INSERT OR REPLACE INTO members VALUES (?, ?, ?)", name, user, role)

    # Trees ---------------------------------------------------------------------------------

    def save_tree(self, files: Files) -> str:
        """Store the list of files of a commit; equal lists are stored once."""
        rows: Sequence[object] = [(path, *files[path]) for path in sorted(files)]
        body = json.dumps(rows, separators=(",", ":")).encode()
        tree = hashlib.sha256(body).hexdigest()
        self.execute("INSERT OR IGNORE INTO trees VALUES (?, ?)", tree, zlib.compress(body, 1))
        return tree

    def load_tree(self, tree: str) -> dict[str, Entry]:
        """The files of a commit, sorted by path; not to be changed by the caller."""
        with self._lock:
            if tree in self._trees:
                self._trees.move_to_end(tree)
                return self._trees[tree]
            body = zlib.decompress(self.one("SELECT body FROM trees WHERE id = ?", tree)["body"])
            files = {
                path: Entry(sha256, oid, size, bool(lfs))
                for path, sha256, oid, size, lfs in json.loads(body)
            }
            self._trees[tree] = files
            if len(self._trees) > 32:
                self._trees.popitem(last=False)
            return files
