"""Discussions and pull requests: a pull request is a discussion with a ref `refs/pr/<number>`."""

import json
import secrets
from difflib import unified_diff

from echo4o.sandbox.hub.access import Repo
from echo4o.sandbox.hub.errors import HubRefusal
from echo4o.sandbox.hub.history import (
    MAIN,
    add_commit,
    ancestry,
    files_at,
    resolve,
    target,
)
from echo4o.sandbox.hub.objects import Entry, Files
from echo4o.sandbox.hub.store import Store, now

Json = dict[str, object]


def open_discussion(
    store: Store,
    repo: Repo,
    *,
    author: str,
    title: str,
    description: str,
    pull_request: bool,
    status: str,
) -> int:
    """Start a discussion; a pull request's ref starts at main. Its number."""
    with store.transaction():
        row = store.one("SELECT MAX(num) AS last FROM discussions WHERE repo = ?", repo.uid)
        num = (row["last"] or 0) + 1
        store.execute(
            "INSERT INTO discussions VALUES (?, ?, ?, ?, ?, ?, NULL, ?)",
            repo.uid,
            num,
            title,
            author,
            status,
            pull_request,
            now(),
        )
        if pull_request:
            head = resolve(store, repo, "main")
            store.execute("INSERT INTO refs VALUES (?, ?, ?)", repo.uid, f"refs/pr/{num}", head)
        add_comment(store, repo, num, author, description)
    return num


def load(store: Store, repo: Repo, num: int) -> Json:
    """A discussion's row, or 404."""
    row = store.find("SELECT * FROM discussions WHERE repo = ? AND num = ?", repo.uid, num)
    if row is None:
        raise HubRefusal(404, f"Discussion {num} not found in {repo.id}")
    return dict(row)


def add_event(store: Store, repo: Repo, num: int, kind: str, author: str, data: Json) -> Json:
    """Append an event and return it in the form of the Hub's JSON."""
    event = secrets.token_hex(12)
    store.execute(
        "INSERT INTO events (id, repo, num, type, author, created, data)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        event,
        repo.uid,
        num,
        kind,
        author,
        now(),
        json.dumps(data),
    )
    return event_json(dict(store.one("SELECT * FROM events WHERE id = ?", event)))


def event_json(row: Json) -> Json:
    """An event as clients parse it."""
    return {
        "id": row["id"],
        "type": row["type"],
        "createdAt": row["created"],
        "author": {"name": row["author"], "type": "user"},
        "data": json.loads(str(row["data"])),
    }


def add_comment(store: Store, repo: Repo, num: int, author: str, text: str) -> Json:
    """Append a comment."""
    latest = {"raw": text, "html": "", "updatedAt": now(), "author": {"name": author}}
    data: Json = {"edited": False, "hidden": False, "numEdits": 0, "latest": latest, "history": []}
    return add_event(store, repo, num, "comment", author, data)


def change_comment(store: Store, repo: Repo, event: Json, author: str, text: str | None) -> Json:
    """Replace a comment's text, or hide it when `text` is None."""
    data = json.loads(str(event["data"]))
    data["history"].append(data["latest"])
    data["latest"] = {
        "raw": text or "", "html": "", "updatedAt": now(), "author": {"name": author}
    }  # fmt: skip
    data["edited"], data["numEdits"] = True, len(data["history"])
    if text is None:
        data["hidden"], data["history"] = True, []
    store.execute("UPDATE events SET data = ? WHERE id = ?", json.dumps(data), event["id"])
    return event_json(dict(store.one("SELECT * FROM events WHERE id = ?", event["id"])))


def change_status(store: Store, repo: Repo, num: int, author: str, status: str) -> Json:
    """Open or close; a merged pull request stays merged (409)."""
    if load(store, repo, num)["status"] == "merged":
        raise HubRefusal(409, f"Pull request {num} is merged already.")
    store.execute(
        "UPDATE discussions SET status = ? WHERE repo = ? AND num = ?", status, repo.uid, num
    )
    return add_event(store, repo, num, "status-change", author, {"status": status})


def require_open(store: Store, repo: Repo, num: int) -> Json:
    """The row of a pull request that still takes commits, or 409."""
    row = load(store, repo, num)
    if row["status"] not in ("open", "draft"):
        raise HubRefusal(409, f"Pull request {num} is {row['status']}; it takes no more commits.")
    return row


def _three_trees(store: Store, repo: Repo, num: int) -> tuple[Files, Files, Files]:
    head = target(store, repo, f"refs/pr/{num}")
    on_main = {commit.id for commit in ancestry(store, repo, target(store, repo, MAIN))}
    base = next(commit for commit in ancestry(store, repo, head) if commit.id in on_main)
    ours = files_at(store, repo, resolve(store, repo, MAIN))
    theirs = files_at(store, repo, resolve(store, repo, f"refs/pr/{num}"))
    return store.load_tree(base.tree), ours, theirs


def _merged(base: Files, ours: Files, theirs: Files) -> tuple[dict[str, Entry], list[str]]:
    files, conflicts = dict(ours), []
    for path in base.keys() | theirs.keys():
        mine, other = ours.get(path), theirs.get(path)
        if other == base.get(path) or other == mine:
            continue
        if mine != base.get(path):
            conflicts.append(path)
        elif other is None:
            del files[path]
        else:
            files[path] = other
    return files, sorted(conflicts)


def merge(store: Store, repo: Repo, num: int, author: str) -> str:
    """Squash a pull request into one commit on main; its id. 409 for drafts and conflicts."""
    with store.transaction():
        row = load(store, repo, num)
        if row["status"] != "open" or not row["pull_request"]:
            raise HubRefusal(409, f"{num} is not an open pull request; it is {row['status']}.")
        files, conflicts = _merged(*_three_trees(store, repo, num))
        if conflicts:
            raise HubRefusal(409, f"Pull request {num} conflicts with main: {conflicts}")
        commit = add_commit(
            store,
            repo,
            ref=MAIN,
            files=files,
            parent=resolve(store, repo, MAIN),
            title=f"{row['title']} (#{num})",
            message=_summary(store, repo, num),
            author=author,
        )
        store.execute(
            "UPDATE discussions SET status = 'merged', merge_commit = ? WHERE repo = ? AND num = ?",
            commit,
            repo.uid,
            num,
        )
        add_event(store, repo, num, "status-change", author, {"status": "merged"})
    return commit


def _summary(store: Store, repo: Repo, num: int) -> str:
    on_main = {commit.id for commit in ancestry(store, repo, target(store, repo, MAIN))}
    steps = []
    for commit in ancestry(store, repo, target(store, repo, f"refs/pr/{num}")):
        if commit.id in on_main:
            break
        steps.append(f"- {commit.title} ({commit.id})")
    return "\n".join(reversed(steps))


def summary_json(repo: Repo, row: Json) -> Json:
    """A discussion as the list shows it."""
    return {
        "num": row["num"],
        "title": row["title"],
        "author": {"name": row["author"], "type": "user"},
        "status": row["status"],
        "createdAt": row["created"],
        "isPullRequest": bool(row["pull_request"]),
        "repo": {"name": repo.id, "type": repo.kind},
    }


def details_json(store: Store, repo: Repo, num: int, *, diff: bool) -> Json:
    """A discussion with its events and, for a pull request, its changes."""
    row = load(store, repo, num)
    events = store.all(
        "SELECT * FROM events WHERE repo = ? AND num = ? ORDER BY seq", repo.uid, num
    )
    details = summary_json(repo, row) | {"events": [event_json(dict(event)) for event in events]}
    if row["pull_request"]:
        base, ours, theirs = _three_trees(store, repo, num)
        conflicts = [] if row["status"] == "merged" else _merged(base, ours, theirs)[1]
        changes: Json = {"base": MAIN, "mergeCommitId": row["merge_commit"]}
        details |= {"changes": changes, "filesWithConflicts": conflicts}
        if diff:
            details["diff"] = "".join(_diff(store, base, theirs))
    return details


def _diff(store: Store, before: Files, after: Files) -> list[str]:
    lines = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old == new:
            continue
        lines.append(f"diff --git a/{path} b/{path}\n")
        ids = [entry.oid[:7] if entry else "0" * 7 for entry in (old, new)]
        lines.append(f"index {ids[0]}..{ids[1]}\n")
        lines += unified_diff(_text(store, old), _text(store, new), f"a/{path}", f"b/{path}")
    return lines


def _text(store: Store, entry: Entry | None) -> list[str]:
    if entry is None:
        return []
    if entry.lfs or entry.size > 1 << 16:
        return [f"({entry.size} bytes, sha256 {entry.sha256})\n"]
    text = store.blobs.read(entry.sha256).decode("utf-8", "replace")
    return text.splitlines(keepends=True)
