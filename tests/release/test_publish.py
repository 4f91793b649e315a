"""`echo4o release publish`: a release that fails half-way is mended, goes on, stays as it is."""

import json
import subprocess
import sys

import pytest
from huggingface_hub import constants, hf_hub_download

from echo4o.errors import Echo4oError
from echo4o.release.plan import Plan
from echo4o.release.publish import Publication

ADDRESS = f"https://hub.example/w/echo4o-0.1.0-py3-none-any.whl#sha256={'a' * 64}"
PLAN = """
[release]
name = "two"
version = "v1"
wheel = "ADDRESS"
[[spaces]]
name = "explore"
repo = "rehearsal/first-space"
dataset = "acme/rows@v1"
results = "acme/results"
[[spaces]]
name = "explore"
repo = "OWNER/second-space"
dataset = "acme/rows@v1"
results = "acme/results"
"""
SCRIPT = r"""
import contextlib, io, sys
from pathlib import Path
from huggingface_hub import HfApi
from echo4o.cli import main

file, text = Path(sys.argv[1]), sys.argv[2]

def publish(text, *more, refused=False):
    file.write_text(text)
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main(["release", "publish", str(file), *more])
            assert not refused, out.getvalue()
        except SystemExit as stop:
            assert refused and stop.code == 1, out.getvalue()
    assert "Traceback" not in out.getvalue()
    return out.getvalue()

# 1. A dry run writes nothing, neither there nor here.
publish(text, "--dry-run")
assert not HfApi().repo_exists("rehearsal/first-space", repo_type="space")
assert [one.name for one in file.parent.iterdir()] == [file.name], [*file.parent.iterdir()]
# 2. The second repo is nobody's to write to: said, with what is done.
said = publish(text, refused=True)
assert "the step 'Space someone/second-space' failed: cannot create" in said, said
assert "Done: Space rehearsal/first-space; mend that and run the same command again" in said, said
first = HfApi().space_info("rehearsal/first-space").sha
# 3. The plan is mended; what was done is not done again.
text = text.replace("someone", "rehearsal")
said = publish(text)
assert "[done before] Space rehearsal/first-space\n[Space rehearsal/second-space]" in said, said
assert "two v1: 2 repos" in said, said
# 4. What is published does not change any more.
said = publish(text.replace("rows@v1", "rows@v2", 1), refused=True)
assert "it was published as v1, and its part of RELEASE.toml or its folders changed" in said, said
said = publish(text.replace("rows@v1", "rows@v2", 1), "--work", "anew", refused=True)
assert "has a tag v1 with other content" in said and "give RELEASE.toml a new `version`" in said
assert publish(text).count("[done before]") == 2
assert HfApi().space_info("rehearsal/first-space").sha == first
"""


def test_a_release_that_failed_half_way_is_mended_and_goes_on(sandbox, tmp_path):
    (tmp_path / "plan").mkdir()
    text = PLAN.replace("ADDRESS", ADDRESS).replace("OWNER", "someone")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "plan/RELEASE.toml"), text],
        env=sandbox.environment(tmp_path / "home"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for name in ("first-space", "second-space"):  # both got the wheel that the release names
        file = hf_hub_download(
            f"rehearsal/{name}",
            "requirements.txt",
            repo_type="space",
            revision="v1",
            endpoint=sandbox.hub,
            local_dir=tmp_path / name,
        )
        with open(file) as stream:
            assert stream.read().splitlines()[-1] == f"echo4o[space] @ {ADDRESS}"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ((), "is no checkpoint"),
        (("adapter_config.json",), "holds an adapter and no whole model"),
        (("adapter/adapter_config.json",), "`echo4o model merge`"),
    ],
)
def test_a_folder_without_a_whole_model_is_refused_before_anything_is_sent(tmp_path, files, words):
    for name in ("run", *files):
        path = tmp_path / "run" / name if name != "run" else tmp_path / "run/record.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    plan = tmp_path / "RELEASE.toml"
    plan.write_text(
        '[release]\nname = "n"\nversion = "v1"\n[[items]]\ntask = "imagine_bench"\nrepo = "a/i"\n'
        '[model]\nfolder = "run"\nrepo = "a/m"\n'
    )
    said = []
    made = Publication(
        plan=Plan.load(plan), work=tmp_path / "work", key=None, dry_run=False, say=said.append
    )
    with pytest.raises(Echo4oError, match=words):
        made.run()
    assert not said
    assert not (tmp_path / "work").exists()


def test_what_was_begun_keeps_the_packages_of_its_first_start(tmp_path, monkeypatch):
    """A kill between a push and its note must not make other bytes of the same version."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    plan = tmp_path / "RELEASE.toml"
    state = tmp_path / "work/state.json"

    def packages(version):
        plan.write_text(
            f'[release]\nname = "n"\nversion = "{version}"\n'
            '[[items]]\ntask = "imagine_bench"\nrepo = "a/i"\n'
        )
        made = Publication(
            plan=Plan.load(plan), work=state.parent, key=None, dry_run=False, say=lambda line: None
        )
        with pytest.raises(Echo4oError, match="in offline mode.*Done: nothing"):
            made.run()
        return json.loads(state.read_text())["release"]["packages"]

    assert "torch" in packages("v1")
    value = json.loads(state.read_text())
    value["release"]["packages"] = {"x": "1"}
    state.write_text(json.dumps(value))
    assert packages("v1") == {"x": "1"}
    assert "torch" in packages("v2")
