"""The ledger keeps its word: budget, reservations of killed calls, pictures, and bad files."""

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading

import pytest

from echo4o.ledger import BudgetExceeded, Ledger, LedgerError
from echo4o.ledger_file import LEDGER_VERSION


def key(number):
    return f"{number:064x}"


def reserve(ledger, number, price):
    ledger.reserve(key(number), kind="image", model="m", request="{}", price_usd=price)


def settle(ledger, number, cost, outcome="done", **more):
    ledger.settle(key(number), outcome, cost_usd=cost, attempts=1, created="2026-01-01", **more)


def test_reserve_then_settle(tmp_path):
    with Ledger(tmp_path / "l.sqlite", budget_usd=1.0) as ledger:
        reserve(ledger, 1, 0.5)
        assert (ledger.spent_usd, ledger.unsettled_usd) == (0.0, 0.5)
        settle(ledger, 1, 0.3, text="hello", usage={"output": 3})
        assert (ledger.spent_usd, ledger.unsettled_usd) == (0.3, 0.0)
        entry = ledger.find(key(1))
        assert (entry.state, entry.text, entry.usage, entry.attempts) == (
            "done",
            "hello",
            {"output": 3},
            1,
        )
        with pytest.raises(LedgerError, match="never bought again"):
            reserve(ledger, 1, 0.1)
        assert ledger.find(key(2)) is None
        assert ledger.counts() == {"reserved": 0, "done": 1, "refused": 0, "failed": 0}


def test_budget_counts_reservations(tmp_path):
    with Ledger(tmp_path / "l.sqlite", budget_usd=1.0) as ledger:
        reserve(ledger, 1, 0.4)
        reserve(ledger, 2, 0.6)
        with pytest.raises(BudgetExceeded, match=r"raise --budget"):
            reserve(ledger, 3, 0.01)
        settle(ledger, 1, 0.1)
        reserve(ledger, 3, 0.3)
        assert ledger.committed_usd == pytest.approx(1.0)
        assert ledger.find(key(4)) is None


def test_budget_holds_among_threads(tmp_path):
    bought = []
    with Ledger(tmp_path / "l.sqlite", budget_usd=1.0) as ledger:

        def work(start):
            for number in range(start, start + 40):
                try:
                    reserve(ledger, number, 0.03)
                except BudgetExceeded:
                    return
                bought.append(number)

        threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(bought) == 33
        assert ledger.committed_usd <= 1.0


def test_failed_call_may_be_tried_again(tmp_path):
    with Ledger(tmp_path / "l.sqlite") as ledger:
        reserve(ledger, 1, 0.5)
        settle(ledger, 1, 0.0, "failed", reason="500", unknown_bill=True)
        assert ledger.unsettled_usd == 0.5
        reserve(ledger, 1, 0.5)
        settle(ledger, 1, 0.2)
        entry = ledger.find(key(1))
        assert (entry.state, entry.cost_usd, entry.lost_usd, entry.attempts) == (
            "done",
            0.2,
            0.5,
            2,
        )


def test_second_attempt_keeps_the_first_reserved(tmp_path):
    with Ledger(tmp_path / "l.sqlite", budget_usd=1.0) as ledger:
        reserve(ledger, 1, 0.5)
        ledger.reserve_again(key(1))
        assert ledger.committed_usd == 1.0
        with pytest.raises(BudgetExceeded):
            ledger.reserve_again(key(1))
        settle(ledger, 1, 0.1)
        assert ledger.committed_usd == pytest.approx(0.6)


def test_killed_process_leaves_its_reservation(tmp_path):
    code = f"""
        import os, signal
        from pathlib import Path
        from echo4o.ledger import Ledger
        ledger = Ledger(Path({str(tmp_path / "l.sqlite")!r}), budget_usd=1.0)
        for number, cost in ((1, 0.25), (2, None)):
            key = f"{{number:064x}}"
            ledger.reserve(key, kind="image", model="m", request="{{}}", price_usd=0.3)
            if cost:
                ledger.settle(key, "done", cost_usd=cost, attempts=1, created="")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)])
    assert done.returncode == -signal.SIGKILL
    with Ledger(tmp_path / "l.sqlite", budget_usd=1.0) as ledger:
        assert (ledger.spent_usd, ledger.unsettled_usd) == (0.25, 0.3)
        assert [entry.key for entry in ledger.entries("reserved")] == [key(2)]
        reserve(ledger, 2, 0.3)
        settle(ledger, 2, 0.2)
        # The call in flight at the kill may be on the bill too.
        assert ledger.committed_usd == pytest.approx(0.25 + 0.3 + 0.2)
    with Ledger(tmp_path / "l.sqlite", read_only=True) as ledger:
        assert ledger.committed_usd == pytest.approx(0.75)


def test_pictures_are_kept_as_received(tmp_path):
    with Ledger(tmp_path / "l.sqlite") as ledger:
        digest = ledger.store_picture(b"picture", "png")
        assert ledger.store_picture(b"picture", "png") == digest
        assert [path.name for path in ledger.pictures.iterdir()] == [f"{digest}.png"]
        assert ledger.read_picture(digest, "png") == b"picture"
        ledger.picture_path(digest, "png").write_bytes(b"other")
        with pytest.raises(LedgerError, match="does not match its hash"):
            ledger.read_picture(digest, "png")
        ledger.picture_path(digest, "png").unlink()
        with pytest.raises(LedgerError, match="png is missing"):
            ledger.read_picture(digest, "png")


def test_one_writer_many_readers(tmp_path):
    with Ledger(tmp_path / "l.sqlite") as ledger:
        reserve(ledger, 1, 0.1)
        with pytest.raises(LedgerError, match="written by another process"):
            Ledger(tmp_path / "l.sqlite")
        with Ledger(tmp_path / "l.sqlite", read_only=True) as reader:
            assert reader.find(key(1)).state == "reserved"
    Ledger(tmp_path / "l.sqlite").close()


def _write(path, content):
    path.write_bytes(content)


def _another_database(path):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE t (a)")


def _another_version(path):
    Ledger(path).close()
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {LEDGER_VERSION + 1}")


def _damaged(path):
    with Ledger(path) as ledger:
        for number in range(500):
            reserve(ledger, number, 0.1)
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: _write(path, b"hello " * 1000), "not a database"),
        (_another_database, "no echo4o ledger"),
        (_another_version, f"has format {LEDGER_VERSION + 1}, this echo4o reads format"),
        (_damaged, "cannot be used"),
    ],
)
def test_spoilt_file_is_one_sentence(tmp_path, spoil, words):
    spoil(tmp_path / "l.sqlite")
    with pytest.raises(LedgerError, match=words):
        Ledger(tmp_path / "l.sqlite")
    assert not str(LedgerError(words)).count("\n")


def test_missing_and_nonsense():
    with pytest.raises(ValueError, match="`budget_usd` must be 0 or more"):
        Ledger(None, budget_usd=-1)


def test_reader_of_nothing(tmp_path):
    with pytest.raises(LedgerError, match="there is no ledger"):
        Ledger(tmp_path / "l.sqlite", read_only=True)
