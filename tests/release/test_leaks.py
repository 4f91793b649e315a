"""The search for secrets finds them in every form, and only where they are."""

import base64
import gzip
import json
import os
import random
import sqlite3
import subprocess
import sys
import urllib.parse
import zipfile
import zlib
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from echo4o.release.leaks import forms, search

SECRET = "hf_" + "".join(random.Random(5).sample("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ", 34))
ROOT = Path(__file__).parents[2]


def parquet(path, text):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [text] * 100}), path, compression="zstd")


def database(path, value):
    with closing(sqlite3.connect(path)) as base:
        base.execute("CREATE TABLE t (a)")
        base.execute("INSERT INTO t VALUES (?)", (value,))
        base.commit()


def picture(path, text):
    told = PngInfo()
    told.add_itxt("a", text * 20, zip=True)
    Image.new("RGB", (4, 4)).save(path, pnginfo=told)


def archive(path, text):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("deep/a.txt", text * 50)


HIDING = {
    "plain.log": lambda p: p.write_text(f"GET / Authorization: Bearer {SECRET}\n"),
    "short.log": lambda p: p.write_text(f"token {SECRET[:14]}... refused"),
    "basic.log": lambda p: p.write_bytes(base64.b64encode(f"user:{SECRET}".encode())),
    "basic2.log": lambda p: p.write_bytes(base64.b64encode(f"users:{SECRET}".encode())),
    "basic3.log": lambda p: p.write_bytes(base64.urlsafe_b64encode(f"me:{SECRET}x".encode())),
    "url.log": lambda p: p.write_text("".join(f"%{ord(c):02X}" for c in SECRET)),
    "query.log": lambda p: p.write_text(f"?key={urllib.parse.quote(SECRET)}"),
    "hex.bin": lambda p: p.write_text(SECRET.encode().hex()),
    "wide.bin": lambda p: p.write_bytes(f"x{SECRET}".encode("utf-16-le")),
    "over-a-block.bin": lambda p: p.write_bytes(b"-" * ((8 << 20) - 9) + SECRET.encode()),
    "a.gz": lambda p: p.write_bytes(gzip.compress(SECRET.encode() * 9)),
    "a.z": lambda p: p.write_bytes(zlib.compress(SECRET.encode() * 9)),
    "a.whl": lambda p: archive(p, SECRET),
    "a.parquet": lambda p: parquet(p, SECRET),
    "a.sqlite": lambda p: database(p, SECRET),
    "b.sqlite": lambda p: database(p, zlib.compress(SECRET.encode() * 9)),
    "a.png": lambda p: picture(p, SECRET),
    f"name-{SECRET}": lambda p: p.write_text("x"),
}  # fmt: skip


@pytest.mark.parametrize("name", HIDING)
def test_a_secret_is_found_in_every_form(tmp_path, name):
    HIDING[name](tmp_path / name)
    (tmp_path / "calm.txt").write_text("hf_ and other words " * 100)
    found = search([tmp_path], {"HF_TOKEN": SECRET})
    assert found.files == 2
    assert {one.path.name for one in found.leaks} == {name}
    assert {one.secret for one in found.leaks} == {"HF_TOKEN"}


def test_damaged_files_links_and_own_files_do_not_stop_it(tmp_path):
    for name, start in (("a", b"PK\3\4"), ("b", b"\x1f\x8b"), ("c", b"PAR1"), ("d", b"\x78\x9c")):
        (tmp_path / name).write_bytes(start + b"nonsense" * 10)
    (tmp_path / "e").write_bytes(b"SQLite format 3\0" + b"nonsense" * 10)
    (tmp_path / "f.png").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffiTXt")
    (tmp_path / "own").write_text(SECRET)
    (tmp_path / "link").symlink_to(tmp_path / "own")
    found = search([tmp_path], {"t": SECRET}, own=[tmp_path / "own"])
    assert (found.leaks, found.files) == ((), 6)
    with pytest.raises(ValueError, match="3 characters"):
        forms("abc")


def test_no_secret_is_in_any_file_of_a_rehearsal(rehearsed):
    """The rehearsal searches itself, with credentials that nobody else knows; it says so."""
    searched = json.loads((rehearsed / "summary.json").read_text())["searched"]
    assert searched["files"] > 300
    assert searched["secrets found"] == 0
    ready = json.loads((rehearsed / "sandbox/ready.json").read_text())
    assert (ready["token"], ready["api_key"]) == ("$ECHO4O_SANDBOX_TOKEN", "$ECHO4O_SANDBOX_KEY")
    for name in ("hf_sandbox_rehearsal", "sk-sandbox-rehearsal"):
        assert name not in (rehearsed / "sandbox/server.log").read_text()


@pytest.mark.slow
def test_no_secret_anywhere_after_faults_an_interrupt_and_a_kill(tmp_path):
    """The small rehearsal; `python benchmarks/bench_secrets.py` does the same with the full one."""
    command = [sys.executable, str(ROOT / "benchmarks/bench_secrets.py"), "--quick"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "all")],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told["files"] > 300
    assert told["commands that failed on purpose"] >= 6
    printed = (tmp_path / "all/printed.log").read_text(errors="replace")
    assert "Traceback" in printed
