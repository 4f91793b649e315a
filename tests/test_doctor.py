"""`echo4o doctor`: findings are true, and no secret is ever printed."""

import argparse
import importlib
import socket

import pytest

from echo4o import doctor
from echo4o.cli import VERBS, main


def test_reports_and_never_shows_a_secret(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-verysecret")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://user:verysecret@127.0.0.1:1/v1?key=verysecret")
    main(["doctor", "--folder", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "verysecret" not in shown
    assert "127.0.0.1:1/v1" in shown
    for line in ("HF_TOKEN", "OPENAI_API_KEY"):
        assert any(row.split()[1:3] == [line, "present"] for row in shown.splitlines())


def test_absent_token_is_a_note_and_no_failure(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN_PATH", raising=False)
    assert {(f.level, f.subject) for f in doctor.secrets()} >= {
        ("note", "HF_TOKEN"),
        ("note", "OPENAI_API_KEY"),
    }
    (tmp_path / "token").write_text("hf_x")
    assert next(doctor.secrets()).level == "ok"


def test_old_library_is_bad(monkeypatch, capsys):
    monkeypatch.setitem(doctor.OLDEST, "torch", ("99.1", ""))
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert stop.value.code == 1
    assert "too old; needs 99.1" in capsys.readouterr().out


def test_small_disk_is_bad(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "DISK_GB", 10**9)
    assert [f.level for f in doctor.disk(tmp_path)] == ["bad"]


def test_port_in_use_is_noticed(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(doctor, "PORTS", {port: ("echo4o eval watch", "--port")})
        assert list(doctor.ports()) == [
            ("note", f"port {port}", "in use; give echo4o eval watch another --port")
        ]


def test_ports_are_those_that_verbs_take_by_default():
    for port, (user, option) in doctor.PORTS.items():
        noun, verb = user.split()[1:]
        parser = argparse.ArgumentParser()
        module, _, function = VERBS[noun][verb][0].partition(":")
        getattr(importlib.import_module(module), f"{function}_arguments")(parser)
        assert parser.get_default(option.strip("-").replace("-", "_")) == port


@pytest.mark.parametrize(
    ("version", "expected"),
    [("2.13.0+cpu", (2, 13, 0)), ("5.0.0rc1", (5, 0)), ("0.115", (0, 115))],
)
def test_numbers_of_a_version(version, expected):
    assert doctor.numbers(version) == expected
