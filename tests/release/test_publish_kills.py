"""A publication that is killed again and again ends in one whole release, never half seen."""

import json
import subprocess
import sys
import time

import pytest
from hub_server import HubServer
from release_lab import note

KILLER = r"""
import json, os, random, signal, sys, time
from pathlib import Path
import datasets, diffusers, model_signing.signing, pyarrow, torch, transformers  # before forks
from echo4o import Echo4oPipeline
from echo4o.cli import main

words, kills, seed = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
draw = random.Random(seed)

def attempt(limit=None):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            main(words)
            status = 0
        except SystemExit as stop:
            status = stop.code
        finally:
            sys.stdout.flush()
            os._exit(status or 0)
    begun = time.monotonic()
    while limit is None or time.monotonic() - begun < limit:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status, time.monotonic() - begun
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None, limit

killed, tries, longest = 0, 0, float(sys.argv[4])
while killed < kills and tries < 3 * kills:
    status, _ = attempt(draw.uniform(0.05, longest / 5))
    killed, tries = killed + (status is None), tries + 1
status, seconds = attempt()
assert status == 0, status
print(json.dumps([killed, seconds]))
"""

READER = r"""
import json, sys, time
from pathlib import Path
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
api, repos, out, stop = HfApi(), json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
seen = set()
while not stop.exists():
    for kind, repo in repos:
        try:
            commit = api.repo_info(repo, repo_type=kind).sha
            tree = api.list_repo_tree(repo, repo_type=kind, revision=commit, recursive=True)
            files = sorted((e.path, e.blob_id) for e in tree if hasattr(e, "blob_id"))
        except HfHubHTTPError:
            continue
        line = json.dumps([kind, repo, files])
        if line not in seen:
            seen.add(line)
            with out.open("a") as stream:
                stream.write(line + "\n")
    time.sleep(0.2)
"""

LOOK = r"""
import json, sys
from huggingface_hub import HfApi
api, found = HfApi(), {}
for kind, repo in json.loads(sys.argv[1]):
    refs = api.list_repo_refs(repo, repo_type=kind)
    tree = api.list_repo_tree(repo, repo_type=kind, recursive=True)
    talks = list(api.get_repo_discussions(repo, repo_type=kind))
    found[repo] = {
        "tags": sorted([t.name, t.target_commit] for t in refs.tags),
        "main": api.repo_info(repo, repo_type=kind).sha,
        "files": sorted((e.path, e.blob_id) for e in tree if hasattr(e, "blob_id")),
        "commits": len(api.list_repo_commits(repo, repo_type=kind)),
        "merged": sum(t.status == "merged" for t in talks),
        "open": sum(t.status in ("draft", "open") for t in talks),
    }
slug = next(api.list_collections(owner="echo4o-sandbox")).slug
items = [(i.item_type, i.item_id) for i in api.get_collection(slug).items]
assert len(items) == len(set(items))
print(json.dumps([found, len(items)]))
"""


PARTS, KILLS, VERSIONS = 3, 6, 3


@pytest.mark.slow
@pytest.mark.parametrize("part", range(1, PARTS + 1))
def test_killed_at_50_random_moments_it_ends_in_one_whole_release(rehearsed, tmp_path, part):
    """54 in all parts together, each on a Hub of its own."""
    hub = HubServer(tmp_path / "hub")
    home, org = tmp_path / "home", "echo4o-sandbox"
    repos = [
        ("dataset", f"{org}/echo-4o-image"), ("dataset", f"{org}/echo-4o-results"),
        ("model", f"{org}/echo-4o-tiny"), ("space", f"{org}/echo-4o"),
    ]  # fmt: skip
    source = (rehearsed / "RELEASE.toml").read_text()
    seen, stop = tmp_path / "seen.jsonl", tmp_path / "stop"
    begun, killed, longest, looks = time.monotonic(), 0, 8.0, []
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, json.dumps(repos), str(seen), str(stop)],
        env=hub.environment(home),
    )
    try:
        for version in range(VERSIONS + 1):
            plan = rehearsed / f"RELEASE-{version}.toml"
            text = source.replace('version = "v1"', f'version = "w{version}"')
            if version % 2:  # other results and another card than the version before
                text = text.replace('["eval/untrained", "eval/trained"]', '["eval/trained"]')
            plan.write_text(text)
            work = tmp_path / f"work-{version}"
            words = ["release", "publish", str(plan), "--work", str(work)]
            words += ["--sign-key", str(rehearsed / "keys/rehearsal.key")]
            count = KILLS if version else 0
            if not version:  # a dry run writes nothing
                hub.run(KILLER, home, json.dumps([*words, "--dry-run"]), "0", "0", "9")
                nothing = hub.run("import huggingface_hub as h; print([*h.list_datasets()])", home)
                assert nothing.strip() == "[]"
            said = hub.run(
                KILLER, home, json.dumps(words), str(count), f"{part}{version}", str(longest)
            )
            fell, seconds = json.loads(said.splitlines()[-1])
            longest = seconds if version == 0 else longest
            killed += fell
            found, items = json.loads(hub.run(LOOK, home, json.dumps(repos)))
            looks.append(found)
            assert items == len(repos) + 1
            for repo, facts in found.items():
                assert facts["commits"] == version + 2, (version, repo, facts)
                assert facts["merged"] == version + 1
                assert facts["open"] == 0
                tags = dict(facts["tags"])
                assert len(facts["tags"]) == len(tags) == version + 1
                assert tags[f"w{version}"] == facts["main"]
            print(f"version {version}: {killed} kills", file=sys.stderr, flush=True)
    finally:
        stop.touch()
        reader.wait(timeout=60)
        hub.stop()
        for plan in rehearsed.glob("RELEASE-*.toml"):
            plan.unlink()
    moving = {"release.json", "release.sig"}
    for kind, repo in repos:  # the first and the third version have the same inputs
        if kind != "space":  # its sources are those of the checkout, which may be worked on
            pair = (looks[number][repo]["files"] for number in (1, 3))
            first, second = ([f for f in files if f[0] not in moving] for files in pair)
            assert first == second, repo
    snapshots = [json.loads(line) for line in seen.read_text().splitlines()]
    for kind, repo, files in snapshots:
        whole = [one[repo]["files"] for one in looks]
        assert files in whole or [name for name, _ in files] == [".gitattributes"], (kind, repo)
    assert killed == KILLS * VERSIONS, f"only {killed} kills came in time"
    note(
        **{
            f"kills, part {part} of {PARTS}": {
                "kills": killed,
                "releases": VERSIONS,
                "states of main seen by a reader": len(snapshots),
                "mixtures": 0,
                "tags set twice": 0,
                "seconds": round(time.monotonic() - begun, 1),
            }
        }
    )
