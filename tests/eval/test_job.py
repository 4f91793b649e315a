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
from echo4o.eval.job import SCRIPT, Job, shown, start

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


@pytest.mark.slow
def test_the_script_judges_a_model_and_opens_a_pull_request(sandbox, tmp_path):
    """What the job would run, word for word, with two items and a tiny model."""
    items = Path(str(files("echo4o.eval"))) / "items/geneval_plus_plus_kit.jsonl"
    (tmp_path / "two.jsonl").write_text("".join(items.open().readlines()[:2]))
    environment = sandbox.environment(tmp_path / "home")

    def run(*words):
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    cli, org = ("-m", "echo4o.cli"), "rehearsal"
    push = ("eval", "push", "items", "geneval_plus_plus", f"{org}/two", "--items", "two.jsonl")
    run(*cli, *push, "--license", "apache-2.0")
    run(*cli, "model", "push", files("echo4o.models") / "tiny_model", f"{org}/tiny-job")
    dry = run(
        *cli, "eval", "job", f"{org}/tiny-job", "--items", f"hub:{org}/two",
        "--judge", "sandbox-judge", "--dry-run",
    )  # fmt: skip
    call = json.loads(dry[dry.index("{") : dry.rindex("}") + 1])
    assert call["script"] == str(SCRIPT)
    run(call["script"], *call["script_args"], "--steps", "1")
    look = f"""
from huggingface_hub import HfApi, hf_hub_download
api = HfApi()
talk, = api.get_repo_discussions("{org}/tiny-job", discussion_type="pull_request")
at = f"refs/pr/{{talk.num}}"
names = api.list_repo_files("{org}/tiny-job", revision=at)
name, = [one for one in names if one.startswith(".eval_results/")]
print(talk.status, open(hf_hub_download("{org}/tiny-job", name, revision=at)).read())
"""
    said = run("-c", look)
    assert said.startswith("open ")
    assert "sandbox-judge" in said
