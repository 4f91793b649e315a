"""Discussions and pull requests over HTTP."""

from fastapi import APIRouter, Request

from echo4o.sandbox.hub import access, discussions
from echo4o.sandbox.hub.errors import HubRefusal
from echo4o.sandbox.hub.http import Target, api_target, base_url, flag, read_json

router = APIRouter()
Json = dict[str, object]
_LIST = "/api/{kinds}/{namespace}/{name}/discussions"
_ONE = _LIST + "/{num}"
_PAGE = 20


def _author_or_writer(target: Target, num: int) -> str:
    """The caller's name when the discussion is theirs or the repo is."""
    row = discussions.load(target.store, target.repo, num)
    if row["author"] == target.caller.name:
        return access.require_write_token(target.caller)
    return access.require_write(target.store, target.caller, target.repo)


def _text(body: Json, key: str, *, most: int = 65_536) -> str:
    value = body.get(key)
    if not isinstance(value, str) or not value.strip() or len(value) > most:
        raise HubRefusal(400, f"`{key}` must be a text of 1 to {most} characters")
    return value


@router.get(_LIST)
def list_discussions(request: Request) -> Json:
    """One page of discussions, newest first."""
    target, query = api_target(request), request.query_params
    rows = target.store.all(
        "SELECT * FROM discussions WHERE repo = ? ORDER BY num DESC", target.repo.uid
    )
    kind, status, author = query.get("type", "all"), query.get("status", "all"), query.get("author")
    if kind not in ("all", "discussion", "pull_request") or status not in ("all", "open", "closed"):
        raise HubRefusal(400, f"unknown type {kind!r} or status {status!r}")
    found = [
        dict(row)
        for row in rows
        if kind in ("all", "pull_request" if row["pull_request"] else "discussion")
        and status in ("all", "open" if row["status"] in ("open", "draft") else "closed")
        and author in (None, row["author"])
    ]
    number = query.get("p", "0")
    start = _PAGE * int(number) if number.isdecimal() else 0
    shown = [discussions.summary_json(target.repo, row) for row in found[start : start + _PAGE]]
    return {"discussions": shown, "count": len(found), "start": start}


@router.post(_LIST)
async def create(request: Request) -> Json:
    """Open a discussion, or a draft pull request."""
    target, body = api_target(request), await read_json(request)
    author = access.require_write_token(target.caller)
    pull_request = flag(body.get("pullRequest"))
    num = discussions.open_discussion(
        target.store,
        target.repo,
        author=author,
        title=_text(body, "title", most=300),
        description=_text(body, "description"),
        pull_request=pull_request,
        status="draft" if pull_request else "open",
    )
    url = f"{base_url(request)}{target.repo.url_path}/discussions/{num}"
    return {"num": num, "url": url, "pullRequest": pull_request}


@router.get(_ONE)
def details(request: Request, num: int) -> Json:
    """A discussion with its events."""
    target = api_target(request)
    diff = flag(request.query_params.get("diff"))
    return discussions.details_json(target.store, target.repo, num, diff=diff)


@router.post(_ONE + "/comment")
async def comment(request: Request, num: int) -> Json:
    """Say something."""
    target, body = api_target(request), await read_json(request)
    author = access.require_write_token(target.caller)
    discussions.load(target.store, target.repo, num)
    text = _text(body, "comment")
    return {"newMessage": discussions.add_comment(target.store, target.repo, num, author, text)}


@router.post(_ONE + "/comment/{event}/edit")
@router.post(_ONE + "/comment/{event}/hide")
async def change_comment(request: Request, num: int, event: str) -> Json:
    """Rewrite or hide a comment of one's own; writers of the repo may hide any."""
    target, body = api_target(request), await read_json(request)
    store, repo = target.store, target.repo
    row = store.find(
        "SELECT * FROM events WHERE repo = ? AND num = ? AND id = ? AND type = 'comment'",
        repo.uid,
        num,
        event,
    )
    if row is None:
        raise HubRefusal(404, f"Comment {event} not found in discussion {num}")
    editing = request.url.path.endswith("/edit")
    author = access.require_write_token(target.caller)
    if row["author"] != author:
        if editing:
            raise HubRefusal(403, "Only its author may edit a comment.")
        access.require_write(store, target.caller, repo)
    text = _text(body, "content") if editing else None
    return {"updatedComment": discussions.change_comment(store, repo, dict(row), author, text)}


@router.post(_ONE + "/status")
async def status(request: Request, num: int) -> Json:
    """Open or close a discussion; opening a draft makes it ready to merge."""
    target, body = api_target(request), await read_json(request)
    author = _author_or_writer(target, num)
    new = body.get("status")
    if new not in ("open", "closed"):
        raise HubRefusal(400, f"`status` must be open or closed, got {new!r}")
    with target.store.transaction():
        if body.get("comment"):
            text = _text(body, "comment")
            discussions.add_comment(target.store, target.repo, num, author, text)
        event = discussions.change_status(target.store, target.repo, num, author, str(new))
    return {"newStatus": event}


@router.post(_ONE + "/title")
async def title(request: Request, num: int) -> Json:
    """Rename a discussion."""
    target, body = api_target(request), await read_json(request)
    author, new = _author_or_writer(target, num), _text(body, "title", most=300)
    store, repo = target.store, target.repo
    with store.transaction():
        old = discussions.load(store, repo, num)["title"]
        store.execute(
            "UPDATE discussions SET title = ? WHERE repo = ? AND num = ?", new, repo.uid, num
        )
        data: Json = {"from": old, "to": new}
        event = discussions.add_event(store, repo, num, "title-change", author, data)
    return {"newTitle": event}


@router.post(_ONE + "/merge")
async def merge(request: Request, num: int) -> Json:
    """Bring a pull request into main, all of it at once."""
    target, body = api_target(request), await read_json(request)
    author = access.require_write(target.store, target.caller, target.repo)
    with target.store.transaction():
        if body.get("comment"):
            text = _text(body, "comment")
            discussions.add_comment(target.store, target.repo, num, author, text)
        commit = discussions.merge(target.store, target.repo, num, author)
    target.store.on_push(target.repo, commit)
    return {"mergeCommitId": commit}
