"""The ledger's file: its tables, its version, its lock, and what SQLite's errors mean."""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from .errors import Echo4oError

APPLICATION_ID = 0x65346F4C  # "e4oL", in the SQLite header
LEDGER_VERSION = 2

_SCHEMA = """
CREATE TABLE calls (
  key TEXT PRIMARY KEY, kind TEXT NOT NULL, model TEXT NOT NULL, request TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('reserved', 'done', 'refused', 'failed')),
  reserved_usd REAL NOT NULL DEFAULT 0, cost_usd REAL NOT NULL DEFAULT 0,
  lost_usd REAL NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0,
  created TEXT NOT NULL DEFAULT '', answered_by TEXT, reason TEXT, text TEXT,
  picture TEXT, extension TEXT, request_id TEXT, usage TEXT NOT NULL DEFAULT '{}', batch TEXT
) WITHOUT ROWID;
CREATE INDEX calls_by_state ON calls (state);
CREATE INDEX calls_by_batch ON calls (batch) WHERE batch IS NOT NULL;
CREATE TABLE batches (
  token TEXT PRIMARY KEY, endpoint TEXT NOT NULL, model TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('written', 'sending', 'open', 'closed')), service_id TEXT
) WITHOUT ROWID;
"""


class LedgerError(Echo4oError):
    """The ledger file cannot be used."""


def lock_exclusively(lock: Path, ledger: Path) -> int:
    """Descriptor of the lock file, held until it is closed.

    Raises:
        LedgerError: another process has it.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise LedgerError(
            f"the ledger {ledger} is being written by another process; wait for it or stop it"
        ) from None
    return descriptor


def open_database(path: Path, read_only: bool) -> sqlite3.Connection:
    """The ledger's database, made if it is missing.

    Raises:
        LedgerError: it is damaged, of another version, or no ledger.
    """
    with sqlite_errors(path):
        database = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rwc'}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            _prepare(database, path, read_only)
        except BaseException:
            database.close()
            raise
    return database


def _prepare(database: sqlite3.Connection, path: Path, read_only: bool) -> None:
    def pragma(name: str) -> int:
        return int(database.execute(f"PRAGMA {name}").fetchone()[0])

    is_empty = pragma("schema_version") == 0
    if not is_empty and pragma("application_id") != APPLICATION_ID:
        raise LedgerError(f"{path} is a database, but no echo4o ledger; choose another path")
    if not is_empty and pragma("user_version") != LEDGER_VERSION:
        raise LedgerError(
            f"the ledger {path} has format {pragma('user_version')}, this echo4o reads format "
            f"{LEDGER_VERSION}; use the echo4o that wrote it, or start in a new folder"
        )
    if read_only:
        return
    # WAL with NORMAL survives a kill of the process at any moment; power loss may cost the last
    # moments, never the consistency.
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    if is_empty:
        identity = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = "
        database.executescript(f"BEGIN; {_SCHEMA} {identity}{LEDGER_VERSION}; COMMIT;")


@contextlib.contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Put what SQLite says in our words."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if "disk is full" in str(error):
            raise LedgerError(
                f"the disk is full while writing {path}; free some space and run the command again"
            ) from error
        raise LedgerError(
            f"the ledger {path} cannot be used ({error}); restore it from a copy, "
            "or start in a new folder"
        ) from error
