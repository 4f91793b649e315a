"""`echo4o space`: finding, staging, starting, stopping and publishing a Space."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from demo import running
from gradio_client import Client
from gradio_client.exceptions import AppError
from huggingface_hub import HfApi, SpaceCard

from echo4o import space_cli
from echo4o.cli import main
from echo4o.errors import Echo4oError

ROOT = Path(__file__).parents[2]


def test_unknown_space_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["space", "run", "../../etc"])
    assert stop.value.code == 1
    assert (
        "there is no Space '../../etc'; choose one of: explore, generate" in capsys.readouterr().err
    )


def test_port_in_use_is_one_sentence(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as stop:
            main(["space", "run", "generate", "--port", str(port)])
    assert stop.value.code == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in capsys.readouterr().err


def test_a_port_that_is_held_is_for_the_space_alone():
    """Which listens some seconds later; meanwhile others ask for any free port."""
    with space_cli.held_port("127.0.0.1", 0) as port, socket.socket() as other:
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        with socket.create_server(("127.0.0.1", port)):
            assert listens(("127.0.0.1", port))


def test_missing_model_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["space", "run", "generate", "--port", "0", "--model", "missing-folder"])
    assert stop.value.code == 1
    assert "no folder 'missing-folder', and it is no Hub id" in capsys.readouterr().err


def test_a_model_of_another_kind_is_one_sentence(tmp_path, capsys, monkeypatch):
    """To whoever starts or publishes the Space, and to visitors of one that was told otherwise."""
    (tmp_path / "model_index.json").write_text('{"_class_name": ["pipeline", "OmniGen2Pipeline"]}')
    with pytest.raises(SystemExit) as stop:
        main(["space", "run", "generate", "--port", "0", "--model", str(tmp_path)])
    assert stop.value.code == 1
    assert capsys.readouterr().err == (
        "error: the Space generate shows models of Echo4oPipeline, and "
        f"{tmp_path} is one of OmniGen2Pipeline; make its pictures with `echo4o model generate`\n"
    )
    monkeypatch.syspath_prepend(str(ROOT / "spaces" / "generate"))
    import engine

    other = engine.Engine(str(tmp_path))
    other._load()
    assert other.state == "failed"
    assert other.reason == (
        "It is a model of OmniGen2Pipeline, and this page shows those of Echo4oPipeline."
    )


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL]
)
def test_opens_without_a_model_and_ends_with_its_command(tmp_path, number):
    with running(tmp_path) as (url, process):
        client = Client(url, verbose=False)
        with pytest.raises(AppError, match="No model is loaded here"):
            client.predict(prompt="x", api_name="/generate")
        client.close()
        process.send_signal(number)
        assert process.wait(timeout=20) == (-9 if number == signal.SIGKILL else 0)
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and listens(address):
            time.sleep(0.05)
        assert not listens(address)


def test_stopped_while_it_starts():
    command = [sys.executable, "-m", "echo4o.cli", "space", "run", "generate", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr.readline().startswith("starting generate")
        started.send_signal(signal.SIGINT)
        assert "error: interrupted; run the same command again" in started.stderr.read()
    assert started.returncode == 130


def test_broken_model_is_said_without_its_path(tmp_path, monkeypatch):
    """The page must not stay at "loading", and visitors see a name, not a path."""
    monkeypatch.syspath_prepend(str(ROOT / "spaces" / "generate"))
    import engine

    (tmp_path / "broken").mkdir()
    broken = engine.Engine(str(tmp_path / "broken"))
    with pytest.raises(Echo4oError):
        broken._load()
    assert (broken.wait(), broken.state, broken.name) == (None, "failed", "broken")
    assert engine.Engine("/nowhere/secret/model").name == "model"
    assert engine.Engine("acme/tiny@v1").name == "acme/tiny@v1"


def listens(address):
    with socket.socket() as probe:
        return probe.connect_ex(address) == 0


def test_staged_folder_is_what_the_repository_holds_plus_the_model(tmp_path):
    plain = space_cli.stage("generate", tmp_path / "plain")
    source = ROOT / "spaces" / "generate"
    assert contents(plain) == contents(source)
    assert "samples/sample-1.png" in contents(plain)
    told = space_cli.stage("generate", tmp_path / "told", model="acme/tiny@v1")
    assert (told / "model.txt").read_text() == "acme/tiny@v1\n"
    card = SpaceCard((told / "README.md").read_text())
    assert (card.data.models, card.data.sdk) == (["acme/tiny"], "gradio")


@pytest.mark.parametrize("name", ["generate", "explore"])
def test_published_space_installs_the_wheel_it_is_told_to(tmp_path, name):
    address = f"https://hub.example/w/echo4o-0.1.0-py3-none-any.whl#sha256={'a' * 64}"
    told = space_cli.stage(name, tmp_path / "told", wheel=address)
    plain = (ROOT / "spaces" / name / "requirements.txt").read_text().splitlines()
    lines = (told / "requirements.txt").read_text().splitlines()
    assert lines == [*plain[:-1], f"echo4o[space] @ {address}"]
    with pytest.raises(space_cli.SpaceError, match="must be the address of a wheel"):
        space_cli.stage(name, tmp_path / "wrong", wheel="https://hub.example/torch-2.0.whl")


def contents(folder):
    found = {}
    for path in folder.rglob("*"):
        inner = path.relative_to(folder)
        if path.is_file() and not inner.as_posix().startswith((".", "__pycache__")):
            found[inner.as_posix()] = path.read_bytes()
    return found


@pytest.mark.parametrize("model", ["../x", "folder", "a/b/c", "a/b\nc", ""])
def test_published_space_needs_a_hub_id(tmp_path, model):
    with pytest.raises(space_cli.SpaceError, match="needs a Hub id"):
        space_cli.stage("generate", tmp_path / "x", model=model)


def test_push_to_the_hub(sandbox, tmp_path):
    environment = sandbox.environment(tmp_path / "home")
    push = ["space", "push", "generate", "echo4o-sandbox/demo-test", "--model", "acme/tiny"]
    api = HfApi(endpoint=sandbox.hub, token=sandbox.token)
    downloaded = space_cli.stage("generate", tmp_path / "downloaded")
    tried = echo4o(["space", "push", str(downloaded), push[3], "--dry-run"], environment)
    assert tried.returncode == 0, tried.stderr
    assert not api.repo_exists("echo4o-sandbox/demo-test", repo_type="space")
    done = echo4o(push, environment)
    assert done.returncode == 0, done.stderr
    found = api.list_repo_files("echo4o-sandbox/demo-test", repo_type="space")
    assert {"app.py", "README.md", "requirements.txt", "model.txt"} <= set(found)
    assert sandbox.token not in done.stdout + done.stderr


def echo4o(words, environment):
    command = [sys.executable, "-m", "echo4o.cli", *words]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )
