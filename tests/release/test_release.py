"""Releases: what a manifest promises, what tampering is found, what a kill leaves behind."""

import argparse
import importlib
import json
import random
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_server import HubServer
from release_lab import (
    change_one,
    check_all,
    copy_repo,
    files_of,
    forge,
    honest,
    target_of,
    write,
)
from tests_sandbox import start_sandbox

from echo4o.cli import VERBS
from echo4o.errors import Echo4oError
from echo4o.manifest import (
    MANIFEST,
    SIGNATURE,
    Manifest,
    ManifestError,
    Pinned,
    Release,
    check_signature,
    compare_files,
    compare_records,
    installed_packages,
    read_manifest,
    seal,
)
from echo4o.records import RunRecord, sha256_file
from echo4o.release.plan import Plan
from echo4o.release.sample import make_keys
from echo4o.release.table import Table
from echo4o.release.verify import check_repo, read_targets
from echo4o.rights import Rights

FIGURES = Path(__file__).parents[2] / "benchmarks/results/release.json"


def note(**figures):
    """Add figures to the results file."""
    before = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    FIGURES.write_text(json.dumps(before | figures, indent=1, sort_keys=True) + "\n")


@pytest.fixture
def sealed(tmp_path):
    """A small sealed folder, its release and the public key."""
    private, public = make_keys(tmp_path / "keys")
    folder = tmp_path / "repo"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("# A\n\n160 rows\n")
    (folder / "data/a.bin").write_bytes(bytes(range(256)) * 40)
    files = {"data/a.bin": sha256_file(folder / "data/a.bin")}
    RunRecord(name="a", command="b", files=files).save(folder)
    release = Release(
        name="n", version="v1", packages={"x": "1"}, key=str(private), kept=str(tmp_path / "kept")
    )
    seal(folder, "org/a", "dataset", release)
    return folder, release, public


def test_a_seal_is_the_same_again_and_finds_nothing_wrong(sealed):
    folder, release, public = sealed
    before = [(folder / name).read_bytes() for name in (MANIFEST, SIGNATURE)]
    seal(folder, "org/a", "dataset", release)
    assert [(folder / name).read_bytes() for name in (MANIFEST, SIGNATURE)] == before
    manifest = read_manifest(folder)
    assert manifest.records == ("record.json",)
    assert not compare_files(folder, manifest)
    assert not compare_records(folder, manifest)
    assert not check_signature(folder, public)


@pytest.mark.parametrize("name", ["README.md", "data/a.bin", "record.json", MANIFEST])
def test_one_changed_byte_is_found_and_named(sealed, name):
    folder, _, public = sealed
    target = target_of(folder, pinned=True)
    write(folder / name, change_one((folder / name).read_bytes(), random.Random(4)))
    for key, pinned in ((public, target._replace(manifest=None)), (None, target)):
        table = Table()
        check_repo(folder, pinned, key, table)
        assert any(name in " ".join(row) for row in (r[:4] for r in table.bad_rows)), table.lines()


def test_files_that_come_and_go_are_found(sealed):
    folder, _, public = sealed
    (folder / "data/b.py").write_text("print('hello')")
    (folder / "data/a.bin").unlink()
    manifest = read_manifest(folder)
    assert [(one.place, one.found) for one in compare_files(folder, manifest)][0] == (
        "data/a.bin",
        "missing",
    )
    assert compare_files(folder, manifest)[1].place == "data/b.py"
    assert "b.py" in check_signature(folder, public)[0].found
    (folder / "data/a.bin").symlink_to("/etc/hostname")
    assert compare_files(folder, manifest)[0].found == "no regular file"


def test_a_consistent_forgery_needs_a_pin_or_a_key_to_be_seen(sealed, tmp_path):
    folder, _, public = sealed
    target = target_of(folder, pinned=True)
    write(folder / "README.md", b"# A\n\n161 rows\n")
    other, _ = make_keys(tmp_path / "other")
    forge(folder, "README.md", other, tmp_path / "other/kept")
    for pinned, key, rows in (
        (target._replace(manifest=None), None, []),
        (target, None, [f"{MANIFEST} sha256"]),
        (target._replace(manifest=None), public, [f"signature: {SIGNATURE}"]),
    ):
        table = Table()
        check_repo(folder, pinned, key, table)
        assert [row.check for row in table.bad_rows] == rows


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"\xff", b"{}", b'{"format": 2}', b"[" * 100_000,
        b'{"format": 1, "release": 1, "version": "v", "repo": "a/b", "type": "model", '
        b'"files": {"a": "zz"}, "records": [], "after": [], "packages": {}}',
        b'{"format": 1, "release": "a", "version": "v", "repo": "a/b", "type": "model", '
        b'"files": {}, "records": [], "after": [], "packages": {"x": "1\\n--index-url=evil"}}',
    ],
)  # fmt: skip
def test_a_hostile_manifest_is_refused_in_a_sentence(text):
    with pytest.raises(ManifestError, match="no manifest"):
        Manifest.from_bytes(text, "release.json")


def test_a_record_cannot_point_out_of_its_repo(tmp_path):
    folder = tmp_path / "repo"
    folder.mkdir()
    (tmp_path / "secret").write_text("s")
    files = {"../secret": sha256_file(tmp_path / "secret")}
    RunRecord(name="a", command="b", files=files).save(folder)
    seal(folder, "org/a", "model", Release(name="n", version="v1"))
    assert [one.found for one in compare_records(folder, read_manifest(folder))] == ["missing"]


TOML = '[release]\nname = "n"\nversion = "v1"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "unknown table"),
        ("= 1", "cannot be read"),
        ("[[items]]\ntask = 't'\nrepo = 'a/b'", "no table [release]"),
        (TOML, "nothing to publish"),
        (TOML + "[dataset]\nfolder = 'gone'\nrepo = 'a/b'", "not there"),
        (TOML + "[dataset]\nfolder = '.'\nrepo = 'a/b'", "unsigned"),
        (TOML + "[dataset]\nfolder = '.'\nrepo = 'ab'\n[rights]", "ORG/NAME"),
        (TOML + "[dataset]\nrepo = 'a/b'", "no `folder`"),
        (TOML + "[model]\nfolder = '.'\nrepo = 'a/b'\nruns = 'x'", "`runs` cannot be 'x'"),
        (TOML + "[items]\ntask = 't'", "two brackets"),
        (TOML + "[[spaces]]\nname = 'generate'\nrepo = 'a/b'", "shall load"),
        (TOML + "[[spaces]]\nname = 'nope'\nrepo = 'a/b'", "no Space 'nope'"),
        (TOML + "[[items]]\ntask='t'\nrepo='a/b'\n[[items]]\ntask='u'\nrepo='a/b'", "twice"),
    ],
)
def test_a_plan_is_refused_in_a_sentence(tmp_path, text, words):
    file = tmp_path / "RELEASE.toml"
    file.write_text(text)
    with pytest.raises(Echo4oError) as error:
        Plan.load(file)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_targets_are_addresses_or_the_published_list(tmp_path):
    one = Pinned(id="a/b", type="dataset", revision="1" * 40, manifest="2" * 64)
    file = tmp_path / "published.json"
    repo = {"id": one.id, "type": one.type, "revision": one.revision, "manifest": one.manifest}
    file.write_text(json.dumps({"repos": [repo], "collection": "a/c-1"}))
    targets, collection = read_targets([str(file), "spaces/a/d@v1", "a/m"])
    assert [tuple(t) for t in targets] == [
        ("dataset", "a/b", "1" * 40, "2" * 64),
        ("space", "a/d", "v1", None),
        ("model", "a/m", None, None),
    ]
    assert collection == "a/c-1"
    for wrong in ("a", "x/y/z/w", "http://a/b", str(tmp_path)):
        with pytest.raises(Echo4oError, match="no file and no repo"):
            read_targets([wrong])
    file.write_text('{"repos": [{"id": "../x"}]}')
    with pytest.raises(ManifestError, match="no list"):
        read_targets([str(file)])


@pytest.mark.slow
def test_500_changes_and_100_forgeries_are_found_and_50_honest_releases_pass(rehearsed, tmp_path):
    repos, public = rehearsed / "verified/repos", rehearsed / "keys/rehearsal.pub"
    by_kind, draw, started = files_of(repos), random.Random(8), time.monotonic()
    assert all(by_kind.values()), by_kind
    missed, unnamed, counts = [], [], dict.fromkeys(by_kind, 0)
    for number in range(500):
        kind = list(by_kind)[number % len(by_kind)]
        path = draw.choice(by_kind[kind])
        home = repos / path.relative_to(repos).parts[0]
        name = path.relative_to(home).as_posix()
        by_key = number % 2
        target = target_of(home, pinned=not by_key)
        copy = copy_repo(home, tmp_path / "copy")
        write(copy / name, change_one(path.read_bytes(), draw))
        table = Table()
        check_repo(copy, target, public if by_key else None, table)
        counts[kind] += 1
        if not table.bad_rows:
            missed.append((number, name))
        elif not any(name in row.check + row.found for row in table.bad_rows):
            unnamed.append((number, name))
    assert (missed, unnamed) == ([], [])

    other, _ = make_keys(tmp_path / "other")
    forged = 0
    for number in range(100):
        kind = [one for one in by_kind if one != "manifest"][number % (len(by_kind) - 1)]
        path = draw.choice(by_kind[kind])
        home = repos / path.relative_to(repos).parts[0]
        name = path.relative_to(home).as_posix()
        target = target_of(home, pinned=number % 2 == 0)
        copy = copy_repo(home, tmp_path / "copy")
        changed = change_one(path.read_bytes(), draw)
        if kind == "record":  # it must stay one, or it would be found by that alone
            record = RunRecord.load(path)
            changed = json.dumps(json.loads(path.read_bytes()) | {"seconds": record.seconds + 1})
            changed = changed.encode()
        write(copy / name, changed)
        forge(copy, name, other, tmp_path / "kept")
        quiet = Table()
        check_repo(copy, target._replace(manifest=None), None, quiet)
        assert not quiet.bad_rows, f"not consistent: {quiet.lines()}"
        table = Table()
        check_repo(copy, target, None if number % 2 == 0 else public, table)
        forged += bool(table.bad_rows)
        assert all(
            (MANIFEST if number % 2 == 0 else SIGNATURE) in row.check for row in table.bad_rows
        )
    assert forged == 100

    alarms = 0
    private = rehearsed / "keys/rehearsal.key"
    for _ in range(50):
        results, model = honest(repos, tmp_path / "honest", draw, private)
        table = check_all(results, model, public)
        assert not table.bad_rows, table.lines()
        alarms += len(table.bad_rows)
    note(
        tampering={
            "single changes": counts,
            "found and named": 500,
            "consistent forgeries found": forged,
            "false alarms in 50 honest releases": alarms,
            "seconds": round(time.monotonic() - started, 1),
        }
    )


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


@pytest.mark.slow
def test_killed_at_50_random_moments_it_ends_in_one_whole_release(rehearsed, tmp_path):
    hub = HubServer(tmp_path / "hub")
    home, org = tmp_path / "home", "echo4o-sandbox"
    repos = [
        ("dataset", f"{org}/echo-4o-image"), ("dataset", f"{org}/echo-4o-results"),
        ("model", f"{org}/echo-4o-tiny"), ("space", f"{org}/echo-4o"),
    ]  # fmt: skip
    source = (rehearsed / "RELEASE.toml").read_text()
    kills_each, versions = 11, 5
    seen, stop = tmp_path / "seen.jsonl", tmp_path / "stop"
    begun, killed, longest, looks = time.monotonic(), 0, 8.0, []
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, json.dumps(repos), str(seen), str(stop)],
        env=hub.environment(home),
    )
    try:
        for version in range(versions + 1):
            plan = rehearsed / f"RELEASE-{version}.toml"
            text = source.replace('version = "v1"', f'version = "w{version}"')
            if version % 2:  # other results and another card than the version before
                text = text.replace('["eval/untrained", "eval/trained"]', '["eval/trained"]')
            plan.write_text(text)
            work = tmp_path / f"work-{version}"
            words = ["release", "publish", str(plan), "--work", str(work)]
            words += ["--sign-key", str(rehearsed / "keys/rehearsal.key")]
            count = kills_each if version else 0
            if not version:  # a dry run writes nothing
                hub.run(KILLER, home, json.dumps([*words, "--dry-run"]), "0", "0", "9")
                nothing = hub.run("import huggingface_hub as h; print([*h.list_datasets()])", home)
                assert nothing.strip() == "[]"
            said = hub.run(KILLER, home, json.dumps(words), str(count), str(version), str(longest))
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
    for before, after in zip(looks[2:-2], looks[4:], strict=True):  # the same inputs again
        for kind, repo in repos:
            if kind != "space":  # its sources are those of the checkout, which may be worked on
                pair = (one[repo]["files"] for one in (before, after))
                first, second = ([f for f in files if f[0] not in moving] for files in pair)
                assert first == second, repo
    snapshots = [json.loads(line) for line in seen.read_text().splitlines()]
    for kind, repo, files in snapshots:
        whole = [one[repo]["files"] for one in looks]
        assert files in whole or [name for name, _ in files] == [".gitattributes"], (kind, repo)
    assert killed >= 50, f"only {killed} kills came in time"
    note(
        kills={
            "kills": killed,
            "releases": versions,
            "states of main seen by a reader": len(snapshots),
            "mixtures": 0,
            "tags set twice": 0,
            "seconds": round(time.monotonic() - begun, 1),
        }
    )


def test_the_papers_release_is_refused_until_it_is_made_and_signed(tmp_path):
    file = Path(__file__).parents[2] / "releases/echo4o.toml"
    copy = tmp_path / "releases" / file.name
    copy.parent.mkdir()
    copy.write_bytes(file.read_bytes())
    with pytest.raises(Echo4oError, match="echo-4o-image, which is not there"):
        Plan.load(copy)
    for name in ("echo-4o-image", "scores", "run"):
        (tmp_path / name).mkdir()
    plan = Plan.load(copy)
    assert plan.loaded(plan.spaces[1]) == {
        "dataset": "Yejy53/Echo-4o-Image",
        "results": "Yejy53/Echo-4o-results",
    }
    with pytest.raises(Echo4oError, match="terms_read"):
        Rights.load(copy)


def commands_of(page: Path) -> list[str]:
    """Every command line of ours in the shell blocks of a page."""
    blocks = re.findall(r"^```(?:sh|bash)\n(.*?)^```", page.read_text(), re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = (re.search(r"\becho4o (.*)", line.split(" #")[0]) for line in lines)
    return [one[1] for one in found if one]


@pytest.mark.parametrize("page", ["README.md", "eval/README.md", "training/README.md"])
def test_every_command_of_a_page_has_the_options_that_it_names(page):
    commands = commands_of(Path(__file__).parents[2] / page)
    assert len(commands) > 5
    for command in commands:
        noun, *rest = shlex.split(command)
        if noun.startswith("-"):
            continue
        verb = "" if "" in VERBS[noun] else rest.pop(0)
        module, function = VERBS[noun][verb][0].split(":")
        parser = argparse.ArgumentParser(prog=command, exit_on_error=False)
        getattr(importlib.import_module(module), f"{function}_arguments")(parser)
        try:
            parser.parse_args(rest)
        except (SystemExit, argparse.ArgumentError) as error:
            pytest.fail(f"{page}: `echo4o {command}`: {error}")


@pytest.mark.slow
def test_every_python_snippet_of_the_published_cards_runs(rehearsed, tmp_path):
    """As a reader would: copied from the card, in a new process, against the Hub that holds it."""
    process, sandbox = start_sandbox(rehearsed / "sandbox")
    run = 0
    try:
        for card in sorted((rehearsed / "verified/repos").glob("*/README.md")):
            if card.parent.name.startswith("spaces--"):
                continue  # its snippet talks to the running app, as verify has done
            for snippet in re.findall(r"^```python\n(.*?)^```", card.read_text(), re.M | re.S):
                done = subprocess.run(
                    [sys.executable, "-c", snippet],
                    env=sandbox.environment(tmp_path / "home"),
                    cwd=tmp_path,
                    capture_output=True,
                    text=True,
                    timeout=300,
                )
                assert done.returncode == 0, f"{card}:\n{snippet}\n{done.stderr[-2000:]}"
                run += 1
    finally:
        process.terminate()
        process.wait(timeout=20)
    assert run == 3


def test_a_manifest_tells_of_no_package_that_echo4o_does_not_need():
    found = installed_packages()
    assert {"torch", "datasets", "huggingface-hub", "safetensors"} <= found.keys()
    assert not {"pytest", "ruff", "echo4o", "playwright"} & found.keys()
    assert found["torch"].count("+") == 0
