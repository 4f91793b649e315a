"""Revisions: what a name points to, how commits follow each other, how refs move."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from echo4o.sandbox.hub.access import Repo
from echo4o.sandbox.hub.errors import HubRefusal, revision_not_found
from echo4o.sandbox.hub.objects import Entry, Files, commit_id, folders
from echo4o.sandbox.hub.store import Store, now

MAIN = "refs/heads/main"
_COMMIT_PREFIX = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """One commit of a repo."""

    id: str
    tree: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str


def load_commit(store: Store, repo: Repo, commit: str) -> Commit:
    """A commit that exists."""
    row = store.one("SELECT * FROM commits WHERE repo = ? AND id = ?", repo.uid, commit)
    return Commit(**{key: row[key] for key in row.keys() if key != "repo"})  # noqa: SIM118


def target(store: Store, repo: Repo, ref: str) -> str | None:
    """The commit of a full ref name such as `refs/heads/main`."""
    row = store.find("SELECT target FROM refs WHERE repo = ? AND name = ?", repo.uid, ref)
    return None if row is None else str(row["target"])


def resolve(store: Store, repo: Repo, revision: str) -> str:
    """The commit of a branch, tag, full ref, commit id or its first 7 or more digits, or 404."""
    for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
        found = target(store, repo, ref)
        if found is not None:
            return found
    if _COMMIT_PREFIX.fullmatch(revision):
        rows = store.all(
            "SELECT id FROM commits WHERE repo = ? AND id >= ? AND id < ? LIMIT 2",
            repo.uid,
            revision,
            revision + "g",
        )
        if len(rows) == 1:
            return str(rows[0]["id"])
    raise revision_not_found(revision)


def files_at(store: Store, repo: Repo, commit: str) -> dict[str, Entry]:
    """The files of a commit, sorted by path."""
    return store.load_tree(load_commit(store, repo, commit).tree)


def ancestry(store: Store, repo: Repo, commit: str | None) -> Iterator[Commit]:
    """The commit and those before it, newest first."""
    while commit is not None:
        found = load_commit(store, repo, commit)
        yield found
        commit = found.parent


def writable_ref(store: Store, repo: Repo, revision: str) -> str:
    """The branch or pull request that a commit on this revision moves, or 404 or 400."""
    for ref in (f"refs/heads/{revision}", revision):
        if ref.startswith(("refs/heads/", "refs/pr/")) and target(store, repo, ref):
            return ref
    resolve(store, repo, revision)
    raise HubRefusal(400, f"{revision} is not a branch; commits go to a branch or pull request.")


def require_parent(head: str, expected: str | None) -> None:
    """412 when the caller built on another commit than the current one."""
    if expected and not head.startswith(expected):
        raise HubRefusal(412, "A commit has happened since. Please refresh and try again.")


def add_commit(
    store: Store,
    repo: Repo,
    *,
    ref: str,
    files: Files,
    parent: str | None,
    title: str,
    message: str,
    author: str,
) -> str:
    """Write a commit and move the ref to it; to be called inside a transaction."""
    date = now()
    text = f"{title}\n\n{message}".strip()
    parents = () if parent is None else (parent,)
    seconds = int(datetime.fromisoformat(date).timestamp())
    commit = commit_id(folders(files)[""], parents, author, seconds, text)
    store.execute(
        "INSERT OR IGNORE INTO commits VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        repo.uid,
        commit,
        store.save_tree(files),
        parent,
        title,
        message,
        author,
        date,
    )
    store.execute("INSERT OR REPLACE INTO refs VALUES (?, ?, ?)", repo.uid, ref, commit)
    return commit


def add_ref(store: Store, repo: Repo, ref: str, commit: str) -> None:
    """Create a branch or tag; 409 when the name is taken: refs of this kind never move."""
    taken = "INSERT OR IGNORE INTO refs VALUES (?, ?, ?)"
    if not store.execute(taken, repo.uid, ref, commit):
        raise HubRefusal(409, f"Reference {ref} already exists; delete it first.")


def delete_ref(store: Store, repo: Repo, ref: str) -> None:
    """Remove a branch or tag."""
    if ref == MAIN:
        raise HubRefusal(403, "The default branch cannot be deleted.")
    if not store.execute("DELETE FROM refs WHERE repo = ? AND name = ?", repo.uid, ref):
        raise revision_not_found(ref.split("/", 2)[2])


def last_changes(store: Store, repo: Repo, commit: str, paths: set[str]) -> dict[str, Commit]:
    """For files and folders: the newest commit that touched them."""
    found: dict[str, Commit] = {}
    waiting = set(paths)
    for step in ancestry(store, repo, commit):
        here = store.load_tree(step.tree)
        before = {} if step.parent is None else files_at(store, repo, step.parent)
        changed = {path for path in here | before if here.get(path) != before.get(path)}
        touched = {
            path
            for path in waiting
            if path in changed or any(name.startswith(path + "/") for name in changed)
        }
        found |= dict.fromkeys(touched, step)
        waiting -= touched
        if not waiting:
            break
    return found
