"""Items, metrics and results on the sandbox's Hub, with the real libraries, read back."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from eval_tools import KIT, TASK, paint_into, verdict, write_run

import echo4o.eval
from echo4o.errors import Echo4oError
from echo4o.eval.faulty import Faulty, known_faults, read_faults
from echo4o.eval.item_repo import _with_canary, _without_canary, is_authors
from echo4o.eval.items import ItemsError, parse_items
from echo4o.eval.tasks import get_task

ITEMS = Path(echo4o.eval.__file__).parent / "items"

SCRIPT = r"""
import contextlib, io, json, sys
from pathlib import Path
from echo4o.cli import main

def said(*words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        main([str(word) for word in words])
    return out.getvalue()

def refused(*words):
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            assert stop.code == 1, (words, stop.code)
        else:
            raise AssertionError(words)
    assert "Traceback" not in err.getvalue()
    return err.getvalue()

def expect(words, text):
    assert words in text, text
"""


@pytest.fixture
def on_hub(sandbox, tmp_path):
    """Runs code in a process whose libraries talk to the sandbox; the Hub is fixed at import."""

    def run(code, *arguments, **extra):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT + code, *map(str, arguments)],
            env={**sandbox.environment(tmp_path / "hf"), **extra},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def whole_run(folder, pictures, model="rehearsal/painter", revision="a" * 40, **changes):
    """A run of all the kit's items with a known model."""
    write_run(folder, [verdict(item, item.number % 2 == 0) for item in KIT.items], pictures)
    value = json.loads((folder / "run.json").read_text())
    value["generation"] = {
        "model": {"id": model, "revision": revision, "sha256": None},
        "settings": {"seed": 0, "steps": 4, "guidance": None, "size": [64, 64]},
    }
    (folder / "run.json").write_text(json.dumps(value | changes))
    return folder


def test_items_and_scores_reach_the_hub_and_come_back(on_hub, tmp_path):
    pictures = paint_into(tmp_path / "pictures", KIT.items[:4])
    run = whole_run(tmp_path / "run", pictures)
    (tmp_path / "faulty.jsonl").write_text('{"id": 3, "reason": "two `readings`\\nof it"}\n')
    on_hub(
        r"""
run, faulty, sha256 = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
from datasets import load_dataset
from huggingface_hub import HfApi, hf_hub_download, parse_eval_result_entries
import yaml
from echo4o.eval.tasks import get_task
api = HfApi()

# 1. Items: a dataset that datasets loads and eval reads, the same to the byte.
repo = "rehearsal/geneval-kit"
push = ("eval", "push", "items", "geneval_plus_plus", repo, "--faulty", faulty)
expect("bytes would be sent", said(*push, "--dry-run"))
assert not api.repo_exists(repo, repo_type="dataset")
expect("210 items, 1 with known faults", said(*push))
expect("tag v1 (nothing had to change)", said(*push))
expect("tag v1 with other content", refused(*push[:5]))
rows = load_dataset(repo, split="test")
assert len(rows) == 210 and rows[0]["prompt"] and all("canary GUID" in r["canary"] for r in rows)
got = get_task("geneval_plus_plus").items("hub:" + repo + "@v1")
assert got.sha256 == sha256 and len(got.items) == 210
assert got.source == f"hub:{repo}@" + api.dataset_info(repo).sha
tasks = yaml.safe_load(Path(hf_hub_download(repo, "eval.yaml", repo_type="dataset")).read_text())
assert [one["id"] for one in tasks["tasks"]][:2] == ["overall", "color_attr"]
card = Path(hf_hub_download(repo, "README.md", repo_type="dataset")).read_text()
assert "- item 3: `two 'readings' of it`" in card and "license: apache-2.0" in card
expect("for the task 'geneval_plus_plus', not imagine_bench",
       refused("eval", "judge", "imagine_bench", "--items", "hub:" + repo, "--images", ".",
               "--out", "x", "--judge", "j"))
api.upload_file(path_or_fileobj=b"{}", path_in_repo="items.jsonl", repo_id=repo,
                repo_type="dataset")
try:
    get_task("geneval_plus_plus").items("hub:" + repo)
except Exception as error:
    expect("is not the file that its record.json names", str(error))
else:
    raise AssertionError
assert get_task("geneval_plus_plus").items(f"hub:{repo}@v1").sha256 == sha256

# 2. Scores: a pull request in the model's repo, in the Hub's own form.
model = "rehearsal/painter"
api.create_repo(model)
api.upload_file(path_or_fileobj=b"w", path_in_repo="w.bin", repo_id=model)
before = api.model_info(model).sha
submit = ("eval", "submit", run, model, "--dataset", f"{repo}@v1")
expect("name the dataset repo", refused(*submit[:4]))
expect("made by rehearsal/painter, not by rehearsal/geneval",
       refused("eval", "submit", run, "rehearsal/geneval", "--dataset", repo))
expect("would be sent", said(*submit, "--dry-run"))
said(*submit, "--into", "staged")
assert [p.name for p in Path("staged/.eval_results").iterdir()] == [
    "geneval_plus_plus-kit-sandbox_judge.yaml"]
told = said(*submit, "--source-url", "https://huggingface.co/datasets/rehearsal/results")
expect("(pull request 1 waits for its owners)", told)
assert api.model_info(model).sha == before
assert [d.status for d in api.get_repo_discussions(model)] == ["open"]
files = api.list_repo_files(model, revision="refs/pr/1")
name = ".eval_results/geneval_plus_plus-kit-sandbox_judge.yaml"
assert name in files and "w.bin" in files, files
path = hf_hub_download(model, name, revision="refs/pr/1")
entries = parse_eval_result_entries(yaml.safe_load(Path(path).read_text()))
stored = json.loads((run / "run.json").read_text())["scores"]
assert entries[0].task_id == "overall" and entries[0].dataset_id == repo
assert entries[0].value == round(stored["overall"]["score"], 4)
assert entries[0].dataset_revision == api.dataset_info(repo, revision="v1").sha
assert [e.task_id for e in entries[1:]] == list(stored["by_tag"])
assert "judge sandbox-judge; protocol kit 1" in entries[0].notes
expect("pull request 2", said(*submit, "--merge"))
assert api.file_exists(model, name)
expect("nothing had to change", said(*submit))
made = json.loads((run / "run.json").read_text())
made["generation"]["model"] = {"id": "rehearsal/nothing", "revision": "0" * 40, "sha256": None}
(run / "run.json").write_text(json.dumps(made))
elsewhere = refused("eval", "submit", run, "rehearsal/nothing", *submit[4:])
expect("there is no model rehearsal/nothing", elsewhere)

# Nothing of somebody else's is taken away.
for kind, words in (("dataset", ("items", "geneval_plus_plus", "rehearsal/other")),
                    ("dataset", ("results", "rehearsal/other", run))):
    api.create_repo("rehearsal/other", repo_type=kind, exist_ok=True)
    api.upload_file(path_or_fileobj=b"x", path_in_repo="data/x.parquet", repo_id="rehearsal/other",
                    repo_type=kind)
    expect("holds something else (data/x.parquet", refused("eval", "push", *words))
expect("has no items.jsonl with a record.json", refused(
    "eval", "judge", "geneval_plus_plus", "--items", "hub:rehearsal/other", "--images", ".",
    "--out", "x", "--judge", "j"))
""",
        run,
        tmp_path / "faulty.jsonl",
        KIT.sha256,
    )


@pytest.mark.slow
def test_results_become_rows_and_every_push_adds(on_hub, tmp_path):
    pictures = paint_into(tmp_path / "pictures", KIT.items[:4])
    on_hub(
        r"""
run = Path(sys.argv[1])
from datasets import load_dataset
stored = json.loads((run / "run.json").read_text())["scores"]
results = "rehearsal/more-results"
push = ("eval", "push", "results", results, run, "--pictures")
said(*push)
expect("nothing had to change", said(*push))
rows = load_dataset(results, "verdicts", split="train")
assert len(rows) == 210 and rows[0]["image"].size == (64, 64) and rows[9]["image"] is None
assert rows[0]["prompt"] and json.loads(rows[0]["findings"])[0]["reason"] == "because"
other = run.with_name("other")
other.mkdir()
value = json.loads((run / "run.json").read_text())
value["protocol"]["version"] = "9"
(other / "run.json").write_text(json.dumps(value))
said("eval", "push", "results", results, other)
runs = load_dataset(results, "runs", split="train", download_mode="force_redownload")
assert sorted(runs["protocol_version"]) == ["1", "9"]
assert json.loads(runs[0]["scores"])["overall"]["score"] == stored["overall"]["score"]
""",
        whole_run(tmp_path / "run", pictures),
    )


def test_runs_that_nobody_can_check_are_not_submitted(tmp_path):
    from echo4o.eval.submit import submit

    pictures = paint_into(tmp_path / "pictures", KIT.items[:1])
    made = json.loads((whole_run(tmp_path / "a", pictures) / "run.json").read_text())["generation"]
    facts = {"source": "kit", "sha256": KIT.sha256, "available": 210, "judged": 7}
    bought = {**made, "model": {"id": "api:x", "revision": None, "sha256": None}}
    local = {**made, "model": {"id": "mine", "revision": None, "sha256": "0" * 64}}
    for changes, complaint in (
        ({"items": facts}, "has 7 of 210 items"),
        ({"generation": None}, "nobody knows what made"),
        ({"generation": bought}, "made by api:x, not by rehearsal/painter"),
        ({"generation": local}, "made by the folder mine.*run with --model rehearsal/painter"),
    ):
        run = whole_run(tmp_path / "b", pictures, **changes)
        with pytest.raises(Echo4oError, match=complaint):
            submit(run, "rehearsal/painter", dataset="rehearsal/items")


def test_the_canary_goes_on_and_off_to_the_byte():
    for name in ("geneval_plus_plus", "imagine_bench"):
        data = get_task(name).kit_items.read_bytes()
        for one in (data, data.replace(b"\n", b"\r\n"), data.rstrip(b"\n"), b"\n" + data):
            marked = _with_canary(one, "x\u00e9")
            assert marked != one
            assert _without_canary(marked, "x\u00e9") == one
            lines = [line for line in marked.decode().split("\n") if line.strip()]
            assert all(json.loads(line)["canary"] == "x\u00e9" for line in lines)
    for bad in (b"[1]\n", b'{"a": 1} {\n', _with_canary(b'{"a": 1}\n', "c")):
        with pytest.raises(ItemsError, match="line 1"):
            _with_canary(bad, "c")


def test_faults_are_found_by_rule_and_read_from_a_file(tmp_path):
    rows = [
        {"tag": "counting", "prompt": "p", "include": [{"class": name, "count": count}]}
        for name, count in (("sheep", 2), ("sheep", 1), ("dog", 3), ("bus", 2))
    ]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    items = parse_items(data, "x", source="x", read_row=TASK.read_row).items
    assert known_faults("geneval_plus_plus", items) == [
        Faulty(1, "the checklist says 'sheeps', not 'sheep'"),
        Faulty(4, "the checklist says 'buss', not 'buses'"),
    ]
    file = tmp_path / "faulty.jsonl"
    file.write_text('\ufeff{"id": 2, "reason": " r "}\r\n\r\n')
    assert read_faults(file, items) == [Faulty(2, "r")]
    for text, complaint in (
        ('{"id": 9, "reason": "r"}', "line 1: 9 is no item"),
        ('{"id": 1, "reason": " "}', "line 1: 1 is no item, or has no reason"),
        ('{"id": 1}', "line 1: needs an object with id and reason"),
        ("[]", r"line 1: needs"),
        ("{", r"line 1: needs"),
        ("[" * 100_000, r"line 1: needs"),
        ('{"id": [2], "reason": "r"}', r"line 1: \[2\] is no item"),
    ):
        file.write_text(text)
        with pytest.raises(Echo4oError, match=complaint):
            read_faults(file, items)
    with pytest.raises(Echo4oError, match="no file of known faults"):
        read_faults(tmp_path / "none", items)


@pytest.mark.shared
def test_the_authors_items_are_known_by_any_name_and_not_pushed_unasked(
    shared, tmp_path, monkeypatch, capsys
):
    from echo4o.cli import main

    monkeypatch.setenv("ECHO4O_BENCHMARKS", str(shared / "benchmarks"))
    for name, faults in (("geneval_plus_plus", 28), ("imagine_bench", 8)):
        task = get_task(name)
        theirs = task.items("authors")
        assert len(known_faults(name, theirs.items)) == faults
        file = tmp_path / f"mine-{name}.jsonl"
        original = next((shared / "benchmarks").glob("G*" if faults == 28 else "I*")).read_bytes()
        file.write_bytes(original.replace(b"\n", b"\r\n"))
        for found, theirs in ((task.items(str(file)), True), (task.items("kit"), False)):
            prompts = [item.prompt for item in found.items]
            assert is_authors(task, found.sha256, prompts) == theirs
        for items in ("authors", str(file)):
            with pytest.raises(SystemExit):
                main(["eval", "push", "items", name, "nobody/nothing", "--items", items])
            assert "needs their licence" in capsys.readouterr().err


@pytest.mark.slow
def test_metrics_become_spaces_that_evaluate_loads(on_hub, tmp_path):
    """Both Spaces with the pinned wheel; a module loaded from the Hub judges through the API."""
    picture = paint_into(tmp_path / "pictures", KIT.items[:1]) / f"{KIT.items[0].number}.png"
    from echo4o.eval.push_metrics import build_wheel

    wheel = build_wheel(tmp_path / "wheel")
    on_hub(
        r"""
wheel, picture, item = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
import hashlib, os, subprocess, urllib.request
from huggingface_hub import HfApi, hf_hub_download
api = HfApi()
push = ("eval", "push", "metrics", "rehearsal", "--wheel", wheel)
expect("would be sent", said(*push, "--dry-run"))
said(*push)
assert said(*push).count("nothing had to change") == 6
commit = api.dataset_info("rehearsal/echo4o-wheel").sha
for name in ("geneval_plus_plus", "imagine_bench"):
    space = f"rehearsal/{name}"
    files = set(api.list_repo_files(space, repo_type="space"))
    assert files >= {f"{name}.py", "README.md", "requirements.txt", "app.py"}, files
    assert not any("pycache" in file for file in files)
    text = Path(hf_hub_download(space, "requirements.txt", repo_type="space")).read_text()
    line, = (line for line in text.splitlines() if line.startswith("echo4o[eval] @ "))
    url, _, sha256 = line.removeprefix("echo4o[eval] @ ").partition("#sha256=")
    assert f"/resolve/{commit}/" in url
    data = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url).read()
    assert hashlib.sha256(data).hexdigest() == sha256
    # pip takes the line as it stands, holds the file against its hash, and what it installs works.
    place = f"installed-{name}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", place]
    pip += ["--disable-pip-version-check", f"echo4o @ {url}#sha256={sha256}"]
    subprocess.run(pip, check=True, env={**os.environ, "NO_PROXY": "127.0.0.1"})
    look = "import echo4o.eval.metric as m; print(m.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", look],
        env={**os.environ, "PYTHONPATH": place}, capture_output=True, text=True, check=True,
    )
    assert place in found.stdout, found.stdout
    assert api.space_info(space).sdk == "gradio"
import evaluate
metric = evaluate.load("rehearsal/geneval_plus_plus")
metric.add(prediction=picture, reference=item)
result = metric.compute(judge="sandbox-judge")
assert result["overall"]["score"] == 1.0, result
assert "fantasy" in evaluate.load("rehearsal/imagine_bench").description
expect("is no wheel of echo4o", refused("eval", "push", "metrics", "rehearsal", "--wheel", picture))
""",
        wheel,
        picture,
        json.dumps(KIT.items[0].to_json()),
    )


@pytest.mark.slow
def test_the_wheel_is_the_same_each_time_and_has_the_metrics(tmp_path):
    import zipfile

    from echo4o.eval.push_metrics import build_wheel

    built = [build_wheel(tmp_path / name).read_bytes() for name in "ab"]
    assert built[0] == built[1]
    (tmp_path / "w.whl").write_bytes(built[0])
    names = zipfile.ZipFile(tmp_path / "w.whl").namelist()
    assert "echo4o/eval/metrics/imagine_bench/app.py" in names
    assert "echo4o/eval/templates/report.html.jinja" in names


@pytest.mark.shared
def test_results_on_the_authors_items_leave_their_texts_at_home(shared, tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    from echo4o.eval import results_repo
    from echo4o.eval.rescore import check_results

    task = get_task("geneval_plus_plus")
    monkeypatch.setenv("ECHO4O_BENCHMARKS", str(shared / "benchmarks"))
    items = task.items("authors").items[:8]
    pictures = paint_into(tmp_path / "pictures", KIT.items[:1])
    run = write_run(tmp_path / "run", [verdict(item, True) for item in items], pictures)
    seen = {}

    def staged(folder, repo, **options):
        for file in (folder / "data" / "verdicts").glob("*.parquet"):
            seen[repo] = (pq.read_table(file).to_pylist(), file.read_bytes())
        (whole,) = (folder / "runs").glob("*/run.json")
        assert check_results(folder)[1] == [], "scores follow from verdicts without their texts"
        seen[f"{repo} run"] = whole.read_text()

    monkeypatch.setattr(results_repo, "publish_folder", staged)
    results_repo.push_results([run], "without")
    results_repo.push_results([run], "with", license="apache-2.0")
    rows, data = seen["without"]
    assert len(rows) == 8
    assert all(row["prompt"] is row["findings"] is row["raw_reply"] is None for row in rows)
    assert items[0].prompt.encode() not in data
    assert rows[0]["correct"]
    assert seen["with"][0][0]["prompt"] == items[0].prompt
    assert items[0].prompt not in seen["without run"]
    assert items[0].prompt in seen["with run"]
    assert str(tmp_path) not in seen["without run"] + seen["with run"]
