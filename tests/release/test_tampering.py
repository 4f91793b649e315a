"""500 changes and 100 forgeries of a release that was verified, and 50 honest ones."""

import json
import random
import time

import pytest
from release_lab import (
    change_one,
    check_all,
    copy_repo,
    files_of,
    forge,
    honest,
    note,
    target_of,
    write,
)

from echo4o.manifest import MANIFEST, SIGNATURE
from echo4o.records import RunRecord
from echo4o.release.sample import make_keys
from echo4o.release.table import Table
from echo4o.release.verify import check_repo


@pytest.mark.slow
def test_500_changes_and_100_forgeries_are_found_and_50_honest_releases_pass(rehearsed, tmp_path):
    repos, public = rehearsed / "verified/repos", rehearsed / "keys/rehearsal.pub"
    by_kind, draw, started = files_of(repos), random.Random(8), time.monotonic()
    assert all(by_kind.values()), by_kind
    missed, unnamed, counts = [], [], dict.fromkeys(by_kind, 0)
    for number in range(500):
        kind = list(by_kind)[number % len(by_kind)]
        path = draw.choice(by_kind[kind])
        home = repos / path.relative_to(repos).parts[0]
        name = path.relative_to(home).as_posix()
        by_key = number % 2
        target = target_of(home, pinned=not by_key)
        copy = copy_repo(home, tmp_path / "copy")
        write(copy / name, change_one(path.read_bytes(), draw))
        table = Table()
        check_repo(copy, target, public if by_key else None, table)
        counts[kind] += 1
        if not table.bad_rows:
            missed.append((number, name))
        elif not any(name in row.check + row.found for row in table.bad_rows):
            unnamed.append((number, name))
    assert (missed, unnamed) == ([], [])

    other, _ = make_keys(tmp_path / "other")
    forged = 0
    for number in range(100):
        kind = [one for one in by_kind if one != "manifest"][number % (len(by_kind) - 1)]
        path = draw.choice(by_kind[kind])
        home = repos / path.relative_to(repos).parts[0]
        name = path.relative_to(home).as_posix()
        target = target_of(home, pinned=number % 2 == 0)
        copy = copy_repo(home, tmp_path / "copy")
        changed = change_one(path.read_bytes(), draw)
        if kind == "record":  # it must stay one, or it would be found by that alone
            record = RunRecord.load(path)
            changed = json.dumps(json.loads(path.read_bytes()) | {"seconds": record.seconds + 1})
            changed = changed.encode()
        write(copy / name, changed)
        forge(copy, name, other, tmp_path / "kept")
        quiet = Table()
        check_repo(copy, target._replace(manifest=None), None, quiet)
        assert not quiet.bad_rows, f"not consistent: {quiet.lines()}"
        table = Table()
        check_repo(copy, target, None if number % 2 == 0 else public, table)
        forged += bool(table.bad_rows)
        assert all(
            (MANIFEST if number % 2 == 0 else SIGNATURE) in row.check for row in table.bad_rows
        )
    assert forged == 100

    alarms = 0
    private = rehearsed / "keys/rehearsal.key"
    for _ in range(50):
        results, model = honest(repos, tmp_path / "honest", draw, private)
        table = check_all(results, model, public)
        assert not table.bad_rows, table.lines()
        alarms += len(table.bad_rows)
    note(
        tampering={
            "single changes": counts,
            "found and named": 500,
            "consistent forgeries found": forged,
            "false alarms in 50 honest releases": alarms,
            "seconds": round(time.monotonic() - started, 1),
        }
    )
