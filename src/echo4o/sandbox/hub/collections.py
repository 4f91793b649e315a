"""Collections: a named list of repos and papers that a user or organisation shows together."""

import re
from typing import Literal

from echo4o.sandbox.hub.access import Caller, find_repo, may_read, require_namespace, role_in
from echo4o.sandbox.hub.errors import HubRefusal, unsupported
from echo4o.sandbox.hub.names import KINDS
from echo4o.sandbox.hub.store import Store, now

Json = dict[str, object]
_PAPER = re.compile(r"\d{4}\.\d{4,5}")
_LONGEST_TITLE, _LONGEST_NOTE = 59, 500


def create(store: Store, caller: Caller, body: Json) -> Json:
    """A new collection; 409 with its slug when the namespace has one of this title."""
    title, description = body.get("title"), body.get("description")
    if not isinstance(title, str) or not 0 < len(title) <= _LONGEST_TITLE:
        raise HubRefusal(400, f"`title` must be 1 to {_LONGEST_TITLE} characters")
    with store.transaction():
        owner = require_namespace(store, caller, str(body.get("namespace") or caller.name))
        taken = store.find(
            "SELECT slug FROM collections WHERE owner = ? AND title = ?", owner, title
        )
        if taken is not None:
            raise Taken(str(taken["slug"]))
        number = store.one("SELECT COUNT(*) AS n FROM collections")["n"] + 1
        words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "collection"
        slug = f"{owner}/{words}-{number:024x}"
        store.execute(
            "INSERT INTO collections VALUES (?, ?, ?, ?, ?, ?)",
            *(slug, owner, title, description, bool(body.get("private")), now()),
        )
    return show(store, caller, slug)


class Taken(Exception):
    """The namespace has a collection of this title; the client wants its slug."""

    def __init__(self, slug: str) -> None:
        super().__init__(slug)
        self.slug = slug


def show(store: Store, caller: Caller, slug: str) -> Json:
    """A collection with its items, those left out that the caller may not see."""
    row = _readable(store, caller, slug)
    rows = store.all(
        "SELECT * FROM collection_items WHERE collection = ? ORDER BY position, uid", row["slug"]
    )
    items = [
        {
            "_id": f"{item['uid']:024x}",
            "id": item["item"],
            "type": item["kind"],
            "position": item["position"],
            **({} if item["note"] is None else {"note": {"text": item["note"]}}),
        }
        for item in rows
        if item["kind"] == "paper" or _sees(store, caller, item["kind"], item["item"])
    ]
    return {
        "slug": row["slug"],
        "title": row["title"],
        "description": row["description"],
        "owner": row["owner"],
        "items": items,
        "lastUpdated": row["updated"],
        "position": 0,
        "private": bool(row["private"]),
        "theme": "orange",
        "upvotes": 0,
    }


def listed(store: Store, caller: Caller, owner: str | None) -> list[Json]:
    """The collections of an owner that the caller may see."""
    rows = store.all("SELECT * FROM collections ORDER BY rowid")
    slugs = [row["slug"] for row in rows if owner is None or row["owner"].lower() == owner.lower()]
    seen = [slug for slug in slugs if _may_see(store, caller, slug)]
    # The client counts the position itself.
    return [
        {name: value for name, value in show(store, caller, slug).items() if name != "position"}
        for slug in seen
    ]


def add_item(store: Store, caller: Caller, slug: str, body: Json) -> Json:
    """Append a repo or paper; 409 when it is in the collection, 404 when there is no such repo."""
    given = body.get("item")
    item: Json = given if isinstance(given, dict) else {}
    kind, name = str(item.get("type")), str(item.get("id"))
    if kind not in (*KINDS.values(), "paper"):
        raise unsupported(f"a collection with a {kind}")
    with store.transaction():
        row = _writable(store, caller, slug)
        exists = _PAPER.fullmatch(name) if kind == "paper" else _sees(store, caller, kind, name)
        if not exists:
            raise HubRefusal(404, f"There is no {kind} {name}.")
        twice = store.find(
            "SELECT 1 FROM collection_items WHERE collection = ? AND kind = ? AND item = ?",
            *(row["slug"], kind, name),
        )
        if twice is not None:
            raise HubRefusal(409, f"The {kind} {name} is in the collection already.")
        count = store.one(
            "SELECT COUNT(*) AS n FROM collection_items WHERE collection = ?", row["slug"]
        )["n"]
        store.execute(
            "INSERT INTO collection_items (collection, kind, item, note, position)"
            " VALUES (?, ?, ?, ?, ?)",
            *(row["slug"], kind, name, _note(body), count),
        )
        _touch(store, row["slug"])
    return show(store, caller, str(row["slug"]))


def change_item(store: Store, caller: Caller, slug: str, uid: str, body: Json) -> None:
    """Change the note or the place of an item."""
    with store.transaction():
        row = _writable(store, caller, slug)
        item = _item(store, row["slug"], uid)
        note = _note(body) if "note" in body else item["note"]
        position = int(str(body.get("position", item["position"])))
        store.execute(
            "UPDATE collection_items SET note = ?, position = ? WHERE uid = ?",
            *(note, position, item["uid"]),
        )
        _touch(store, row["slug"])


def remove_item(store: Store, caller: Caller, slug: str, uid: str) -> None:
    """Take an item out."""
    with store.transaction():
        row = _writable(store, caller, slug)
        store.execute(
            "DELETE FROM collection_items WHERE uid = ?", _item(store, row["slug"], uid)["uid"]
        )
        _touch(store, row["slug"])


def change(store: Store, caller: Caller, slug: str, body: Json) -> Json:
    """Change the description or who sees the collection."""
    if strange := sorted(set(body) - {"description", "private"}):
        raise unsupported(f"changing {strange} of a collection")
    with store.transaction():
        row = _writable(store, caller, slug)
        store.execute(
            "UPDATE collections SET description = ?, private = ? WHERE slug = ?",
            body.get("description", row["description"]),
            bool(body.get("private", row["private"])),
            row["slug"],
        )
        _touch(store, row["slug"])
    return show(store, caller, str(row["slug"]))


def delete(store: Store, caller: Caller, slug: str) -> None:
    """Remove a collection; its items stay where they are."""
    row = _writable(store, caller, slug)
    store.execute("DELETE FROM collections WHERE slug = ?", row["slug"])


def _note(body: Json) -> str | None:
    note = body.get("note")
    if note is not None and (not isinstance(note, str) or len(note) > _LONGEST_NOTE):
        raise HubRefusal(400, f"`note` must have at most {_LONGEST_NOTE} characters")
    return note


def _sees(store: Store, caller: Caller, kind: Literal["model"] | str, name: str) -> bool:
    namespace, _, short = name.partition("/")
    repo = find_repo(store, kind, namespace, short)
    return repo is not None and may_read(store, caller, repo)


def _may_see(store: Store, caller: Caller, slug: str) -> bool:
    row = store.find("SELECT owner, private FROM collections WHERE slug = ?", slug)
    return row is not None and (
        not row["private"] or role_in(store, caller, row["owner"]) != "none"
    )


def _readable(store: Store, caller: Caller, slug: str) -> Json:
    if not _may_see(store, caller, slug):
        raise HubRefusal(404, "Collection not found")
    return dict(store.one("SELECT * FROM collections WHERE slug = ?", slug))


def _writable(store: Store, caller: Caller, slug: str) -> Json:
    row = _readable(store, caller, slug)
    require_namespace(store, caller, str(row["owner"]))
    return row


def _item(store: Store, slug: object, uid: str) -> Json:
    number = int(uid, 16) if re.fullmatch(r"[0-9a-f]{1,15}|0{9}[0-9a-f]{15}", uid) else -1
    row = store.find(
        "SELECT * FROM collection_items WHERE collection = ? AND uid = ?", slug, number
    )
    if row is None:
        raise HubRefusal(404, "The collection has no such item.")
    return dict(row)


def _touch(store: Store, slug: object) -> None:
    store.execute("UPDATE collections SET updated = ? WHERE slug = ?", now(), slug)
