"""A push that is killed, or refused in the middle: what was sent stays sent, readers see one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import authors_layout as layout
import pytest
from hub_server import HubServer
from rights_file import write_release

from echo4o.dataset_builder import import_release
from echo4o.dataset_builder.signing_off import check_rights

# Every answer to an upload is noted; PART files make a part; each request takes a moment longer.
PUSH = r"""
import os, sys, time
from pathlib import Path
import huggingface_hub as h
from huggingface_hub.utils import httpx
import echo4o.hub as hub
folder, repo, tag, notes, code, at = sys.argv[1:]
hub._PART_FILES = 2
state = {"commits": 0}
def slow(request): time.sleep(0.01)
def note(response):
    if response.request.method == "PUT" and response.status_code < 300:
        with open(notes, "a") as file: file.write(str(response.request.url.path) + "\n")
class Refusing(httpx.HTTPTransport):
    def handle_request(self, request):
        if code != "0" and at in str(request.url.path) and request.method == "POST":
            state["commits"] += 1
            if state["commits"] == 2:
                return httpx.Response(int(code), json={"error": "no"}, request=request)
        return super().handle_request(request)
h.set_client_factory(lambda: httpx.Client(transport=Refusing(),
    event_hooks={"request": [slow], "response": [note]}, follow_redirects=True, timeout=None))
from echo4o.cli import main
from datasets import load_dataset
print("begun", flush=True)
main(["data", "push", folder, repo, "--tag", tag])
print("done", flush=True)
"""
LOOK = r"""
import json, sys
import huggingface_hub as h
repo, kind = sys.argv[1], {"repo_type": "dataset"}
api = h.HfApi()
def files(revision):
    listed = api.list_repo_tree(repo, recursive=True, revision=revision, **kind)
    blobs = [one for one in listed if hasattr(one, "blob_id") and one.path != ".gitattributes"]
    return {one.path: getattr(one.lfs, "sha256", None) or one.blob_id for one in blobs}
tags = {ref.name: files(ref.name) for ref in api.list_repo_refs(repo, **kind).tags}
merged = [one.status for one in api.get_repo_discussions(repo, **kind)].count("merged")
print(json.dumps({"main": files("main"), "tags": tags, "merged": merged}))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    server = HubServer(tmp_path_factory.mktemp("hub"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Two versions of a dataset of all subsets."""
    root = tmp_path_factory.mktemp("versions")
    for number, rows in ((1, 6), (2, 9)):
        for subset in (layout.INSTRUCTION, layout.SURREAL):
            layout.write_t2i(root / f"release-{number}", subset, rows=rows)
        pairs = [[n % 3, (n + 1) % 3] for n in range(rows)]
        layout.write_collection(root / f"release-{number}", pairs, pool=3)
        import_release(str(root / f"release-{number}"), root / f"{number}", validation=2)
        check_rights(root / f"{number}", write_release(root))
    return root


def push(hub, home, folder, repo, tag, notes, code="0", at="-"):
    words = [str(folder), repo, tag, str(notes), code, at]
    return subprocess.Popen(
        [sys.executable, "-c", PUSH, *words],
        env=hub.environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def look(hub, home, repo):
    return json.loads(hub.run(LOOK, home, repo))


def finished(process):
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return out


def sent(notes):
    return Path(notes).read_text().splitlines() if Path(notes).exists() else []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "at", "said"),
    [
        ("403", "/commit/", "may not do this"),
        ("409", "/commit/", "conflict"),
        ("412", "/commit/", "changed in the meantime"),
        ("500", "/commit/", None),
    ],
)
def test_a_refusal_in_the_middle_loses_nothing_that_was_sent(
    hub, versions, tmp_path, code, at, said
):
    repo, notes = f"rehearsal/refused-{code}", tmp_path / "notes"
    process = push(hub, tmp_path, versions / "2", repo, "v1", notes, code, at)
    out, error = process.communicate(timeout=120)
    if said is not None:
        assert process.returncode == 1, error
        last = error.strip().splitlines()[-1]
        assert said in last
        assert "hf_" not in error
        state = look(hub, tmp_path, repo)
        assert state["main"] == {}
        assert state["tags"] == {}
        assert sent(notes)
        out = finished(push(hub, tmp_path, versions / "2", repo, "v1", notes))
    assert "loads back the same" in out
    assert len(sent(notes)) == len(set(sent(notes))), "no file is sent twice"
    state = look(hub, tmp_path, repo)
    assert set(state["tags"]) == {"v1"}
    assert state["tags"]["v1"] == state["main"] != {}
    assert state["merged"] == 1


@pytest.mark.slow
def test_a_push_killed_20_times(hub, versions, tmp_path):
    draw, repo, notes = random.Random(11), "rehearsal/killed", tmp_path / "notes"
    finished(push(hub, tmp_path, versions / "1", repo, "v1", tmp_path / "first"))
    old = look(hub, tmp_path, repo)["main"]
    process = push(hub, tmp_path, versions / "2", "rehearsal/measure", "v2", tmp_path / "other")
    assert process.stdout.readline() == "begun\n"
    start = time.monotonic()
    finished(process)
    whole = time.monotonic() - start
    measured = look(hub, tmp_path, "rehearsal/measure")["main"]
    kills, after_the_end, seen = 0, 0, []
    while kills < 20:
        process = push(hub, tmp_path, versions / "2", repo, "v2", notes)
        assert process.stdout.readline() == "begun\n"
        # Most of the time is spent on looking; early moments are as likely as late ones.
        time.sleep(draw.uniform(0, whole * (0.2 + 0.04 * kills)))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        after_the_end += process.wait() == 0
        kills += 1
        seen.append(look(hub, tmp_path, repo))
    finished(push(hub, tmp_path, versions / "2", repo, "v2", notes))
    state = look(hub, tmp_path, repo)
    new, uploads = state["main"], sent(notes)
    half = sum(one["main"] not in (old, new) for one in seen)
    figures = {
        "kills": kills,
        "runs_that_had_ended_before_the_kill": after_the_end,
        "files_sent": len(uploads),
        "files_sent_twice": len(uploads) - len(set(uploads)),
        "half_visible_versions": half,
        "merges_of_the_new_version": state["merged"] - 1,
        "tags": sorted(state["tags"]),
    }
    results = Path(__file__).parents[2] / "benchmarks" / "results" / "push_killed.json"
    results.write_text(json.dumps(figures, indent=1) + "\n")
    print(figures)
    assert after_the_end < 20
    assert figures["files_sent_twice"] == 0
    assert half == 0
    assert state["tags"]["v2"] == new
    for one in seen:
        assert one["tags"].get("v1") == old
        assert one["tags"].get("v2", new) == new
    # A card names its own repository, and the record has the card's hash.
    own = {"README.md", "record.json"}
    assert {path for path in new.keys() | measured if new.get(path) != measured.get(path)} == own
    assert figures["merges_of_the_new_version"] == 1
