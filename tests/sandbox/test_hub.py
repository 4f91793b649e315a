"""The sandbox Hub through the real client: files, commits, pull requests, ranges."""

from pathlib import Path

import pytest
from hub_server import PRELUDE, HubServer


def test_files_commits_tags_and_downloads(hub: HubServer, home: Path, tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "w\u00e4g \u7d75.txt").write_text("small")
    (tmp_path / "weights.bin").write_bytes(bytes(range(256)) * 5000)
    (tmp_path / "README.md").write_text("---\nlicense: mit\ntags: [a]\n---\n# hello\n")
    script = (
        PRELUDE
        + r"""
me = api.whoami()
assert me["name"] == "rehearsal" and me["orgs"][0]["name"] == "echo4o-sandbox", me
refused(HfHubHTTPError, 401, HfApi(token="hf_wrong").whoami)
url = api.create_repo("files", private=True)
assert url.repo_id == "rehearsal/files"
repo = url.repo_id
refused(HfHubHTTPError, 409, api.create_repo, repo)
assert api.create_repo(repo, exist_ok=True).repo_id == repo
first = api.upload_folder(repo_id=repo, folder_path=folder, commit_message="one")
again = api.upload_folder(repo_id=repo, folder_path=folder, commit_message="two")
assert again.oid == first.oid
names = ["README.md", "deep/er/w\u00e4g \u7d75.txt", "weights.bin"]
assert sorted(api.list_repo_files(repo)) == [".gitattributes", *names]
api.create_tag(repo, tag="v1")
refused(HfHubHTTPError, 409, api.create_tag, repo, tag="v1")
refused(HfHubHTTPError, 400, api.create_tag, repo, tag="../v1")
api.upload_file(path_or_fileobj=b"new", path_in_repo="new.txt", repo_id=repo)
head = api.create_commit(repo, [Delete("deep/"), Add("other.txt", b"1")], commit_message="three")
refused(HfHubHTTPError, 412, api.create_commit, repo, [Add("x.txt", b"1")], commit_message="late",
        parent_commit=first.oid)
api.create_commit(repo, [Add("x.txt", b"1")], commit_message="in time", parent_commit=head.oid)
refused(HfHubHTTPError, 404, api.create_commit, repo, [Delete("none.txt")], commit_message="no")
api.delete_file("new.txt", repo)
left = [".gitattributes", "README.md", "other.txt", "weights.bin", "x.txt"]
assert sorted(api.list_repo_files(repo)) == left
assert [c.title for c in api.list_repo_commits(repo)][-2:] == ["one", "initial commit"]
api.create_branch(repo, branch="a/b", revision="v1")
assert sorted(b.name for b in api.list_repo_refs(repo).branches) == ["a/b", "main"]
assert "new.txt" not in api.list_repo_files(repo, revision="a/b")
api.delete_branch(repo, branch="a/b")
tagged = Path(h.snapshot_download(repo, revision="v1"))
assert tagged.name == first.oid
for name in names:
    assert (tagged / name).read_bytes() == (folder / name).read_bytes()
info = api.model_info(repo, files_metadata=True)
weights = next(s for s in info.siblings if s.rfilename == "weights.bin")
assert weights.size == 1280000 and weights.lfs.size == 1280000 and info.private
assert info.card_data.license == "mit" and "license:mit" in info.tags
assert api.model_info(repo, expand=["sha"]).sha == info.sha
entries = {e.path: e for e in api.list_repo_tree(repo, revision="v1", recursive=True, expand=True)}
assert entries["weights.bin"].last_commit.oid == first.oid and "deep/er" in entries
found = api.get_paths_info(repo, ["deep", names[1], "none"], revision="v1")
assert sorted(f.path for f in found) == ["deep", names[1]]
assert api.verify_repo_checksums(repo, revision="v1", local_dir=folder).mismatches == []
refused(EntryNotFoundError, 404, h.hf_hub_download, repo, "none.txt")
refused(RevisionNotFoundError, 404, h.hf_hub_download, repo, "README.md", revision="v9")
cached = Path(h.hf_hub_download(repo, "weights.bin"))
assert cached == Path(h.hf_hub_download(repo, "weights.bin")) and api.file_exists(repo, "x.txt")
for stranger, status in ((reader, 404), (other, 404), (nobody, 401)):
    refused(RepositoryNotFoundError, status, stranger.model_info, repo)
    refused(RepositoryNotFoundError, status, stranger.hf_hub_download, repo, "README.md")
    assert repo not in [m.id for m in stranger.list_models()]
api.update_repo_settings(repo, private=False)
assert nobody.model_info(repo).sha == info.sha
note = dict(path_or_fileobj=b"", path_in_repo="a", repo_id=repo)
refused(HfHubHTTPError, 403, reader.upload_file, **note)
refused(HfHubHTTPError, 403, other.upload_file, **note)
refused(HfHubHTTPError, 403, other.delete_repo, repo)
refused(HfHubHTTPError, 403, other.create_repo, "rehearsal/mine")
api.move_repo(repo, "echo4o-sandbox/moved")
assert [m.id for m in api.list_models(author="echo4o-sandbox")] == ["echo4o-sandbox/moved"]
api.delete_tag("echo4o-sandbox/moved", tag="v1")
refused(RevisionNotFoundError, 404, api.delete_tag, "echo4o-sandbox/moved", tag="v1")
api.delete_repo("echo4o-sandbox/moved")
refused(RepositoryNotFoundError, 404, api.model_info, "echo4o-sandbox/moved")
"""
    )
    hub.run(script, home, str(tmp_path))


def test_pull_requests(hub: HubServer, home: Path, tmp_path: Path) -> None:
    script = (
        PRELUDE
        + r"""
repo = api.create_repo("pulls", repo_type="dataset").repo_id
kind = dict(repo_type="dataset")
api.upload_file(path_or_fileobj=b"old", path_in_repo="a.txt", repo_id=repo, **kind)
pull = dict(create_pr=True, **kind)
direct = other.create_commit(repo, [Add("b.txt", b"b")], commit_message="add b", **pull)
assert direct.pr_revision == "refs/pr/1" and "b.txt" not in api.list_repo_files(repo, **kind)
draft = api.create_pull_request(repo, "the draft", description="what it is", **kind)
assert (draft.status, draft.num, draft.git_reference) == ("draft", 2, "refs/pr/2")
assert draft.events[0].content == "what it is"
ref = draft.git_reference
api.create_commit(repo, [Add("a.txt", b"new")], commit_message="part 1", revision=ref, **kind)
api.create_commit(repo, [Add("c.bin", b"\0" * 999)], commit_message="part 2", revision=ref, **kind)
refused(HfHubHTTPError, 403, other.create_commit, repo, [Add("d", b"")], commit_message="no",
        revision=ref, **kind)
assert h.hf_hub_download(repo, "c.bin", revision=ref, **kind)
head = api.dataset_info(repo, revision=ref).sha
assert api.dataset_info(repo, revision=head).sha == head
details = api.get_discussion_details(repo, 2, **kind)
assert [e.type for e in details.events] == ["comment", "commit", "commit"]
assert "-old" in details.diff and "+new" in details.diff and details.conflicting_files == []
refused(HfHubHTTPError, 409, api.merge_pull_request, repo, 2, **kind)
api.change_discussion_status(repo, 2, "open", comment="ready", **kind)
refused(HfHubHTTPError, 403, other.merge_pull_request, repo, 2, **kind)
api.upload_file(path_or_fileobj=b"else", path_in_repo="z.txt", repo_id=repo, **kind)
api.merge_pull_request(repo, 2, **kind)
details = api.get_discussion_details(repo, 2, **kind)
assert details.status == "merged"
assert details.merge_commit_oid == api.dataset_info(repo).sha
last = api.list_repo_commits(repo, **kind)[0]
assert last.title == "the draft (#2)" and "part 2" in last.message
assert set(api.list_repo_files(repo, **kind)) == {".gitattributes", "a.txt", "c.bin", "z.txt"}
assert Path(h.hf_hub_download(repo, "a.txt", **kind)).read_bytes() == b"new"
clash = api.create_commit(repo, [Add("a.txt", b"x")], commit_message="clash", **pull)
api.upload_file(path_or_fileobj=b"y", path_in_repo="a.txt", repo_id=repo, **kind)
assert api.get_discussion_details(repo, 3, **kind).conflicting_files == ["a.txt"]
refused(HfHubHTTPError, 409, api.merge_pull_request, repo, 3, **kind)
api.change_discussion_status(repo, 3, "closed", **kind)
refused(HfHubHTTPError, 409, api.create_commit, repo, [Add("q", b"")], commit_message="late",
        revision="refs/pr/3", **kind)
note = api.comment_discussion(repo, 1, "first", **kind)
note = api.edit_discussion_comment(repo, 1, note.id, "second", **kind)
assert note.content == "second" and note.number_of_edits == 1
assert api.rename_discussion(repo, 1, "renamed", **kind).new_title == "renamed"
listed = list(api.get_repo_discussions(repo, discussion_status="open", **kind))
assert [(d.num, d.title, d.author) for d in listed] == [(1, "renamed", "other")]
for number in range(25):
    other.create_discussion(repo, f"talk {number}", **kind)
assert len(list(api.get_repo_discussions(repo, **kind))) == 28
refs = api.list_repo_refs(repo, include_pull_requests=True, **kind)
assert [r.ref for r in refs.pull_requests] == ["refs/pr/1", "refs/pr/2", "refs/pr/3"]
"""
    )
    hub.run(script, home, str(tmp_path))


def test_what_is_not_supported_or_not_valid(hub: HubServer, home: Path, tmp_path: Path) -> None:
    script = (
        PRELUDE
        + r"""
repo = api.create_repo("strict", repo_type="space", space_sdk="gradio").repo_id
refused(HfHubHTTPError, 501, api.super_squash_history, repo, repo_type="space")
refused(HfHubHTTPError, 501, api.add_space_secret, repo, "KEY", "value")
refused(HfHubHTTPError, 501, api.space_info, repo, expand=["trendingScore"])
refused(HfHubHTTPError, 501, lambda: list(api.list_spaces(sort="likes")))
refused(HfHubHTTPError, 501, api.create_repo, "g", repo_type="space", space_sdk="gradio",
        space_hardware="t4-small")
session, base = h.get_session(), os.environ["HF_ENDPOINT"]
auth = {"authorization": "Bearer " + os.environ["HF_TOKEN"]}
assert session.get(base + "/some/page").status_code == 501
bad = "---\nsdk: gradio\nsdk_version: 6.0\ncolorFrom: mauve\nlicense: mine\nsdk: docker\n---\n"
assert "duplicated" in refused(ValueError, None, api.upload_file, path_or_fileobj=bad.encode(),
    path_in_repo="README.md", repo_id=repo, repo_type="space")
bad = bad.replace("sdk: docker\n", "")
text = refused(ValueError, None, api.upload_file, path_or_fileobj=bad.encode(),
    path_in_repo="README.md", repo_id=repo, repo_type="space")
assert "sdk_version" in text and "colorFrom" in text and "license" in text

def commit(*lines, status):
    url = f"{base}/api/spaces/{repo}/commit/main"
    body = b"\n".join(json.dumps(line).encode() for line in lines)
    answer = session.post(url, content=body, headers=auth)
    assert answer.status_code == status, answer.text
    return answer.json()

header = {"key": "header", "value": {"summary": "s"}}
def file(path, **more):
    return {"key": "file", "value": {"path": path, "content": "", **more}}
for path in ("../up", "/root", "a/../b", "a//b", "a\u0000b", "a\nb", ".git/config", "a/", "",
             "back\\slash", "\ud800"):
    commit(header, file(path), status=400)
commit(header, file("a"), file("a/b"), status=400)
commit(header, file("a", content="!", encoding="base64"), status=400)
commit(file("a"), status=400)
commit(header, {"key": "symlink", "value": {}}, status=501)
commit(header, {"key": "lfsFile", "value": {"path": "a", "oid": "0" * 64, "size": 1}}, status=400)
commit(header, {"key": "lfsFile", "value": {"path": "a", "oid": "../../x", "size": 1}}, status=400)
commit(header, file("README.md", content="---\nlicense: [\n---\n"), status=400)
commit(header, file("big", content="x" * (11 << 20)), status=413)
commit(header, file("big", content="x" * (17 << 20)), status=413)
hot = f"{base}/api/spaces/{repo}/commit/main?hot_reload=1"
assert session.post(hot, headers=auth).status_code == 501
for name in ("a--b", "a..b", "-a", "a.git", "a/b", "x" * 97, "", "a b"):
    answer = session.post(base + "/api/repos/create", json={"name": name}, headers=auth)
    assert answer.status_code == 400, (name, answer.text)
assert session.post(base + "/api/repos/create", content=b"[", headers=auth).status_code == 400
deep = b"[" * 200_000
assert session.post(base + "/api/repos/create", content=deep, headers=auth).status_code == 400
url = f"{base}/api/spaces/{repo}/commit/main"
assert session.post(url, content=deep, headers=auth).status_code == 400
url = f"{base}/spaces/{repo}.git/info/lfs/objects/batch"
body = {"operation": "upload", "objects": ["x"]}
assert session.post(url, json=body, headers=auth).status_code == 400
assert session.get(f"{base}/api/spaces/{repo}/tree/main/%ff").status_code == 400
assert session.get(f"{base}/api/spaces/{repo}/tree/main?limit=x").status_code == 400
assert session.get(f"{base}/api/spaces/{repo}/discussions/x").status_code == 400
assert session.get(f"{base}/api/spaces/{repo}/discussions/{10**30}").status_code == 400
talk = f"{base}/api/spaces/{repo}/discussions"
lone = b'{"title": "\\ud800", "description": "d"}'
assert session.post(talk, content=lone, headers=auth).status_code == 400
ahead = f"{base}/api/spaces/{repo}/preupload/main"
assert session.post(ahead, json={"files": [{"path": "a"}]}, headers=auth).status_code == 400
bomb = "\n".join(["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n-1}, *a{n-1}]" for n in range(1, 40)])
loop = "a: &a [*a]"
for body in (bomb, loop, "a: .nan", "[" * 100_000, "- list", "? [a]\n: b"):
    found = session.post(base + "/api/validate-yaml", json={"content": f"---\n{body}\n---\n"})
    assert found.status_code == 400 and found.json()["errors"], found.text
dated = "---\ndate: 2026-01-01\nsdk: static\nbase: &b [x]\nmore: *b\n---\n"
found = session.post(base + "/api/validate-yaml", json={"content": dated, "repoType": "space"})
assert found.status_code == 200 and not found.json()["warnings"], found.text
forged = f"{base}/lfs/{'0' * 64}?repo=1&size=1&expires=9999999999&signature=0"
assert session.put(forged).status_code == 403
"""
    )
    hub.run(script, home, str(tmp_path))


def test_xet_is_refused_with_the_remedy(hub: HubServer, home: Path, tmp_path: Path) -> None:
    script = (
        PRELUDE
        + r"""
repo = api.create_repo("xet").repo_id
try:
    api.upload_file(path_or_fileobj=b"\0" * 999, path_in_repo="a.bin", repo_id=repo)
except Exception as error:
    print(error)
"""
    )
    found = hub.run(script, home, str(tmp_path), HF_HUB_DISABLE_XET="0")
    assert "501" in found


def test_ranges_pages_and_conditions(hub: HubServer, home: Path, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for number in range(1205):
        (tmp_path / "many" / f"{number:04}.txt").write_text(str(number))
    (tmp_path / "data.bin").write_bytes(bytes(range(256)) * 8)
    script = (
        PRELUDE
        + r"""
repo = api.create_repo("pages", repo_type="dataset").repo_id
api.upload_folder(repo_id=repo, folder_path=folder, repo_type="dataset")
assert len(api.list_repo_files(repo, repo_type="dataset")) == 1207
session, base = h.get_session(), os.environ["HF_ENDPOINT"]
answer = session.get(f"{base}/api/datasets/{repo}/tree/main?recursive=1&limit=500")
assert len(answer.json()) == 500 and "next" in answer.links
url = f"{base}/datasets/{repo}/resolve/main/data.bin"
data = (folder / "data.bin").read_bytes()
head = session.head(url)
assert head.headers["content-length"] == "2048" and not head.content
assert head.headers["x-linked-size"] == "2048"
for field, wanted in (("5-9", data[5:10]), ("2000-", data[2000:]), ("-7", data[-7:])):
    part = session.get(url, headers={"range": "bytes=" + field})
    assert part.status_code == 206 and part.content == wanted
assert session.get(url, headers={"range": "bytes=2048-"}).status_code == 416
assert session.get(url, headers={"if-none-match": head.headers["etag"]}).status_code == 304
files = h.HfFileSystem()
path = f"datasets/{repo}/data.bin"
assert files.read_bytes(path, start=10, end=20) == data[10:20]
assert len(files.ls(f"datasets/{repo}/many", detail=False)) == 1205
with files.open(f"datasets/{repo}/written.txt", "w") as stream:
    stream.write("through the file system")
assert files.cat_file(f"datasets/{repo}/written.txt") == b"through the file system"
assert files.exists(f"datasets/{repo}@main/many/0000.txt")
assert not files.exists(f"datasets/{repo}/no")
"""
    )
    hub.run(script, home, str(tmp_path))


@pytest.mark.slow
def test_a_large_file_does_not_fill_the_memory(hub: HubServer, home: Path, tmp_path: Path) -> None:
    def peak() -> int:
        assert hub.process is not None
        status = Path(f"/proc/{hub.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) >> 10

    with (tmp_path / "large.bin").open("wb") as file:
        file.truncate(256 << 20)
    script = (
        PRELUDE
        + r"""
repo = api.create_repo("large").repo_id
api.upload_file(path_or_fileobj=folder / "large.bin", path_in_repo="large.bin", repo_id=repo)
assert api.get_paths_info(repo, "large.bin")[0].size == 256 << 20
got = Path(h.hf_hub_download(repo, "large.bin", local_dir=folder / "got"))
assert got.stat().st_size == 256 << 20
api.delete_repo(repo)
"""
    )
    before = peak()
    hub.run(script, home, str(tmp_path))
    assert peak() - before < 48
