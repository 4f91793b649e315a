"""The verbs as a user runs them."""

import json
import subprocess
import sys
import zipfile

import pytest
from eval_tools import KIT, paint_into
from tests_sandbox import image_api

from echo4o.cli import main
from echo4o.errors import Echo4oError
from echo4o.eval.image_sources import _named
from echo4o.eval.tasks import get_task


def status(*words):
    with pytest.raises(SystemExit) as error:
        main([str(word) for word in words])
    return error.value.code


def test_judge_and_report(tmp_path, monkeypatch, capsys):
    pictures = paint_into(tmp_path / "pictures", KIT.items)
    out = tmp_path / "run"
    with image_api(tmp_path / "sandbox") as server:
        monkeypatch.setenv("OPENAI_API_KEY", server.api_key)
        main(
            ["eval", "judge", "geneval_plus_plus", "--images", str(pictures), "--out", str(out)]
            + ["--judge", "sandbox-judge", "--base-url", server.openai, "--limit", "7"]
        )
    said = capsys.readouterr().out
    assert "overall 100.0 %" in " ".join(said.split())
    assert "7 judged; 7 calls now" in said
    assert len((out / "items.jsonl").read_text().splitlines()) == 7
    assert json.loads((out / "run.json").read_text())["items"]["available"] == 210
    main(["eval", "report", str(out), "--out", str(tmp_path / "report.html")])
    assert "data:image/png" in (tmp_path / "report.html").read_text()


def test_run_generates_judges_and_scores_and_resumes(model_folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    words = ["eval", "run", "geneval_plus_plus", "--model", str(model_folder), "--steps", "1"]
    words += ["--limit", "7", "--seed", "3", "--out", str(out), "--judge", "sandbox-judge"]
    with image_api(tmp_path / "sandbox") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai)
        monkeypatch.setenv("OPENAI_API_KEY", server.api_key)
        main(words)
        first = (out / "run.json").read_text()
        pictures = {file: file.stat().st_mtime_ns for file in (out / "pictures").glob("*.png")}
        main(words)
        assert status(*words, "--guidance", "7") == 1
    said = capsys.readouterr()
    assert "7 judged; 7 calls now" in said.out
    assert "7 judged; 0 calls now" in said.out
    assert "settings.guidance is None there and 7.0 now" in said.err
    assert len(pictures) == 7
    assert all(file.stat().st_mtime_ns == time for file, time in pictures.items())
    run, again = json.loads(first), json.loads((out / "run.json").read_text())
    assert run["verdicts"] == again["verdicts"]
    assert run["generation"]["settings"]["seed"] == 3
    assert run["generation"]["model"]["id"] == model_folder.name
    assert run["scores"]["overall"]["score"] < 0.2  # random weights


def test_imagine_bench_is_told_in_points_and_only_the_authors_words_are_explained(
    tmp_path, monkeypatch, capsys
):
    pictures = paint_into(tmp_path / "pictures", get_task("imagine_bench").items("kit").items[:9])
    words = ["eval", "judge", "imagine_bench", "--images", pictures, "--out", tmp_path / "run"]
    words += ["--judge", "sandbox-judge", "--limit", "9"]
    with image_api(tmp_path / "sandbox") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai)
        monkeypatch.setenv("OPENAI_API_KEY", server.api_key)
        main([str(word) for word in words])
        said = capsys.readouterr().out
        assert status(*words, "--explain") == 1
    assert "Attribute shift" in said
    assert "10.000  [" in said
    assert "protocol kit; two runs of so many items are told apart from" in said
    assert "--explain needs --protocol released, paper, strict" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("eval", "judge", "mmlu"), "there is no task 'mmlu'"),
        (("eval", "judge", "geneval_plus_plus", "--protocol", "paper"), "echo4o eval fetch"),
        (("eval", "judge", "imagine_bench", "--items", "authors"), "eval fetch imagine_bench"),
        (("eval", "judge", "geneval_plus_plus", "--items", "none.jsonl"), "no items file"),
        (("eval", "judge", "geneval_plus_plus", "--limit", "0"), "`limit` must be at least 1"),
        (("eval", "judge", "geneval_plus_plus", "--concurrency", "0"), "`concurrency`"),
    ],
)
def test_misuse_is_one_sentence(tmp_path, capsys, words, complaint):
    rest = ("--images", tmp_path, "--out", tmp_path / "run", "--judge", "sandbox-judge")
    assert status(*words, *rest) == 1
    error = capsys.readouterr().err
    assert complaint in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--judge", "dear-judge"), "no price for model 'dear-judge'"),
        (("--judge", "sandbox-judge"), "set OPENAI_API_KEY"),
        (("--judge", "sandbox-judge", "--budget", "-1"), "`budget_usd` must be 0 or more, got -1"),
        (("--judge", "sandbox-judge", "--budget", "nan"), "`budget_usd` must be 0 or more"),
    ],
)
def test_run_refuses_a_judge_it_cannot_use_before_it_makes_pictures(
    model_folder, tmp_path, monkeypatch, capsys, words, complaint
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    rest = ("--model", model_folder, "--steps", "1", "--limit", "1", "--out", tmp_path / "run")
    assert status("eval", "run", "geneval_plus_plus", *words, *rest) == 1
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "run" / "pictures").exists()


def test_run_refuses_a_bad_protocol_before_it_looks_for_the_model(tmp_path, capsys):
    rest = ("--model", "nobody/nothing", "--judge", "j", "--out", tmp_path / "run")
    assert status("eval", "run", "geneval_plus_plus", "--protocol", "strict", *rest) == 1
    assert "echo4o eval fetch" in capsys.readouterr().err
    assert status("eval", "run", "geneval_plus_plus", "--size", "64", *rest) == 2
    assert not (tmp_path / "run").exists()


def test_pictures_come_from_a_zip_file(tmp_path, monkeypatch, capsys):
    pictures = paint_into(tmp_path / "pictures", KIT.items[:2])
    packed, twice = tmp_path / "all.zip", tmp_path / "twice.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(pictures / "1.png", "deep/../../1.png")
        archive.write(pictures / "2.png", "deep/2.png")
        archive.writestr("deep/notes.txt", "no picture")
    with zipfile.ZipFile(twice, "w") as archive:
        archive.write(pictures / "1.png", "a/1.png")
        archive.write(pictures / "2.png", "b/1.png")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("readme.txt", "")
    (tmp_path / "no.zip").write_bytes(b"PK nothing")
    with zipfile.ZipFile(tmp_path / "torn.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.png", bytes(range(256)) * 40)
    torn = bytearray((tmp_path / "torn.zip").read_bytes())
    torn[40:60] = b"\xff" * 20
    (tmp_path / "torn.zip").write_bytes(torn)
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps(item.to_json()) + "\n" for item in KIT.items[:2]))
    words = ["eval", "judge", "geneval_plus_plus", "--items", items, "--protocol", "kit"]
    words += ["--judge", "sandbox-judge", "--out", tmp_path / "run", "--images"]
    for file, said in (
        (twice, "two pictures 1.png: a/1.png and b/1.png"),
        (tmp_path / "empty.zip", "no picture named after an item"),
        (tmp_path / "no.zip", "no zip file that can be read"),
        (tmp_path / "torn.zip", "no zip file that can be read"),
        (tmp_path / "none", "no folder, zip file or dataset"),
    ):
        assert status(*words, file) == 1
        assert said in capsys.readouterr().err
    with image_api(tmp_path / "sandbox") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai)
        monkeypatch.setenv("OPENAI_API_KEY", server.api_key)
        main([str(word) for word in (*words, packed)])
    assert "2 judged; 2 calls now" in capsys.readouterr().out
    assert not (tmp_path.parent / "1.png").exists()
    assert sorted(path.name for path in (tmp_path / "run" / "pictures").iterdir()) == [
        "1.png", "2.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"number": "x"}, "number is 'x', no number of an item"),
        ({"number": 0}, "number is 0"),
        ({"sample": "../../2"}, "sample is '../../2'"),
        ({"sample": [1]}, "sample is"),
        ({"sample": -1}, "sample is -1"),
        ({"image": None}, "item 7 has no picture"),
    ],
)
def test_rows_of_a_strangers_dataset_name_no_file(changes, said):
    row = {"number": 7, "sample": 2, "image": {"bytes": b"torn", "path": None}} | changes
    if said is None:
        assert _named(row, "image", "number", "a/b") == ("7-2.png", b"torn")
        return
    with pytest.raises(Echo4oError, match=said):
        _named(row, "image", "number", "a/b")


@pytest.mark.slow
def test_pictures_come_from_a_dataset_on_the_hub(sandbox, tmp_path):
    """Pushed and read by the real library, in a process that talks to the sandbox."""
    paint_into(tmp_path / "pictures", KIT.items[:2])
    code = """
import sys
from datasets import Dataset, Features, Image, Value
from echo4o.cli import main
rows = {"number": [2, 1], "image": ["pictures/2.png", "pictures/1.png"]}
kinds = Features({"number": Value("int32"), "image": Image()})
Dataset.from_dict(rows, features=kinds).push_to_hub("rehearsal/two-pictures")
main(sys.argv[1:])
"""
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps(item.to_json()) + "\n" for item in KIT.items[:2]))
    words = ["eval", "judge", "geneval_plus_plus", "--items", items, "--protocol", "kit"]
    words += ["--judge", "sandbox-judge", "--out", "run", "--images", "rehearsal/two-pictures"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        env={**sandbox.environment(tmp_path / "hf"), "OPENAI_BASE_URL": sandbox.openai},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "2 judged; 2 calls now" in done.stdout
    assert "overall 100.0 %" in " ".join(done.stdout.split())
