"""Publishing through `echo4o.hub` to the sandbox Hub over HTTP: whole or not at all."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import OTHER_TOKEN, READER_TOKEN, HubServer

from echo4o.errors import Echo4oError
from echo4o.inventory import RefusedFileError, digest, space_sdk, take_inventory


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    server = HubServer(tmp_path_factory.mktemp("hub"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def fill(folder: Path, version: str) -> Path:
    """A small dataset folder whose files differ by version, but for the shared ones."""
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(f"---\nlicense: mit\n---\n# {version}\n")
    (folder / "notes.txt").write_text("the same in every version")
    (folder / f"only-{version}.txt").write_text(version)
    for number in range(3):
        body = f"{version if number else 'all'} {number}".encode()
        (folder / "data" / f"{number}.parquet").write_bytes(body * 5000)
    return folder


PRELUDE = """
import json, os, sys, time
from pathlib import Path
import echo4o.hub as hub
assert not {"huggingface_hub", "torch", "datasets", "transformers"} & set(sys.modules)
from echo4o.hub import *
import huggingface_hub as h
root, api = Path(sys.argv[1]), h.HfApi()

def refused(kind, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except kind as error:
        return str(error)
    raise AssertionError((call, arguments, named))

def content(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

def remote(repo, revision=None):
    return set(api.list_repo_files(repo, repo_type="dataset", revision=revision))

def add(repo, name, data):
    api.upload_file(path_or_fileobj=data, path_in_repo=name, repo_id=repo, repo_type="dataset")

def publish(version, repo, **named):
    named = {"message": f"Version {version}", "repo_type": "dataset", **named}
    return publish_folder(root / version, repo, **named)
"""


def test_publish_verify_tag_and_publish_again(hub: HubServer, home: Path, tmp_path: Path) -> None:
    fill(tmp_path / "1", "one")
    fill(tmp_path / "2", "two")
    script = (
        PRELUDE
        + r"""
repo = "echo4o-sandbox/line"
plan = publish("1", repo, tag="v1", dry_run=True)
assert plan.revision is None and plan.uploaded_bytes > 30000
assert not api.repo_exists(repo, repo_type="dataset")
seen = []
first = publish("1", repo, tag="v1", private=True, check=seen.append)
assert first.pull_request == 1 and first.tag == "v1" and first.uploaded_bytes == plan.uploaded_bytes
assert len(seen) == 1 and seen[0] != first.revision
assert resolve(repo, "dataset", "v1") == resolve(repo, "dataset") == first.revision
got = download_folder(repo, "dataset", "v1", root / "got")
wanted = content(root / "1")
assert {k: v for k, v in content(got).items() if not k.startswith((".cache", ".git"))} == wanted
assert first.files == tuple(sorted(wanted))
again = publish("1", repo, tag="v1")
assert again.revision == first.revision and again.uploaded_bytes == 0 and again.pull_request is None
assert "other content" in refused(TagTakenError, publish, "2", repo, tag="v1")
assert len(api.list_repo_commits(repo, repo_type="dataset")) == 2
def failing(revision):
    files = remote(repo, revision)
    assert "only-two.txt" in files and "only-one.txt" not in files
    raise ValueError("not good enough")
assert refused(ValueError, publish, "2", repo, tag="v2", check=failing) == "not good enough"
assert resolve(repo, "dataset") == first.revision
second = publish("2", repo, tag="v2")
assert second.pull_request == 2 and second.uploaded_bytes == 0, second  # it was there already
assert remote(repo) == {*content(root / "2"), ".gitattributes"}
assert resolve(repo, "dataset", "v1") == first.revision
commits = api.list_repo_commits(repo, repo_type="dataset")
assert [c.title for c in commits] == ["Version 2 (#2)", "Version 1 (#1)", "initial commit"]
back = publish("1", repo, message="Back to one")
assert back.pull_request == 3
assert back.uploaded_bytes < 55_000 < plan.uploaded_bytes  # what is shared is not sent again
add(repo, ".eval_results/x.yaml", b"- x")
assert publish("1", repo).pull_request is None
assert publish("1", repo, tag="v3").tag == "v3"
public = "echo4o-sandbox/public"
publish("1", public)
assert "public" in refused(HubError, publish, "1", public, private=True)
# A pull request that was left behind by an older main is replaced.
def never(revision): raise ValueError
refused(ValueError, publish, "2", public, check=never)
add(public, "notes.txt", b"new")
third = publish("2", public)
assert third.pull_request == 3
assert api.get_discussion_details(public, 2, repo_type="dataset").status == "closed"
# Somebody writes to main between the check and the merge.
(root / "2" / "notes.txt").write_text("changed")
def intrude(revision):
    add(public, "z", b"!")
assert "changed main" in refused(VerificationError, publish, "2", public, check=intrude)
assert publish("2", public).pull_request == 5
assert "z" not in remote(public)
# The Hub leaves out what a .gitignore names: the upload is not what the folder is.
(root / "2" / ".gitignore").write_text("*.log")
(root / "2" / "run.log").write_text("left out")
before = resolve(public, "dataset")
assert "run.log" in refused(VerificationError, publish, "2", public)
assert resolve(public, "dataset") == before
"""
    )
    hub.run(script, home, str(tmp_path))


@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_anywhere_and_run_again(
    hub: HubServer, home: Path, tmp_path: Path, stride: int
) -> None:
    """The process dies before or after any request; main is never a mixture, nothing is twice."""
    fill(tmp_path / "1", "one")
    fill(tmp_path / "2", "two")
    script = (
        PRELUDE
        + r"""
class Killed(BaseException): pass
state = {"left": -1, "after": False, "puts": 0, "requests": 0}
def before(request):
    state["requests"] += 1
    if state["left"] == 0 and not state["after"]: raise Killed
    if request.method == "PUT": state["puts"] += 1
def after(response):
    if state["left"] == 0 and state["after"]: raise Killed
    state["left"] -= 1
from huggingface_hub.utils import httpx
h.set_client_factory(lambda: httpx.Client(
    event_hooks={"request": [before], "response": [after]}, follow_redirects=True, timeout=None))
hub._PART_FILES = 2
old, new = ({*content(root / name), ".gitattributes"} for name in "12")
stride = int(sys.argv[2])
base = publish("1", f"rehearsal/base-{stride}")
state["requests"] = 0
publish("2", f"rehearsal/base-{stride}", tag="v2")
steps = state["requests"]
kills = 0
for step in range(0, steps, stride):
    repo = f"rehearsal/kill-{stride}-{step}"
    state.update(left=-1, puts=0)
    publish("1", repo)
    state.update(left=step, after=step % 2 == 1, puts=0)
    try:
        publish("2", repo, tag="v2")
    except Killed:
        kills += 1
    state["left"] = -1
    assert remote(repo) in (old, new)
    done = publish("2", repo, tag="v2")
    assert remote(repo, "v2") == new
    assert resolve(repo, "dataset") == resolve(repo, "dataset", "v2") == done.revision
    assert len(api.list_repo_commits(repo, repo_type="dataset")) == 3
    found = api.get_repo_discussions(repo, repo_type="dataset")
    assert [d.status for d in found].count("merged") == 2
    assert state["puts"] <= 3, (step, state)  # 2 large files are new, 1 may have been on its way
print(json.dumps([steps, kills]))
"""
    )
    steps, kills = json.loads(hub.run(script, home, str(tmp_path), str(stride)))
    assert steps > 30
    assert kills >= steps // stride


def test_trouble_is_waited_out_or_told(hub: HubServer, home: Path, tmp_path: Path) -> None:
    fill(tmp_path / "1", "one")
    script = (
        PRELUDE
        + f"""
reader, other = {READER_TOKEN!r}, {OTHER_TOKEN!r}
"""
        + r"""
import random
from email.utils import formatdate
from huggingface_hub.utils import httpx
slept, real_sleep = [], time.sleep
time.sleep = slept.append
class Trouble(httpx.HTTPTransport):
    def __init__(self, rate, kinds=(0, 1, 2, 3)):
        super().__init__()
        self.random, self.rate, self.kinds = random.Random(7), rate, kinds
    def handle_request(self, request):
        answer = super().handle_request(request)
        if self.random.random() >= self.rate:
            return answer
        answer.read()
        kind = self.random.choice(self.kinds)
        if kind == 0:
            return httpx.Response(429, headers={"retry-after": "77"}, request=request)
        if kind == 1:
            return httpx.Response(503, request=request)
        if kind == 4:
            date = formatdate(time.time() + 600, usegmt=True)
            return httpx.Response(429, headers={"retry-after": date}, request=request)
        if kind == 2:
            return httpx.Response(200, content=b'{"cut', request=request)
        raise httpx.ReadError("cut")
def use(transport):
    h.set_client_factory(lambda: httpx.Client(transport=transport, follow_redirects=True))
use(Trouble(0.3))
done = publish("1", "rehearsal/trouble", tag="v1")
use(None)
assert resolve("rehearsal/trouble", "dataset", "v1") == done.revision
assert len(api.list_repo_commits("rehearsal/trouble", repo_type="dataset")) == 2
assert 77 in slept or 78 in slept
(root / "wide").mkdir()
for number in range(60):
    (root / "wide" / f"{number}.txt").write_text(str(number))
publish("wide", "rehearsal/wide")
use(Trouble(0.2))
assert len(content(download_folder("rehearsal/wide", "dataset"))) == 61
# A refusal at the second part: what was sent is not sent again, and no reader sees half of it.
class Refusing(httpx.HTTPTransport):
    def __init__(self, status):
        super().__init__()
        self.status, self.commits, self.sent = status, 0, []
    def handle_request(self, request):
        self.commits += "/commit/" in request.url.path
        if "/commit/" in request.url.path and self.commits == 2:
            return httpx.Response(self.status, request=request)
        if request.method == "PUT":
            self.sent.append(request.url.path)
        return super().handle_request(request)
hub._PART_FILES = 2
for status, words in ((403, "may not do this"), (409, "conflict"), (412, "meantime"), (500, "")):
    repo, transport = f"rehearsal/refused-{status}", Refusing(status)
    use(transport)
    if words:
        assert words in refused(HubError, publish, "1", repo, tag="v1")
        assert remote(repo) == {".gitattributes"}
        assert not api.list_repo_refs(repo, repo_type="dataset").tags
    done = publish("1", repo, tag="v1")
    assert remote(repo, "v1") == {*content(root / "1"), ".gitattributes"}
    assert len(transport.sent) == len(set(transport.sent)) == 3, transport.sent
hub._PART_FILES = 100
use(Trouble(1, (1,)))
slept.clear()
assert "failed with 503" in refused(HubError, resolve, "rehearsal/trouble", "dataset")
assert len(slept) == 5 and 24 < sum(slept) < 39
use(Trouble(1, (4,)))
slept.clear()
assert "rate limit is reached" in refused(HubError, resolve, "rehearsal/trouble", "dataset")
assert len(slept) == 5 and all(400 < one < 601 for one in slept), slept
use(Trouble(1, (3,)))
assert "no usable answer" in refused(HubError, resolve, "rehearsal/trouble", "dataset")
use(None)
assert "there is no such repo" in refused(NotOnHubError, resolve, "rehearsal/none", "model")
said = refused(NotOnHubError, resolve, "rehearsal/trouble", "dataset", "v9")
assert "there is no such revision" in said
said = refused(NotOnHubError, download_folder, "rehearsal/none", "model")
assert "there is no such repo" in said
for token, expected in ((reader, "403"), (other, "namespace")):
    os.environ["HF_TOKEN"] = token
    said = refused(HubError, publish, "1", "rehearsal/forbidden")
    assert "write access" in said and token not in said, said
os.environ["HF_TOKEN"] = "hf_wrong_token"
said = refused(HubError, publish, "1", "rehearsal/trouble", message="x", tag="v7")
assert "does not accept the token" in said and "hf_wrong" not in said
del os.environ["HF_TOKEN"]
(root / "1" / "more.txt").write_text("more")
assert "without a token" in refused(HubError, publish, "1", "rehearsal/trouble")
"""
    )
    hub.run(script, home, str(tmp_path))
    unreachable = (
        PRELUDE
        + r"""
time.sleep = lambda seconds: None
said = refused(HubError, publish, "1", "rehearsal/any")
assert "127.0.0.1:9" in said and "check the network" in said
assert "check the network" in refused(HubError, download_folder, "rehearsal/any", "model")
"""
    )
    hub.run(unreachable, home, str(tmp_path), HF_ENDPOINT="http://127.0.0.1:9")


def test_a_space_names_its_sdk(hub: HubServer, home: Path, tmp_path: Path) -> None:
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "app.py").write_text("pass")
    with pytest.raises(Echo4oError, match="sdk"):
        space_sdk(tmp_path / "space")
    (tmp_path / "space" / "README.md").write_text("---\ntitle: a\nsdk: static\n---\n")
    script = (
        PRELUDE
        + r"""
publish("space", "echo4o-sandbox/demo", repo_type="space")
assert api.space_info("echo4o-sandbox/demo").sdk == "static"
"""
    )
    hub.run(script, home, str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (".env", "A=1"),
        ("deep/.env.local", "A=1"),
        ("id_rsa", "x"),
        ("server.pem", "x"),
        ("things.py", "import datasets"),
        ("notes.md", "use hf_" + "abCD" * 8 + "ab"),
        ("log.txt", "key sk-proj-" + "a1B2" * 12),
        ("k.txt", "-----BEGIN " + "PRIVATE KEY-----"),
        ("bell\a.txt", "x"),
        ("record.json", '{"token": "my-very-secret-value"}'),
    ],
)
def test_refused_files(
    tmp_path: Path, name: str, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "my-very-secret-value")
    path = tmp_path / "folder" / name
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(RefusedFileError) as error:
        take_inventory(tmp_path / "folder", "org/things", "dataset")
    for secret in ("abCD", "a1B2", "my-very"):
        assert secret not in str(error.value)


def test_links_and_leftovers(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in (
        "a.txt",
        ".git/config",
        ".cache/huggingface/x",
        "p/__pycache__/m.pyc",
        "things.py",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    found = take_inventory(folder, "org/things", "model")
    assert list(found) == ["a.txt", "things.py"]
    before = digest(found)
    (folder / "link.txt").symlink_to("a.txt")
    assert list(take_inventory(folder, "org/x", "dataset")) == ["a.txt", "link.txt", "things.py"]
    assert digest(take_inventory(folder, "org/x", "dataset")) != before
    (tmp_path / "outside.txt").write_text("x")
    for target in (tmp_path / "outside.txt", Path("../outside.txt"), folder / "a.txt"):
        (folder / "link.txt").unlink()
        (folder / "link.txt").symlink_to(target)
        with pytest.raises(RefusedFileError, match="outside the folder"):
            take_inventory(folder, "org/x", "model")
    (folder / "link.txt").unlink()
    (folder / "linked").symlink_to("p", target_is_directory=True)
    with pytest.raises(RefusedFileError, match="link to a folder"):
        take_inventory(folder, "org/x", "model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Echo4oError, match="no files"):
        take_inventory(tmp_path / "empty", "org/x", "model")
    with pytest.raises(Echo4oError, match="there is no folder"):
        take_inventory(tmp_path / "none", "org/x", "model")


def test_import_is_light() -> None:
    code = "import sys, echo4o.hub; assert not {'torch', 'huggingface_hub'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
