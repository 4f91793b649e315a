"""The ledger: what was requested, reserved, paid and received; builder and judge share it.

SQLite in WAL mode, pictures beside it named by their hash. A price is reserved before a call and
settled after it, so that a kill at any moment neither loses a paid reply that was settled nor lets
the budget be exceeded: a reservation that nobody settled stays counted.
"""

import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from .errors import Echo4oError
from .ledger_file import LedgerError as LedgerError
from .ledger_file import lock_exclusively, open_database, sqlite_errors
from .records import sync_folder

logger = logging.getLogger(__name__)

_LEAST_FREE = 128 * 2**20
"""Bytes: what some dozen calls in flight may bring."""

State = Literal["reserved", "done", "refused", "failed"]

_COLUMNS = (
    "key, kind, model, request, state, reserved_usd, cost_usd, lost_usd, attempts, created, "
    "answered_by, reason, text, picture, extension, request_id, usage, batch"
)


class BudgetExceeded(Echo4oError):
    """The next call could cost more than what is left of the budget; it was not made."""


class LostPictureError(LedgerError):
    """A picture that was bought, and whose file is missing, damaged or cannot be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One call as the ledger knows it."""

    key: str
    """Content key: model, parameters, text and the hashes of all pictures."""
    kind: str
    """`image` or `chat`."""
    model: str
    request: str
    """What was asked, as JSON; pictures by their SHA-256."""
    state: State
    reserved_usd: float = 0.0
    """Upper bound of a call that was begun and never settled."""
    cost_usd: float = 0.0
    lost_usd: float = 0.0
    """Upper bound of earlier attempts whose bill is unknown: killed, cut or timed out."""
    attempts: int = 0
    created: str = ""
    answered_by: str | None = None
    """The model as the service names it."""
    reason: str | None = None
    text: str | None = None
    picture: str | None = None
    """SHA-256 of the received bytes."""
    extension: str | None = None
    request_id: str | None = None
    usage: dict[str, int]
    batch: str | None = None
    """Token of the batch in which it is, or was settled."""


class Ledger:
    """Calls by content key, with a budget that is never exceeded. Safe to use from threads.

    One process at a time may write (a lock file sees to it); readers open with `read_only=True`.
    """

    def __init__(
        self, path: Path, *, budget_usd: float | None = None, read_only: bool = False
    ) -> None:
        if budget_usd is not None and not budget_usd >= 0:
            raise ValueError(f"`budget_usd` must be 0 or more, got {budget_usd}")
        self.path = path
        self.budget_usd = budget_usd
        self.pictures = path.parent / "pictures"
        self._lock = threading.Lock()
        self._lock_file: int | None = None
        if read_only and not path.is_file():
            raise LedgerError(f"there is no ledger at {path}")
        if not read_only:
            self.pictures.mkdir(parents=True, exist_ok=True)
            self._lock_file = lock_exclusively(path.with_name(path.name + ".lock"), path)
        try:
            self._database = open_database(path, read_only)
            sums = "SELECT total(cost_usd), total(reserved_usd), total(lost_usd) FROM calls"
            with sqlite_errors(path):
                self._spent, self._reserved, self._lost = self._database.execute(sums).fetchone()
        except BaseException:
            self._unlock()
            raise

    @property
    def spent_usd(self) -> float:
        """What settled calls cost."""
        return float(self._spent)

    @property
    def unsettled_usd(self) -> float:
        """Upper bound of calls in flight, and of attempts whose bill is unknown."""
        return float(self._reserved + self._lost)

    @property
    def committed_usd(self) -> float:
        """Upper bound of the bill so far; this is what the budget limits."""
        return self.spent_usd + self.unsettled_usd

    def find(self, key: str) -> Entry | None:
        """The entry with this content key."""
        with self._lock, sqlite_errors(self.path):
            row = self._database.execute(
                f"SELECT {_COLUMNS} FROM calls WHERE key = ?", (key,)
            ).fetchone()
        return None if row is None else _entry(row)

    def entries(self, state: State | None = None) -> Iterator[Entry]:
        """All entries, or those in one state, ordered by key."""
        query = (
            f"SELECT {_COLUMNS} FROM calls WHERE key > ? AND (?2 IS NULL OR state = ?2) "
            "ORDER BY key LIMIT 1000"
        )
        last = ""
        while True:
            with self._lock, sqlite_errors(self.path):
                rows = self._database.execute(query, (last, state)).fetchall()
            yield from map(_entry, rows)
            if not rows:
                return
            last = rows[-1][0]

    def counts(self) -> dict[str, int]:
        """Number of calls by state; states that do not occur are 0."""
        with self._lock, sqlite_errors(self.path):
            rows = self._database.execute("SELECT state, count(*) FROM calls GROUP BY state")
            return {"reserved": 0, "done": 0, "refused": 0, "failed": 0} | dict(rows.fetchall())

    def reserve(
        self,
        key: str,
        *,
        kind: str,
        model: str,
        request: str,
        price_usd: float,
        batch: str | None = None,
    ) -> None:
        """Set `price_usd`, an upper bound, aside for one call; call this before the call is made.

        A reservation left by a killed process moves to `lost_usd`, since that call may be billed.
        `batch` is the token of the batch that will make the call; its lines stay reserved across
        processes until the batch is collected.

        Raises:
            BudgetExceeded: the price does not fit into what is left of the budget.
            LedgerError: the key is settled as done or refused, or under way in a batch.
        """
        with self._lock, sqlite_errors(self.path):
            row = self._database.execute(
                "SELECT state, reserved_usd, batch FROM calls WHERE key = ?", (key,)
            ).fetchone()
            state, left_over, earlier_batch = row or (None, 0.0, None)
            if state in ("done", "refused"):
                raise LedgerError(
                    f"call {key[:12]} is settled as {state}; it is never bought again"
                )
            if state == "reserved" and earlier_batch is not None:
                raise LedgerError(
                    f"call {key[:12]} is under way in batch {earlier_batch[:8]}; collect or cancel "
                    "the batch first, or it would be paid twice"
                )
            self._check_budget(price_usd)
            self._database.execute(
                "INSERT INTO calls (key, kind, model, request, state, reserved_usd, batch) "
                "VALUES (?, ?, ?, ?, 'reserved', ?, ?) ON CONFLICT (key) DO UPDATE SET "
                "state = 'reserved', lost_usd = lost_usd + reserved_usd, "
                "reserved_usd = excluded.reserved_usd, reason = NULL, batch = excluded.batch",
                (key, kind, model, request, price_usd, batch),
            )
            self._reserved += price_usd - left_over
            self._lost += left_over

    def reserve_again(self, key: str) -> None:
        """Keep the reservation of an attempt whose bill is unknown, and reserve for the next one.

        Raises:
            BudgetExceeded: a second price does not fit; the first stays reserved.
        """
        with self._lock, sqlite_errors(self.path):
            row = self._database.execute(
                "SELECT reserved_usd FROM calls WHERE key = ? AND state = 'reserved'", (key,)
            ).fetchone()
            if row is None:
                raise LedgerError(f"call {key[:12]} has no reservation")
            self._check_budget(row[0])
            self._database.execute(
                "UPDATE calls SET lost_usd = lost_usd + reserved_usd WHERE key = ?", (key,)
            )
            self._lost += row[0]

    def settle(
        self,
        key: str,
        outcome: Literal["done", "refused", "failed"],
        *,
        cost_usd: float,
        attempts: int,
        created: str,
        unknown_bill: bool = False,
        answered_by: str | None = None,
        reason: str | None = None,
        text: str | None = None,
        picture: str | None = None,
        extension: str | None = None,
        request_id: str | None = None,
        usage: dict[str, int] | None = None,
    ) -> None:
        """Replace the reservation by what the call really cost, and keep the reply.

        A picture must have been stored with `store_picture` before. `unknown_bill` keeps the
        reservation, as lost: the last attempt may be billed although no reply came.
        """
        with self._lock, sqlite_errors(self.path):
            row = self._database.execute(
                "SELECT reserved_usd FROM calls WHERE key = ? AND state = 'reserved'", (key,)
            ).fetchone()
            if row is None:
                raise LedgerError(f"call {key[:12]} has no reservation to settle")
            lost = row[0] if unknown_bill else 0.0
            if cost_usd > row[0] + 1e-9:
                logger.warning(
                    "call %s cost %.6f USD, more than the %.6f reserved; raise the bounds in the "
                    "price table",
                    key[:12],
                    cost_usd,
                    row[0],
                )
            self._database.execute(
                "UPDATE calls SET state = ?, reserved_usd = 0, lost_usd = lost_usd + ?, "
                "cost_usd = cost_usd + ?, attempts = attempts + ?, created = ?, answered_by = ?, "
                "reason = ?, text = ?, picture = ?, extension = ?, request_id = ?, usage = ? "
                "WHERE key = ?",
                (
                    *(outcome, lost, cost_usd, attempts, created, answered_by, reason, text),
                    *(picture, extension, request_id, json.dumps(usage or {}), key),
                ),
            )
            self._reserved -= row[0]
            self._lost += lost
            self._spent += cost_usd

    def execute(self, statement: str, values: tuple[object, ...] = ()) -> list[tuple[str, ...]]:
        """Run one statement on the `batches` table, or one that changes no money."""
        with self._lock, sqlite_errors(self.path):
            return self._database.execute(statement, values).fetchall()

    def store_picture(self, data: bytes, extension: str) -> str:
        """Write received bytes under their SHA-256, flushed to the disk; returns the hash."""
        digest = hashlib.sha256(data).hexdigest()
        path = self.picture_path(digest, extension)
        if path.exists() and path.stat().st_size == len(data):
            return digest
        partial = path.with_name(f".{digest}.{os.getpid()}.{threading.get_ident()}.part")
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
        return digest

    def check_space(self) -> None:
        """Refuse to go on before what is paid cannot be kept.

        Raises:
            LedgerError: the disk of the ledger is nearly full.
        """
        free = shutil.disk_usage(self.pictures).free
        if free < _LEAST_FREE:
            raise LedgerError(
                f"the disk of {self.pictures} has {free // 2**20} MB left, too few for what would "
                "be bought; free some space and run the same command again"
            )

    def picture_path(self, sha256: str, extension: str) -> Path:
        """Where the picture with this hash lies."""
        return self.pictures / f"{sha256}.{extension}"

    def read_picture(self, sha256: str, extension: str) -> bytes:
        """Bytes of a stored picture, checked against their hash.

        Raises:
            LostPictureError: the file is missing, damaged or cannot be read.
        """
        return read_kept(self.picture_path(sha256, extension), sha256)

    def forget_picture(self, key: str, reason: str) -> None:
        """Let a finished call be made again since its picture is lost; its cost stays counted."""
        with self._lock, sqlite_errors(self.path):
            self._database.execute(
                "UPDATE calls SET state = 'failed', reason = ?, picture = NULL, extension = NULL "
                "WHERE key = ? AND state = 'done'",
                (reason, key),
            )

    def close(self) -> None:
        """Close the file and let other processes write; calling it twice is harmless."""
        with self._lock:
            self._database.close()
            self._unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_budget(self, price_usd: float) -> None:
        if self.budget_usd is None or self.committed_usd + price_usd <= self.budget_usd + 1e-9:
            return
        raise BudgetExceeded(
            f"the next call may cost {price_usd:.4f} USD, but of the budget of "
            f"{self.budget_usd:.2f} USD {self.spent_usd:.4f} are spent and "
            f"{self.unsettled_usd:.4f} reserved; raise --budget to go on"
        )

    def _unlock(self) -> None:
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None


def read_kept(path: Path, sha256: str) -> bytes:
    """Bytes of a file that is named by their hash.

    Raises:
        LostPictureError: the file is missing, damaged or cannot be read.
    """
    # Without the folders above: what is said of a row is published with the dataset.
    name = f"{path.parent.name}/{path.name}"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise LostPictureError(f"{name} is missing") from None
    except OSError as error:
        raise LostPictureError(f"{name} cannot be read ({error.strerror})") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise LostPictureError(f"{name} does not match its hash")
    return data


def _entry(row: tuple[object, ...]) -> Entry:
    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
    values["usage"] = json.loads(str(values["usage"]))
    return Entry(**values)  # type: ignore[arg-type]
