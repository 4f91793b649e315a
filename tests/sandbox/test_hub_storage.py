"""The sandbox Hub through the real client: what it stores, and keeps after a kill."""

import hashlib
import json
from pathlib import Path

from hub_server import PRELUDE, TOKEN, HubServer


def test_gitignore_and_objects_match_git(tmp_path: Path) -> None:
    import subprocess

    from echo4o.sandbox.hub.commits import ignored_by
    from echo4o.sandbox.hub.objects import folders, lfs_entry, pointer, regular_entry

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), *arguments]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    names = [
        "a.txt",
        "a/z",
        "a-b/c",
        "build/x",
        "src/build/y",
        "src/k.log",
        "keep.log",
        "t/one.tmp",
    ]
    names.remove("a.txt")
    contents = {name: name.encode() for name in names} | {"big.bin": pointer("0" * 64, 12345)}
    for name, data in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    git("add", "-A")
    files = {name: regular_entry(data) for name, data in contents.items()}
    files["big.bin"] = lfs_entry("0" * 64, 12345)
    assert folders(files)[""] == git("write-tree")
    rules = "# comment\n*.log\n!keep.log\nbuild/\n/t/*.tmp\n"
    (tmp_path / ".gitignore").write_text(rules)
    ignored = ignored_by(rules)
    for name in names:
        assert ignored(name) == bool(git("check-ignore", "--no-index", name)), name


def test_state_survives_a_kill_and_a_restart(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for number in range(4):
        data = hashlib.sha256(bytes([number])).digest() * 400_000
        (tmp_path / "files" / f"{number}.bin").write_bytes(data)
    server = HubServer(tmp_path / "hub")
    upload = (
        PRELUDE
        + r"""
import threading
from huggingface_hub import _commit_api, lfs
repo = api.create_repo("rehearsal/killed", exist_ok=True).repo_id
sent = []
real = lfs._upload_single_part
def counted(operation, upload_url):
    sent.append(operation.path_in_repo)
    if os.environ.get("KILL_AT") == str(len(sent)):
        os.kill(int(os.environ["SERVER"]), 9)
    real(operation, upload_url)
lfs._upload_single_part = counted
sys.stdout.flush()
try:
    api.preupload_lfs_files(repo, [Add(p.name, p) for p in sorted(folder.iterdir())], num_threads=1)
    api.upload_folder(repo_id=repo, folder_path=folder, commit_message="all")
except Exception as error:
    print("failed")
    os._exit(0)
print(json.dumps(sent))
"""
    )
    assert server.process is not None
    home, files = tmp_path / "home", str(tmp_path / "files")
    fast = {"KILL_AT": "3", "SERVER": str(server.process.pid)}
    failing = upload.replace("real(operation", "lfs.http_backoff = _once\n    real(operation")
    failing = failing.replace(
        "sent = []",
        "sent = []\n_backoff = lfs.http_backoff\n"
        "def _once(*a, **k):\n    return _backoff(*a, max_retries=0, **k)",
    )
    assert "failed" in server.run(failing, home, files, **fast)
    server.start()
    assert not list((tmp_path / "hub" / "incoming").iterdir())
    sent = json.loads(server.run(upload, home, files).splitlines()[-1])
    assert sent == ["2.bin", "3.bin"]  # what had arrived is not sent again
    server.kill()
    server.start()
    check = (
        PRELUDE
        + r"""
assert [c.title for c in api.list_repo_commits("rehearsal/killed")] == ["all", "initial commit"]
got = Path(h.snapshot_download("rehearsal/killed"))
assert all((got / p.name).read_bytes() == p.read_bytes() for p in folder.iterdir())
"""
    )
    server.run(check, tmp_path / "fresh", files)
    server.stop()
    assert TOKEN.encode() not in (tmp_path / "hub" / "hub.sqlite3").read_bytes()
