"""The command line: bad input ends in one sentence and a status, our own faults in a traceback."""

import errno
import logging
import os
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import time
import zlib

import authors_layout
import datasets
import pyarrow as pa
import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import httpx
from PIL import Image, UnidentifiedImageError
from rights_file import write_release
from safetensors import SafetensorError

from echo4o import cli
from echo4o.cli import explain, main
from echo4o.dataset_builder import import_release
from echo4o.errors import Echo4oError
from echo4o.records import write_atomic
from echo4o.training.overrides import override
from echo4o.training.recipes import recipe


def caused(cause):
    error = datasets.exceptions.DatasetGenerationError("An error occurred")
    error.__cause__ = cause
    return error


FULL = OSError(errno.ENOSPC, "No space left on device", "rows.arrow")
TABLE = [
    (Echo4oError("no rows; plan some"), "no rows; plan some"),
    (FULL, "the disk is full (rows.arrow); free some space"),
    (OSError(errno.EADDRINUSE, "Address already in use"), "the port is in use; choose another"),
    (FileNotFoundError(errno.ENOENT, "No such file", "a.txt"), "no such file or folder (a.txt)"),
    (PermissionError(errno.EACCES, "Permission denied", "/a"), "denied (/a); choose another"),
    (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), "needed (a/b); give another"),
    (OSError(errno.EIO, "Input/output error", "/a"), "Input/output error (/a)"),
    (ModuleNotFoundError("No module named 'torch'"), 'pip install "echo4o[all]"'),
    (caused(FULL), "the disk is full (rows.arrow)"),
    (caused(pa.ArrowInvalid("Parquet magic bytes not found")), "a data file is damaged or cut"),
    (caused(None), "the dataset cannot be read: An error occurred"),
    (pa.ArrowInvalid("Parquet magic bytes not found"), "magic bytes not found"),
    (SafetensorError("incomplete metadata"), "a weights file is damaged or cut off: incomplete"),
    (SafetensorError("I/O error: No space left on device (os error 28)"), "the disk is full; free"),
    (httpx.ConnectError("no answer from http://me:secret@hub/a"), "from http://hub/a"),
    (Image.DecompressionBombError("Image size (1 pixels)"), "a picture is too large"),
    (UnidentifiedImageError("cannot identify image file 'a'"), "a file is no picture: cannot"),
    (MemoryError(), "the memory is full"),
    (sqlite3.OperationalError("database or disk is full"), "the disk is full; free some space"),
    (sqlite3.OperationalError("disk I/O error"), "the disk cannot be read or written"),
    (sqlite3.DatabaseError("file is not a database"), "a database file is damaged"),
    (HFValidationError("Repo id must be"), "this is no Hub id"),
    (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "the server cannot be reached"),
    (httpx.ReadError("reset by peer"), "the connection to the server broke; run the same command"),
    (httpx.ReadTimeout("timed out"), "the server did not answer in time: timed out"),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "not UTF-8 text"),
]
OUR_FAULT = [
    KeyError("rows"),
    sqlite3.OperationalError("no such column: price"),
    ValueError("never raised"),
    caused(KeyError("rows")),
]


def make_verb(monkeypatch, error):
    """A verb of the real table that fails; the command line around it is the real one."""

    def fail(args):
        raise error

    monkeypatch.setattr("echo4o.training.cli.plan", fail)
    return ["train", "plan", "tiny"]


@pytest.mark.parametrize(
    ("error", "said"), TABLE, ids=[f"{type(e).__name__}-{i}" for i, (e, _) in enumerate(TABLE)]
)
def test_what_a_user_can_fix_is_one_sentence(monkeypatch, capsys, error, said):
    words = make_verb(monkeypatch, error)
    with pytest.raises(SystemExit) as stopped:
        main(words)
    told = capsys.readouterr().err
    assert stopped.value.code == 1
    assert told.startswith("error: ")
    assert said in told
    assert told.count("\n") == 1
    with pytest.raises(type(error)):
        main([*words, "--debug"])


@pytest.mark.parametrize("error", OUR_FAULT, ids=str)
def test_our_own_faults_keep_their_traceback(monkeypatch, error):
    words = make_verb(monkeypatch, error)
    with pytest.raises(type(error)):
        main(words)


def raised(action):
    with pytest.raises(ValueError, match=r"config|Width") as caught:
        action()
    return caught.value


def test_only_our_own_refusals_are_told_as_sentences():
    assert "`config` must be one of" in str(explain(raised(_refused_by_us)))
    assert explain(raised(lambda: Image.new("RGB", (-1, 1)))) is None


def _refused_by_us():
    from echo4o import load_dataset

    load_dataset("surreal")


def test_a_bad_setting_is_one_sentence(capsys):
    with pytest.raises((Echo4oError, ValueError)) as caught:
        override(recipe("tiny"), ["steps=-1"])
    with pytest.raises(SystemExit):
        main(["train", "plan", "tiny", "--set", "steps=-1"])
    assert capsys.readouterr().err == f"error: {caught.value}\n"


def test_debug_shows_the_traceback_and_nothing_else_does(tmp_path):
    words = [sys.executable, "-m", "echo4o.cli", "data", "push", str(tmp_path), "a/b"]
    plain = subprocess.run(words, capture_output=True, text=True, timeout=60)
    debug = subprocess.run([*words, "--debug"], capture_output=True, text=True, timeout=60)
    assert (plain.returncode, debug.returncode) == (1, 1)
    assert plain.stderr.startswith("error: ")
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dada"], "unknown command 'dada' (did you mean data?); there are: data, model"),
        (["xyz"], "unknown command 'xyz'; there are: data, model"),
        (["data", "pln"], "'pln' (did you mean plan?); `echo4o data` has: plan, generate"),
        (["eval", "push", "items", "a"], "required: repo; `echo4o eval push items --help` shows"),
        (["train", "plan", "tiny", "--sets", "a"], "--sets a (did you mean --set?); `echo4o"),
    ],
)
def test_unknown_words_name_the_known_ones(capsys, words, said):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("last", "status"),
    [("pass", 0), ("sys.exit(3)", 3), ("sys.exit('told')", 1), ("sys.exit()", 0), ("1 / 0", 1)],
)
def test_a_program_ends_with_its_status_whatever_the_interpreter_does_then(last, status):
    """An object that aborts when the interpreter takes it apart stands for pyarrow's threads."""
    program = (
        "import atexit, os, sys, threading, time\n"
        "from echo4o.ending import ending\n"
        "class Trap:\n"
        "    def __del__(self, abort=os.abort): abort()\n"
        "trap = Trap()\n"
        "with ending():\n"
        "    atexit.register(print, 'exit function')\n"
        "    late = lambda: (time.sleep(0.2), print('thread'))\n"
        "    threading.Thread(target=late).start()\n"
        f"    {last}\n"
    )
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (status, "thread\nexit function\n")
    assert ("told" in done.stderr, "ZeroDivisionError" in done.stderr) == (
        "told" in last,
        "/" in last,
    )


def test_a_reader_that_goes_is_no_error():
    """As `echo4o ... | head -1` does, before the first line here."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "echo4o.cli", "data"]
    with os.fdopen(writer, "wb") as gone:
        done = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, text=True, timeout=90)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize("words", [[], ["eval"], ["data", "--help"]])
def test_help_fits_the_terminal(capsys, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "60")
    main(words)
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("  ")]
    assert max(map(len, rows)) <= 60
    assert all("  " in row[2:] for row in rows)  # a name, a gap, its text


def test_ctrl_c_has_its_own_status(monkeypatch, capsys):
    words = make_verb(monkeypatch, KeyboardInterrupt())
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 130
    assert "run the same command again" in capsys.readouterr().err


def test_a_port_in_use(tmp_path, capsys):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        words = ["--root", str(tmp_path), "--openai-port", str(port), "--hub-port", "0"]
        with pytest.raises(SystemExit):
            main(["sandbox", "serve", *words])
    told = capsys.readouterr().err
    assert f"port {port} is in use or not allowed; choose another --openai-port" in told


def test_a_sandbox_folder_in_use(sandbox, monkeypatch, capsys):
    monkeypatch.setattr("echo4o.sandbox.serve._PATIENCE_S", 0.1)
    ports = ["--openai-port", "0", "--hub-port", "0"]
    with pytest.raises(SystemExit):
        main(["sandbox", "serve", "--root", str(sandbox.root), *ports])
    told = f"error: another sandbox serves {sandbox.root.resolve()}; stop it or"
    assert told in capsys.readouterr().err


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("cli")
    authors_layout.write_t2i(root / "release", rows=3)
    import_release(str(root / "release"), root / "echo-4o-image")
    return root / "echo-4o-image"


def run_cli(words, environment):
    """Run in a process of its own: HF_ENDPOINT is read when the libraries are imported."""
    command = [sys.executable, "-m", "echo4o.cli", *words]
    begun = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    return done, time.monotonic() - begun


@pytest.fixture
def no_network(tmp_path):
    """An endpoint at which nobody listens."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{nobody.getsockname()[1]}"
        address = {"HF_ENDPOINT": f"http://me:secret@{place}", "HF_TOKEN": "hf_none"}
        yield os.environ | address | {"HF_HOME": str(tmp_path / "home")}


@pytest.mark.parametrize(
    "words",
    [["push", "FOLDER", "a/b"], pytest.param(["stats", "a/b"], marks=pytest.mark.slow)],
    ids=lambda w: w[0],
)
def test_no_network_is_told_soon(dataset, no_network, words, tmp_path):
    if "FOLDER" in words:
        words = ["push", str(dataset), "a/b", "--rights", str(write_release(tmp_path))]
    done, seconds = run_cli(["data", *words], no_network)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert "reach" in last or "check the network" in last
    assert "secret" not in done.stdout + done.stderr
    assert seconds < 40


@pytest.mark.slow
def test_a_wrong_token_is_told(dataset, sandbox, tmp_path):
    environment = sandbox.environment(tmp_path) | {"HF_TOKEN": "hf_wrong"}
    rights = ["--rights", str(write_release(tmp_path))]
    words = ["data", "push", str(dataset), "echo4o-sandbox/wrong-token", *rights]
    done, _ = run_cli(words, environment)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "token" in done.stderr.splitlines()[-1]
    assert "hf_wrong" not in done.stderr


@pytest.mark.parametrize("name", ["record.json", "ledger.sqlite", "plan.jsonl"])
def test_damaged_state_is_told(tmp_path, capsys, name):
    main(["data", "plan", "shapes", "--out", str(tmp_path / "work"), "--rows", "4"])
    out, words = tmp_path / "out", ["data", "build", str(tmp_path / "work")]
    folder = out if name == "record.json" else tmp_path / "work"
    write_atomic(folder / name, b"\xff\xfe damaged" * 300)
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--out", str(out)])
    assert stopped.value.code == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_cut_parquet_file_is_told(dataset, tmp_path, capsys, monkeypatch):
    copy = tmp_path / "echo-4o-image" / "data.parquet"
    shard = next((dataset / "data/instruction_following").glob("*.parquet"))
    write_atomic(copy, shard.read_bytes()[:-100])
    write_atomic(
        copy.parent / "README.md",
        "---\nconfigs:\n- config_name: all\n  data_files: data.parquet\n---\n",
    )
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SystemExit):
        main(["train", "run", "tiny", "--data", str(copy.parent), "--out", str(tmp_path / "run")])
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: ")
    assert "damaged" in told or "cut off" in told or "arquet" in told


def bomb(side):
    """A PNG of a few kilobytes that claims side x side pixels."""
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    chunks = [
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("verb", ["ask", "generate"])
@pytest.mark.parametrize(
    ("data", "said"),
    [(bomb(30_000), "claims 30000x30000 pixels"), (b"text", "no picture"), (b"", "no picture")],
    ids=["bomb", "text", "empty"],
)
def test_bad_pictures_for_a_model_are_told(tmp_path, capsys, verb, data, said):
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    words = {"ask": [str(path), "What?"], "generate": ["a cat", "--image", str(path)]}
    with pytest.raises(SystemExit):
        main(["model", verb, str(tmp_path / "no-model"), *words[verb]])
    told = capsys.readouterr().err
    assert told.startswith(f"error: {path} cannot be read as a picture: ")
    assert said in told


def test_every_noun_is_explained():
    assert set(cli.NOUNS) == set(cli.VERBS)


def test_a_failed_upload_is_logged_once_and_without_its_signature():
    main(["--version"])
    logger = logging.getLogger("huggingface_hub.utils._http")
    seen = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    logging.getLogger("huggingface_hub").addHandler(handler)
    try:
        logger.warning("HTTP Error 500 thrown while requesting PUT https://h/lfs/e5?signature=abc")
    finally:
        logging.getLogger("huggingface_hub").removeHandler(handler)
    assert seen == ["HTTP Error 500 thrown while requesting PUT https://h/lfs/e5"]
    assert not logging.getLogger("huggingface_hub").propagate


def test_help_tells_no_default_where_there_is_none(capsys):
    with pytest.raises(SystemExit):
        main(["data", "check", "--help"])
    told = capsys.readouterr().out
    assert "default: 8" in told
    assert "default: None" not in told
    assert "default: )" not in told
