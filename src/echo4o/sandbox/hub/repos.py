"""Repositories: create, delete, move, list, describe."""

from echo4o.sandbox.hub.access import (
    Caller,
    Repo,
    find_repo,
    may_read,
    repo_of,
    require_namespace,
    role_in,
)
from echo4o.sandbox.hub.cards import read_card, tags_of
from echo4o.sandbox.hub.commits import GITATTRIBUTES
from echo4o.sandbox.hub.errors import HubRefusal, unsupported
from echo4o.sandbox.hub.history import (
    MAIN,
    add_commit,
    ancestry,
    files_at,
    load_commit,
    resolve,
)
from echo4o.sandbox.hub.names import check_name
from echo4o.sandbox.hub.objects import Entry, Files, regular_entry
from echo4o.sandbox.hub.store import Store, now

Json = dict[str, object]
_SDKS = ("gradio", "docker", "static")


def create(
    store: Store,
    caller: Caller,
    kind: str,
    repo_id: tuple[str, str],
    private: bool,
    sdk: str | None,
) -> Repo:
    """A new repo with its first commit (`.gitattributes`); 409 when the name is taken."""
    check_name(repo_id[1], "repo name")
    if kind == "space" and sdk not in _SDKS:
        raise HubRefusal(400, f"a Space needs an sdk of {_SDKS}, got {sdk!r}")
    with store.transaction():
        namespace = require_namespace(store, caller, check_name(repo_id[0], "namespace"))
        taken = find_repo(store, kind, namespace, repo_id[1])
        if taken is not None:
            raise HubRefusal(409, f"You already created this {kind} repo: {taken.id}")
        store.execute(
            "INSERT INTO repos (kind, namespace, name, private, sdk, created)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            kind,
            namespace,
            repo_id[1],
            private,
            sdk,
            now(),
        )
        repo = find_repo(store, kind, namespace, repo_id[1])
        assert repo is not None
        data = GITATTRIBUTES.encode()
        store.blobs.put(data)
        add_commit(
            store,
            repo,
            ref=MAIN,
            files={".gitattributes": regular_entry(data)},
            parent=None,
            title="initial commit",
            message="",
            author=str(caller.name),
        )
    return repo


def delete(store: Store, repo: Repo) -> None:
    """Remove a repo with its history; contents stay in the blob store."""
    store.execute("DELETE FROM repos WHERE uid = ?", repo.uid)


def move(store: Store, caller: Caller, repo: Repo, namespace: str, name: str) -> None:
    """Rename a repo or hand it to another namespace; 409 when the name is taken."""
    check_name(name, "repo name")
    with store.transaction():
        namespace = require_namespace(store, caller, check_name(namespace, "namespace"))
        if find_repo(store, repo.kind, namespace, name) is not None:
            raise HubRefusal(409, f"{repo.kind} {namespace}/{name} exists already.")
        store.execute(
            "UPDATE repos SET namespace = ?, name = ? WHERE uid = ?", namespace, name, repo.uid
        )


def find_all(
    store: Store, caller: Caller, kind: str, author: str | None, search: str | None
) -> list[Repo]:
    """The repos of a kind that the caller may see, oldest first."""
    rows = store.all("SELECT * FROM repos WHERE kind = ? ORDER BY uid", kind)
    repos = [repo_of(dict(row)) for row in rows]
    return [
        repo
        for repo in repos
        if may_read(store, caller, repo)
        and (author is None or repo.namespace.lower() == author.lower())
        and (search is None or search.lower() in repo.id.lower())
    ]


def describe(store: Store, repo: Repo, commit: str, *, blobs: bool = False) -> Json:
    """What `model_info`, `dataset_info` and `space_info` show of a revision."""
    files = files_at(store, repo, commit)
    *_, first = ancestry(store, repo, commit)
    text = _readme(store, files)
    card = read_card(text, repo.kind).data
    facts: Json = {
        "_id": f"{repo.uid:024x}",
        "id": repo.id,
        "author": repo.namespace,
        "sha": commit,
        "createdAt": first.date,
        "lastModified": load_commit(store, repo, commit).date,
        "private": repo.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": tags_of(card, text),
        "usedStorage": sum(entry.size for entry in files.values()),
        "siblings": [_sibling(path, entry, blobs) for path, entry in files.items()],
    }
    if card:
        facts["cardData"] = card
    if repo.kind == "model":
        facts["modelId"] = repo.id
        facts |= {key: card[key] for key in ("pipeline_tag", "library_name") if key in card}
    if repo.kind == "space":
        facts |= {"sdk": card.get("sdk", repo.sdk), "subdomain": f"{repo.namespace}-{repo.name}"}
    return facts


_EXPANDABLE = (
    "author cardData createdAt disabled downloads evalResults gated lastModified library_name "
    "likes pipeline_tag private sdk sha siblings subdomain tags usedStorage"
)


def narrow(facts: Json, expand: list[str]) -> Json:
    """Only the asked-for properties; 501 for those that the sandbox does not know."""
    if not expand:
        return facts
    strange = sorted(set(expand) - set(_EXPANDABLE.split()))
    if strange:
        raise unsupported(f"the properties {strange}")
    return {key: value for key, value in facts.items() if key in {"_id", "id", *expand}}


def listed(store: Store, repo: Repo, *, full: bool) -> Json:
    """A repo in a list: without files unless `full`."""
    facts = describe(store, repo, resolve(store, repo, "main"))
    dropped = set() if full else {"siblings", "cardData", "usedStorage"}
    return {key: value for key, value in facts.items() if key not in dropped}


def tags(facts: Json) -> list[str]:
    """The tags of a described repo."""
    found = facts["tags"]
    assert isinstance(found, list)
    return found


def _readme(store: Store, files: Files) -> str:
    entry = files.get("README.md")
    if entry is None or entry.size > 1 << 20:
        return ""
    return store.blobs.read(entry.sha256).decode("utf-8", "replace")


def _sibling(path: str, entry: Entry, blobs: bool) -> Json:
    if not blobs:
        return {"rfilename": path}
    return {"rfilename": path, **file_facts(entry, "blobId", "sha256")}


def file_facts(entry: Entry, oid: str = "oid", sha256: str = "oid") -> Json:
    """Size, id and LFS facts of a file; the two JSON dialects name the ids differently."""
    facts: Json = {oid: entry.oid, "size": entry.size}
    if entry.lfs:
        facts["lfs"] = {
            sha256: entry.sha256,
            "size": entry.size,
            "pointerSize": _pointer_size(entry),
        }
    return facts


def _pointer_size(entry: Entry) -> int:
    # The pointer text is constant but for the digits of the size.
    return 126 + len(str(entry.size))


def whoami(store: Store, caller: Caller) -> Json:
    """The caller's account, organisations and token role."""
    rows = store.all("SELECT name FROM accounts WHERE kind = 'org'")
    roles = {row["name"]: role_in(store, caller, row["name"]) for row in rows}
    return {
        "type": "user",
        "id": f"{caller.name}",
        "name": caller.name,
        "fullname": caller.name,
        "isPro": False,
        "canPay": False,
        "orgs": [
            {"type": "org", "name": name, "fullname": name, "roleInOrg": role}
            for name, role in roles.items()
            if role != "none"
        ],
        "auth": {
            "type": "access_token",
            "accessToken": {"displayName": "sandbox", "role": caller.role},
        },
    }
