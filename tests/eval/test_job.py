"""`echo4o eval job`: the call as the client takes it, and the script on the sandbox."""

import inspect
import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from echo4o.errors import Echo4oError
from echo4o.eval.job import SCRIPT, Job, check_asked, shown, start
from echo4o.wheel import build_wheel

ROOT = Path(__file__).parents[2]

GOOD = {
    "task": "geneval_plus_plus",
    "items": "hub:org/items@v1",
    "model": "org/model",
    "revision": "a" * 40,
    "judge": "judge-1",
}


def test_the_client_takes_the_call_and_no_secret_is_shown(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    job = Job(**GOOD, wheel="echo4o @ https://hub/echo4o.whl#sha256=1", flavor="h200", hours=1.5)
    call = job.call()
    inspect.signature(HfApi().run_uv_job).bind(**call, secrets={})
    assert call["dependencies"] == ["echo4o[eval] @ https://hub/echo4o.whl#sha256=1"]
    assert call["timeout"] == "90m"
    assert call["script_args"][-2:] == ["-", "paper"]
    assert job.cost().startswith("at most 7.50 USD")
    assert "not known" in Job(**GOOD, flavor="t4-small").cost()
    assert "sk-very-secret" not in json.dumps(shown(job))
    assert compile(Path(call["script"]).read_text(), "hf_job.py", "exec")


def test_a_job_without_a_key_is_not_started(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_sandbox_rehearsal")
    with pytest.raises(Echo4oError, match="OPENAI_API_KEY"):
        start(Job(**GOOD))


@pytest.mark.parametrize(
    "wrong", [{"items": "kit"}, {"model": "folder"}, {"hours": 0}, {"hours": float("nan")}]
)
def test_what_cannot_run_there_is_refused(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must be"):
        Job(**GOOD | wrong)


def test_a_task_or_items_that_do_not_exist_are_told_before_a_machine_is_paid_for(sandbox, tmp_path):
    with pytest.raises(Echo4oError, match="there is no task 'nope'"):
        check_asked(Job(**GOOD | {"task": "nope"}))
    with pytest.raises(Echo4oError, match="has no protocol 'papr'; choose one of"):
        check_asked(Job(**GOOD | {"protocol": "papr"}))
    with pytest.raises(Echo4oError, match="come with reference pictures"):
        check_asked(Job(**GOOD | {"task": "omnicontext", "protocol": "fork"}))
    code = f"from echo4o.eval.job import Job, check_asked; check_asked(Job(**{GOOD!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=sandbox.environment(tmp_path), capture_output=True, text=True,
    )  # fmt: skip
    assert "cannot find dataset org/items at v1: there is no such repo" in done.stderr


def environment_of_a_job(folder, requirement):
    """What `hf jobs uv run` makes: a new environment with the call's dependencies and no more."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin/python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--no-compile", "--progress-bar", "off", "-c", str(ROOT / "constraints.txt")]
    done = subprocess.run([*pip, requirement], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return python


@pytest.mark.slow
def test_the_script_judges_a_model_and_opens_a_pull_request(sandbox, tmp_path):
    """As the job would: a new environment, an empty home and disk, secrets as variables."""
    items = Path(str(files("echo4o.eval"))) / "items/geneval_plus_plus_kit.jsonl"
    (tmp_path / "two.jsonl").write_text("".join(items.open().readlines()[:2]))
    environment = sandbox.environment(tmp_path / "home")

    def run(*words, python=sys.executable, cwd=tmp_path, env=environment):
        done = subprocess.run(
            [str(python), *map(str, words)],
            env=env, cwd=cwd, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert sandbox.token not in done.stdout + done.stderr
        assert sandbox.api_key not in done.stdout + done.stderr
        return done.stdout

    cli, org = ("-m", "echo4o.cli"), "rehearsal"
    push = ("eval", "push", "items", "geneval_plus_plus", f"{org}/two", "--items", "two.jsonl")
    run(*cli, *push, "--license", "apache-2.0")
    run(*cli, "model", "push", files("echo4o.models") / "tiny_model", f"{org}/tiny-job")
    wheel = build_wheel(tmp_path / "wheel")
    dry = run(
        *cli, "eval", "job", f"{org}/tiny-job", "--items", f"hub:{org}/two",
        "--judge", "sandbox-judge", "--protocol", "kit", "--results", f"{org}/job-results",
        "--wheel", f"echo4o @ {wheel.as_uri()}", "--dry-run",
    )  # fmt: skip
    call = json.loads(dry[dry.index("{") : dry.rindex("}") + 1])
    assert call["script"] == str(SCRIPT)
    (requirement,) = call["dependencies"]
    python = environment_of_a_job(tmp_path / "job", requirement)
    disk, home = tmp_path / "disk", tmp_path / "empty"
    disk.mkdir()
    home.mkdir()
    kept = ("HF_ENDPOINT", "HF_TOKEN", "OPENAI_API_KEY", "OPENAI_BASE_URL", "PATH")
    kept += ("HF_HUB_DISABLE_XET", "NO_PROXY", "no_proxy", "OMP_NUM_THREADS")
    alone = {name: environment[name] for name in kept} | {"HOME": str(home)}
    script = disk / "script.py"  # the Hub sends the file, not the package around it
    script.write_bytes(Path(call["script"]).read_bytes())
    run(script, *call["script_args"], "--steps", "1", python=python, cwd=disk, env=alone)
    look = f"""
from huggingface_hub import HfApi, hf_hub_download
api = HfApi()
talks = api.get_repo_discussions("{org}/tiny-job", discussion_type="pull_request")
talk, = [one for one in talks if one.status == "open"]  # the model came by another, merged one
at = f"refs/pr/{{talk.num}}"
names = api.list_repo_files("{org}/tiny-job", revision=at)
name, = [one for one in names if one.startswith(".eval_results/")]
print(talk.status, open(hf_hub_download("{org}/tiny-job", name, revision=at)).read())
rows = api.list_repo_files("{org}/job-results", repo_type="dataset")
assert any(one.startswith("data/verdicts/") for one in rows), rows
"""
    said = run("-c", look)
    assert said.startswith("open ")
    assert "sandbox-judge" in said
