"""The authors' release read from the Hub as a stream: no copy, and a cut goes on where it was."""

import json
import subprocess
import sys

import authors_layout as layout
import pytest

from echo4o.cli import main
from echo4o.dataset_builder import import_release
from echo4o.dataset_builder.sources import Folder, locate
from echo4o.errors import Echo4oError
from echo4o.records import RunRecord

REPO = "echo4o-sandbox/streamed-release"
SCRIPT = f"""
import json, os, sys, time
from pathlib import Path
import huggingface_hub as h
from huggingface_hub.utils import httpx
release, out, home = map(Path, sys.argv[1:])
api = h.HfApi()
api.create_repo("{REPO}", repo_type="dataset")
commit = api.upload_folder(repo_id="{REPO}", repo_type="dataset", folder_path=release).oid
seen = {{"cuts": 0, "ranges": [], "bytes": 0}}

class Cut(httpx.SyncByteStream):
    def __init__(self, stream, most): self.stream, self.most = stream, most
    def __iter__(self):
        for chunk in self.stream:
            seen["bytes"] += len(chunk)
            self.most -= len(chunk)
            yield chunk
            if self.most < 0:
                seen["cuts"] += 1
                raise httpx.ReadError("cut")
    def close(self): self.stream.close()

class Cutting(httpx.HTTPTransport):
    def handle_request(self, request):
        answer = super().handle_request(request)
        if request.method == "GET" and ".tar" in str(request.url) and answer.status_code < 300:
            seen["ranges"].append(request.headers.get("range"))
            answer.stream = Cut(answer.stream, 150_000)
        return answer

time.sleep = lambda seconds: None
h.set_client_factory(lambda: httpx.Client(transport=Cutting(), follow_redirects=True))
from echo4o.dataset_builder import Echo4oImage, import_release
import_release("{REPO}", out)
seen["cached"] = sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
rows = Echo4oImage(data_dir="{REPO}", cache_dir=str(out.parent / "c")).as_streaming_dataset("train")
seen["streamed"] = [row["id"] for row in rows.decode(False)]
seen["cached again"] = sum(p.stat().st_size for p in (home / "hub").rglob("*.tar*"))
h.set_client_factory(lambda: httpx.Client(follow_redirects=True))
import_release("{REPO}", out.parent / "downloaded", download=True)
seen["downloaded"] = sum(p.stat().st_size for p in (home / "hub").rglob("*.tar*"))
seen["commit"] = commit
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """Two archives of some 600 KB that gzip cannot shrink much."""
    root = tmp_path_factory.mktemp("release")
    for subset in (layout.INSTRUCTION, layout.SURREAL):
        folder = layout.write_t2i(root, subset, rows=12)
        members = [(f"{n:05d}.png", layout.noise(n)) for n in range(12)]
        layout.write_tar(folder / "images" / "0-5000.tar.gz", members)
        place = f"/Echo-4o-Image/{subset}/images"
        rows = [layout.row(subset, n, output_image=f"{place}/{n:05d}.png") for n in range(12)]
        layout.write_rows(folder / f"{subset}.jsonl", rows)
    return root


def test_hub_is_streamed_without_a_copy_and_a_cut_goes_on(sandbox, release, tmp_path):
    words = [str(release), str(tmp_path / "streamed"), str(tmp_path / "home")]
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words],
        env=sandbox.environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    size = sum(path.stat().st_size for path in release.rglob("*.tar.gz"))
    assert seen["cuts"] >= 6
    assert any(seen["ranges"]), "the rest is asked for"
    assert seen["bytes"] < 2 * (size + seen["cuts"] * 70_000), "what came is not asked for again"
    assert seen["cached"] + seen["cached again"] < size / 10, "no archive was kept"
    local = import_release(str(release), tmp_path / "local").record
    streamed = RunRecord.load(tmp_path / "streamed")
    assert streamed.metrics == local.metrics
    assert streamed.inputs[0].revision == seen["commit"]
    downloaded = RunRecord.load(tmp_path / "downloaded")
    assert (downloaded.inputs, downloaded.files) == (streamed.inputs, streamed.files)
    assert seen["downloaded"] == size
    assert len(seen["streamed"]) == 24


def test_mistakes_are_one_sentence(release, tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit):
        main(["data", "import", str(release), "--out", str(tmp_path / "o"), "--download"])
    assert "--download belongs to a Hub id" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["data", "import", str(release), "--out", str(tmp_path / "o"), "--revision", "v1"])
    assert "--revision belongs to a Hub id" in capsys.readouterr().err
    (tmp_path / "file").touch()
    with pytest.raises(Echo4oError, match="is no folder"):
        locate(str(tmp_path / "file"))
    monkeypatch.setattr("echo4o.dataset_builder.sources.MAX_TEXT_BYTES", 100)
    name = f"{layout.INSTRUCTION}/{layout.INSTRUCTION}.jsonl"
    with pytest.raises(Echo4oError, match="more than 100 bytes; split it"):
        Folder(release).text(name)
