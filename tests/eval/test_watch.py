"""`echo4o eval watch`: the sandbox's webhooks arrive, and each new model is judged once."""

import subprocess
import sys

import pytest

SCRIPT = r"""
import json, sys, threading, time, urllib.request
from pathlib import Path
from huggingface_hub import CommitOperationAdd as Add, HfApi
from echo4o.errors import Echo4oError
from echo4o.eval.job import Job, start
from echo4o.eval.watch import Watcher, make_server

api, model, started = HfApi(), "rehearsal/watched-model", []
api.create_repo(model)
watcher = Watcher(model=model, secret="a long secret", seen=Path("seen.txt"),
                  start=lambda commit: started.append(commit) or "job")
received, receive = [], watcher.receive
def noting(*words):
    received.append(receive(*words))
    return received[-1]
watcher.receive = noting
server = make_server(watcher, "127.0.0.1", 0)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/"
api.create_webhook(url=url, watched=[{"type": "model", "name": model}], secret="a long secret")

def push(name, data):
    before = len(received)
    commit = api.create_commit(model, [Add(name, data)], commit_message=name).oid
    deadline = time.monotonic() + 20
    while len(received) == before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return commit, received[-1]

first, answer = push("model.safetensors", b"one")
assert answer.status == 202 and started == [first]
for name in (".eval_results/a.yaml", "README.md"):
    assert push(name, b"- x: 1")[1] .status == 200
assert started == [first], "scores and prose are no new model"
second, _ = push("model.safetensors", b"two")
assert started == [first, second]
assert Path("seen.txt").read_text().split() == [first, second]

def message(**changes):
    value = {"event": {"action": "update", "scope": "repo.content"},
             "repo": {"type": "model", "name": model},
             "updatedRefs": [{"ref": "refs/heads/main", "oldSha": None, "newSha": second}]}
    return json.dumps(value | changes).encode()
for secret, body, status, words in (
    ("a long secret", message(), 200, "already"),
    ("a long secreT", message(), 403, "secret"),
    ("", message(), 403, "secret"),
    ("\u00e4", message(), 403, "secret"),
    ("a long secret", b"{", 400, "no message"),
    ("a long secret", b"[]", 400, "no message"),
    ("a long secret", b"[" * 100000, 400, "no message"),
    ("a long secret", message(repo={"type": "model", "name": "x/y"}), 200, "no new"),
    ("a long secret", message(updatedRefs=[{"ref": "refs/pr/1", "newSha": second}]), 200, "no new"),
    ("a long secret", message(updatedRefs=[{"ref": "refs/heads/main", "newSha": "$(id)"}]), 200,
     "no new"),
):
    answer = receive(secret, body)
    assert answer.status == status and words in answer.text, (answer, body[:80])
assert started == [first, second]

# What the Hub refuses is told, and tried again with the next message; jobs are not in the sandbox.
job = Job(task="t", items="hub:a/b", model=model, revision=second, judge="j")
watcher.start = lambda commit: start(job)
Path("seen.txt").unlink()
answer = receive("a long secret", message())
assert answer.status == 503, answer
assert not Path("seen.txt").read_text()
"""


@pytest.mark.slow
def test_every_new_model_is_judged_once(sandbox, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=sandbox.environment(tmp_path / "home"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
