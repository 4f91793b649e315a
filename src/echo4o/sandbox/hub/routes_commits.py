"""Writing: preupload, the LFS protocol, commits."""

import hashlib
import hmac
import time
from base64 import b64decode
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from echo4o.sandbox.hub import access, commits, discussions, history
from echo4o.sandbox.hub.access import Caller, Repo
from echo4o.sandbox.hub.blobs import Upload
from echo4o.sandbox.hub.errors import HubRefusal, unsupported
from echo4o.sandbox.hub.http import (
    Target,
    api_target,
    base_url,
    caller_of,
    flag,
    read_json,
    read_lines,
    store_of,
)
from echo4o.sandbox.hub.names import SHA256, check_path
from echo4o.sandbox.hub.objects import Entry
from echo4o.sandbox.hub.store import Store

router = APIRouter()
Json = dict[str, object]
_REPO = "/api/{kinds}/{namespace}/{name}"
_LINK_SECONDS = 24 * 3600


def _may_commit(target: Target, *, create_pr: bool) -> str:
    """The caller's name; pull requests are open to everybody with a write token."""
    store, caller, repo = target.store, target.caller, target.repo
    if create_pr:
        return access.require_write_token(caller)
    if target.revision.startswith("refs/pr/"):
        num = target.revision.removeprefix("refs/pr/")
        row = discussions.require_open(store, repo, int(num) if num.isdecimal() else 0)
        if row["author"] == caller.name:
            return access.require_write_token(caller)
    return access.require_write(store, caller, repo)


@router.post(_REPO + "/preupload/{rest:path}")
async def preupload(request: Request) -> Json:
    """Which files go through LFS, which are ignored, and what the revision has already."""
    target, body = api_target(request), await read_json(request)
    _may_commit(target, create_pr=flag(request.query_params.get("create_pr")))
    commit = history.resolve(target.store, target.repo, target.revision)
    files = history.files_at(target.store, target.repo, commit)
    patterns = commits.lfs_patterns(target.store, files)
    ignored = commits.ignored_by(_gitignore(target.store, body, files.get(".gitignore")))
    answer = []
    asked = body.get("files")
    for item in asked if isinstance(asked, list) else []:
        try:
            path, size = check_path(item["path"]), int(item["size"])
            sample = b64decode(item.get("sample", ""))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise HubRefusal(400, "a file needs a path, a size and a base64 sample") from error
        mode = commits.upload_mode(patterns, path, size, sample)
        facts: Json = {"path": path, "uploadMode": mode, "shouldIgnore": ignored(path)}
        if path in files:
            facts["oid"] = files[path].sha256 if files[path].lfs else files[path].oid
        answer.append(facts)
    return {"files": answer, "commitOid": commit}


def _gitignore(store: Store, body: Json, entry: Entry | None) -> str:
    if "gitIgnore" in body:
        return str(body["gitIgnore"])
    return "" if entry is None else store.blobs.read(entry.sha256).decode("utf-8", "replace")


# LFS ---------------------------------------------------------------------------------------


def _signature(store: Store, *parts: object) -> str:
    text = "/".join(map(str, parts)).encode()
    return hmac.new(store.secret, text, hashlib.sha256).hexdigest()


@router.post("/{namespace}/{name}.git/info/lfs/objects/batch")
@router.post("/datasets/{namespace}/{name}.git/info/lfs/objects/batch")
@router.post("/spaces/{namespace}/{name}.git/info/lfs/objects/batch")
async def lfs_batch(request: Request) -> Json:
    """Where to send large files; one that the repo has needs no sending."""
    body = await read_json(request)
    parts = request.url.path.strip("/").split("/")
    kinds = parts[0] if parts[0] in ("datasets", "spaces") else "models"
    namespace, name = parts[-6], parts[-5].removesuffix(".git")
    store, caller = store_of(request), caller_of(request)
    kind = {"datasets": "dataset", "spaces": "space"}.get(kinds, "model")
    repo = access.readable(store, caller, kind, namespace, name)
    access.require_write_token(caller)
    if body.get("operation") != "upload" or body.get("hash_algo", "sha256") != "sha256":
        raise unsupported("LFS operations other than upload with sha256")
    objects = body.get("objects")
    if not isinstance(objects, list) or not all(isinstance(one, dict) for one in objects):
        raise HubRefusal(400, "`objects` must be a list of objects")
    return {"transfer": "basic", "objects": [_offer(request, store, repo, one) for one in objects]}


def _offer(request: Request, store: Store, repo: Repo, item: Json) -> Json:
    oid, size = str(item.get("oid")), item.get("size")
    if not SHA256.fullmatch(oid) or not isinstance(size, int) or size < 0:
        error = {"code": 422, "message": "oid must be a sha256 and size a count of bytes"}
        return {"oid": oid, "size": 0, "error": error}
    answer: Json = {"oid": oid, "size": size}
    if not store.find("SELECT 1 FROM lfs WHERE repo = ? AND sha256 = ?", repo.uid, oid):
        expires = int(time.time()) + _LINK_SECONDS
        query = {"repo": repo.uid, "size": size, "expires": expires}
        signed = _signature(store, repo.uid, oid, size, expires)
        href = f"{base_url(request)}/lfs/{oid}?{urlencode(query | {'signature': signed})}"
        verify = f"{base_url(request)}/lfs/verify?repo={repo.uid}"
        answer["actions"] = {"upload": {"href": href}, "verify": {"href": verify}}
    return answer


@router.put("/lfs/{oid}")
async def lfs_put(
    request: Request, oid: str, repo: int, size: int, expires: int, signature: str
) -> Json:
    """Receive a large file at an address that `lfs_batch` signed; memory stays bounded."""
    store = store_of(request)
    right = _signature(store, repo, oid, size, expires)
    if not hmac.compare_digest(signature, right) or time.time() > expires:
        raise HubRefusal(403, "This upload address is not valid or has expired.")
    with Upload(store.blobs) as upload:
        async for chunk in request.stream():
            if upload.size + len(chunk) > size:
                raise HubRefusal(400, f"more than the announced {size} bytes were sent")
            upload.write(chunk)
        await run_in_threadpool(upload.finish, sha256=oid, size=size)
    if store.find("SELECT 1 FROM repos WHERE uid = ?", repo) is None:
        raise HubRefusal(404, "Repository not found", "RepoNotFound")
    store.execute("INSERT OR IGNORE INTO lfs VALUES (?, ?, ?)", repo, oid, size)
    return {}


@router.post("/lfs/verify")
async def lfs_verify(request: Request, repo: int) -> Json:
    """Whether a large file has arrived."""
    body, store = await read_json(request), store_of(request)
    access.require_write_token(caller_of(request))
    row = store.find(
        "SELECT size FROM lfs WHERE repo = ? AND sha256 = ?", repo, str(body.get("oid"))
    )
    if row is None or row["size"] != body.get("size"):
        raise HubRefusal(404, f"The object {body.get('oid')!r:.80} has not arrived.")
    return {}


@router.get(_REPO + "/xet-write-token/{rest:path}")
def xet_token() -> None:
    """Refuse Xet in words that tell what to do."""
    raise unsupported("Xet; set HF_HUB_DISABLE_XET=1 in the environment of the client")


# Commits -----------------------------------------------------------------------------------


@router.post(_REPO + "/commit/{rest:path}")
async def commit(request: Request) -> Json:
    """Apply a list of operations to a branch or pull request, or open one with them."""
    target = api_target(request)
    create_pr = flag(request.query_params.get("create_pr"))
    if strange := sorted(set(request.query_params) - {"create_pr"}):
        raise unsupported(f"commits with {strange}")
    author = _may_commit(target, create_pr=create_pr)
    draft = commits.Draft()
    async for line in read_lines(request):
        await run_in_threadpool(commits.read_line, target.store, target.repo, draft, line)
    if not draft.title:
        raise HubRefusal(400, "a commit must begin with a header line that has a summary")
    oid, num = await run_in_threadpool(_commit, target, draft, author, create_pr)
    page_url = base_url(request) + target.repo.url_path
    return {
        "success": True,
        "commitOid": oid,
        "commitUrl": f"{page_url}/commit/{oid}",
        "hookOutput": "",
        "pullRequestUrl": None if num is None else f"{page_url}/discussions/{num}",
    }


def _commit(
    target: Target, draft: commits.Draft, author: str, create_pr: bool
) -> tuple[str, int | None]:
    store, repo, num = target.store, target.repo, None
    with store.transaction():
        # The pull request may have been closed while the contents arrived.
        _may_commit(target, create_pr=create_pr)
        ref = history.writable_ref(store, repo, target.revision)
        if create_pr and ref != history.MAIN:
            raise unsupported("pull requests against other branches than main")
        head = history.resolve(store, repo, ref)
        history.require_parent(head, draft.parent)
        before = history.files_at(store, repo, head)
        after = commits.apply(before, draft.operations)
        commits.check_readme(store, repo, before, after)
        if create_pr:
            num = discussions.open_discussion(
                store,
                repo,
                author=author,
                title=draft.title,
                description=draft.message,
                pull_request=True,
                status="open",
            )
            ref = f"refs/pr/{num}"
        oid = history.add_commit(
            store,
            repo,
            ref=ref,
            files=after,
            parent=head,
            title=draft.title,
            message=draft.message,
            author=author,
        )
        _note_commit(target.caller, store, repo, ref, draft.title, oid)
    if ref == history.MAIN:
        store.on_push(repo, oid)
    return oid, num


def _note_commit(caller: Caller, store: Store, repo: Repo, ref: str, title: str, oid: str) -> None:
    if ref.startswith("refs/pr/"):
        num = int(ref.rpartition("/")[2])
        data: Json = {"subject": title, "oid": oid}
        discussions.add_event(store, repo, num, "commit", str(caller.name), data)
