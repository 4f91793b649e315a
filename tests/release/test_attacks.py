"""What somebody who may write to a repo could try: each is found, and the table names it."""

import json

import pytest
from hub_server import HubServer
from release_lab import forge, target_of, write

from echo4o.manifest import MANIFEST, SIGNATURE, read_manifest, seal
from echo4o.release.demo import without_secrets
from echo4o.release.model_uses import check_model
from echo4o.release.sample import make_keys
from echo4o.release.table import Table
from echo4o.release.verify import check_repo


def swap(folder):
    (folder / "README.md").rename(folder / "x")
    (folder / "data/a.dat").rename(folder / "README.md")
    (folder / "x").rename(folder / "data/a.dat")


def add(name, data=b"print('hello')"):
    def change(folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    return change


def link(folder):
    (folder / "data/a.dat").unlink()
    (folder / "data/a.dat").symlink_to("../README.md")


def point(folder):
    """Git LFS's note in place of the content."""
    sha256 = read_manifest(folder).files["data/a.dat"]
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize 10240\n"
    write(folder / "data/a.dat", text.encode())


def unsign(folder):
    """Everything rewritten so that it fits, without the owner's key."""
    write(folder / "README.md", b"# A\n\n999 rows\n")
    forge(folder, "README.md", None, folder)


def resign(folder):
    other, _ = make_keys(folder.parent / "evil")
    write(folder / "README.md", b"# A\n\n999 rows\n")
    forge(folder, "README.md", other, folder.parent / "evil/kept")


def rename(folder):
    """The files and manifest of another repo, with a true signature over them."""
    value = json.loads((folder / MANIFEST).read_bytes())
    write(folder / MANIFEST, (json.dumps({**value, "repo": "org/b"}) + "\n").encode())


def repeat(folder):
    """Two entries of one name: parsers differ in which one they take."""
    text = (folder / MANIFEST).read_text()
    write(folder / MANIFEST, text.replace('"files": {', '"files": {}, "files": {').encode())


ATTACKS = {
    "names of two files swapped": (swap, "README.md"),
    "a file that nobody listed": (add("data/b.py"), "data/b.py"),
    "a file in a hidden folder": (add(".cache/x.py"), ".cache/x.py"),
    "a file in the client's own folder": (add(".git/hooks/x"), ".git/hooks/x"),
    "a pickle": (add("weights.bin", b"\x80\x04K\x01."), "weights.bin"),
    "a pickle under another name": (add("weights.dat", b"\x80\x04K\x01."), "weights.dat"),
    "a symbolic link": (link, "data/a.dat"),
    "a pointer of LFS for its content": (point, "data/a.dat"),
    "all rewritten and not signed": (unsign, SIGNATURE),
    "all rewritten and signed by another": (resign, SIGNATURE),
    "the manifest of another repo": (rename, "org/b"),
    "a manifest with two lists": (repeat, MANIFEST),
}


@pytest.mark.parametrize("by_key", [True, False], ids=["by key", "by commit"])
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_on_the_files_is_found_and_named(sealed, name, by_key):
    folder, _, public = sealed
    target = target_of(folder, pinned=not by_key)
    change, place = ATTACKS[name]
    change(folder)
    table = Table()
    check_repo(folder, target, public if by_key else None, table)
    told = " ".join(" ".join(row[:4]) for row in table.bad_rows)
    expected = place if by_key or place != SIGNATURE else MANIFEST
    assert expected in told, table.lines()


def test_code_that_the_owner_himself_published_is_told(sealed):
    """Signed and listed, a pickle still runs code on whoever loads it."""
    folder, release, public = sealed
    add("weights.bin", b"\x80\x04K\x01.")(folder)
    seal(folder, "org/a", "dataset", release)
    table = Table()
    check_repo(folder, target_of(folder, pinned=True), public, table)
    assert [row.check for row in table.bad_rows] == ["code in data files: weights.bin"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("model/modeling_evil.py", "import os\nos.system('true')\n"),
        ("pipeline.py", "from echo4o.models.bagel.pipeline import Echo4oPipeline as A\nA.x = 1\n"),
        ("config.json", '{"auto_map": {"AutoModel": "modeling_evil.Evil"}}'),
    ],
)
def test_a_model_that_brings_code_is_not_loaded(tmp_path, name, text):
    folder = tmp_path / "model"
    add("pipeline.py", b"from echo4o.models.bagel.pipeline import Echo4oPipeline as A\n")(folder)
    add(name, text.encode())(folder)
    table = Table()
    assert check_model(folder, "m", table) is None
    assert [row.check for row in table.rows] == [f"code in the repo: {name}"]


def test_foreign_code_is_told_no_secret_by_its_environment():
    names = ("HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "GH_TOKEN", "DB_PASSWORD")
    calm = {"PATH": "/bin", "HF_ENDPOINT": "http://h", "TOKENIZERS_PARALLELISM": "false"}
    given = dict.fromkeys(names, "x") | calm
    left = without_secrets(given)
    assert left.keys() == calm.keys()
    assert without_secrets(given, "OPENAI_API_KEY").keys() == left.keys() | {"OPENAI_API_KEY"}


ON_THE_HUB = r"""
import base64, json, os, sys, urllib.request
from pathlib import Path
from huggingface_hub import HfApi
from echo4o.hub import HubError, publish_folder
from echo4o.manifest import MANIFEST, Pinned, Release, seal
from echo4o.records import sha256_file
from echo4o.release.verify import Target, Verification

root, public, private = map(Path, sys.argv[1:4])
api, out = HfApi(), root / "out"

def publish(release, repo, text, after=(), **files):
    folder = root / f"{repo.replace('/', '-')}-{release}"
    folder.mkdir()
    (folder / "README.md").write_text(text)
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content)
    made = Release(name="n", version=release, packages={}, after=tuple(after),
                   key=str(private), kept=str(root / "kept"))
    seal(folder, repo, "dataset", made)
    done = publish_folder(folder, repo, repo_type="dataset", message="m", tag=release)
    return Pinned(id=repo, type="dataset", revision=done.revision,
                  manifest=sha256_file(folder / MANIFEST))

def bad(*targets, key=public):
    made = Verification(targets=targets, out=out, key=key, full=False, collection=None,
                        say=lambda line: None)
    made._check_one_release(list(made._fetch_all()))
    return [f"{row.where} {row.check} {row.found}" for row in made.table.bad_rows]

def expect(words, rows):
    assert any(words in row for row in rows), (words, rows)

first, second, third = (f"rehearsal/{name}" for name in ("first", "second", "third"))
one = publish("v1", first, "# 1")
two = publish("v1", second, "# 2", [one])
publish("v1", third, "# 3")
pinned, named = Target("dataset", second, two.revision), Target("dataset", second, None)
assert not bad(pinned, key=None) and not bad(named) and not bad(pinned, named)

# What no commit of the caller leads to is told; a key holds everything.
def loose(*targets, key=None):
    made = Verification(targets=targets, out=out, key=key, full=False, collection=None,
                        say=lambda line: None)
    assert not made.run().bad_rows
    return sorted(made.loose)

of_second, of_first = f"datasets/{second}", f"datasets/{first}"
assert loose(pinned) == loose(named, key=public) == []
assert loose(named) == [of_first, of_second]
assert loose(named, Target("dataset", first, one.revision)) == [of_second]

# A repo whose own files are nonsense, signed as they are: rows of the table, and the others go on.
broken = publish("v1", "rehearsal/broken", "# 4", statistics_json="[", train_csv="a\n1\n")
made = Verification(targets=[Target("dataset", "rehearsal/broken", broken.revision), pinned],
                    out=out, key=public, full=False, collection=None, say=lambda line: None)
found = made.run()
assert [(row.check, row.expected) for row in found.bad_rows] == [
    ("card", "a card that its records give"), ("use", "something that can be used"),
], found.lines()
assert any(row.where == of_second for row in found.rows)

# A file where the client keeps its notes, which no client would send: the Hub's list has it.
content = {"content": base64.b64encode(b"x").decode(), "encoding": "base64"}
lines = [{"key": "header", "value": {"summary": "m"}},
         {"key": "file", "value": {**content, "path": ".cache/huggingface/evil.py"}}]
request = urllib.request.Request(
    f"{os.environ['HF_ENDPOINT']}/api/datasets/{third}/commit/main",
    "\n".join(map(json.dumps, lines)).encode(),
    {"Authorization": f"Bearer {os.environ['HF_TOKEN']}", "Content-Type": "application/x-ndjson"},
)
urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).close()
head = api.dataset_info(third).sha
expect("listed by the Hub: .cache/huggingface/evil.py", bad(Target("dataset", third, head)))
try:
    publish("v2", third, "# 3")
except HubError as error:
    assert "evil.py, which the Hub's client does not delete" in str(error)
else:
    raise AssertionError

# The tag moved to another commit: noticed by commit and by key.
api.upload_file(path_or_fileobj=b"x", path_in_repo="evil.py", repo_id=second, repo_type="dataset")
head = api.dataset_info(second).sha
api.delete_tag(second, tag="v1", repo_type="dataset")
api.create_tag(second, tag="v1", revision=head, repo_type="dataset")
expect("tag v1", bad(pinned, key=None))
expect("evil.py", bad(named))
api.delete_tag(second, tag="v1", repo_type="dataset")
expect("no such tag", bad(pinned, key=None))
api.create_tag(second, tag="v1", revision=two.revision, repo_type="dataset")
assert not bad(pinned, named)

# An older signed state passed off as the newer one.
newer = publish("v2", second, "# 2 anew", [one])
api.delete_tag(second, tag="v2", repo_type="dataset")
api.create_tag(second, tag="v2", revision=two.revision, repo_type="dataset")
expect("tag v2", bad(Target("dataset", second, newer.revision), key=None))

# Honest repos of two releases side by side.
expect("release n v2", bad(Target("dataset", first, one.revision),
                           Target("dataset", second, newer.revision)))

# Another repo takes the place of one that was named before.
api.move_repo(first, "rehearsal/moved", repo_type="dataset")
api.create_repo(first, repo_type="dataset")
api.upload_file(path_or_fileobj=b"# evil", path_in_repo="README.md", repo_id=first,
                repo_type="dataset")
expect("datasets/rehearsal/first fetch", bad(pinned))
expect("release.json names datasets/rehearsal/first",
       bad(Target("dataset", "rehearsal/moved", one.revision)))
api.delete_repo(first, repo_type="dataset")
expect("datasets/rehearsal/first fetch", bad(pinned))

# A pull request's commit is none of main's: its tag is another.
expect("fetch", bad(Target("dataset", second, "0" * 40)))
print("all found")
"""


def test_attacks_on_the_hub_are_found_and_named(tmp_path):
    """Tags that move, repos that are renamed or replaced, files that only the Hub lists."""
    private, public = make_keys(tmp_path / "keys")
    hub = HubServer(tmp_path / "hub")
    try:
        words = [str(tmp_path), str(public), str(private)]
        assert "all found" in hub.run(ON_THE_HUB, tmp_path / "home", *words)
    finally:
        hub.stop()
