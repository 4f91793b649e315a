"""The wheel of echo4o that a Space names: used by whoever verifies it."""

import http.server
import os
import subprocess
import sys
import threading
import zipfile

import pytest

from echo4o.errors import Echo4oError
from echo4o.records import sha256_file
from echo4o.release.demo import install_wheel, named_wheel
from echo4o.release.table import Table

COMMIT = "c" * 40


@pytest.fixture
def wheel(tmp_path):
    """The smallest wheel that pip takes, with an echo4o that is not this one."""
    path = tmp_path / "wheels/echo4o-9.9-py3-none-any.whl"
    path.parent.mkdir()
    info = "echo4o-9.9.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("echo4o/__init__.py", "WHO = 'the wheel'\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: echo4o\nVersion: 9.9\n")
        tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", tag)
        archive.writestr(f"{info}/RECORD", "")
    return path


def space(tmp_path, line):
    folder = tmp_path / "space"
    folder.mkdir(exist_ok=True)
    (folder / "requirements.txt").write_text(f"torch>=2.8\n{line}\n")
    return folder


def imported(folder):
    """What `import echo4o` finds in a process that has the folder before everything else."""
    words = [sys.executable, "-c", "import echo4o; print(echo4o.WHO)"]
    done = subprocess.run(
        words, env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_a_space_is_started_with_the_wheel_that_it_names(wheel, tmp_path):
    known = {f"acme/echo4o-wheel@{COMMIT}": wheel.parent}
    home = f"https://h/datasets/acme/echo4o-wheel/resolve/{COMMIT}/{wheel.name}"
    other = home.replace(COMMIT, "d" * 40)
    sha256 = sha256_file(wheel)

    def look(line):
        table = Table()
        found = named_wheel(space(tmp_path, line), "s", known, tmp_path, table)
        return found, [row.check for row in table.bad_rows]

    found, bad = look(f"echo4o[space] @ {home}#sha256={sha256}")
    assert not bad
    assert imported(found) == "the wheel"
    assert look("echo4o[space]==0.1.0") == (None, [])
    for wrong in (home, f"{other}#sha256={sha256}"):  # no hash; not where the release has it
        assert look(f"echo4o[space] @ {wrong}") == (None, ["requirements.txt: wheel"])


def test_a_wheel_from_elsewhere_is_fetched_and_must_have_its_hash(wheel, tmp_path):
    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=wheel.parent)

        def log_message(self, *words):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{server.server_port}/{wheel.name}"
        found = install_wheel(f"{at}#sha256={sha256_file(wheel)}", tmp_path / "right")
        assert imported(found) == "the wheel"
        with pytest.raises(Echo4oError, match="its wheel cannot be installed") as error:
            install_wheel(f"{at}#sha256={'0' * 64}", tmp_path / "wrong")
        server.shutdown()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "wrong").exists()
