"""Webhooks: who wants to know of commits on main, and the messages to them.

Only events of repo contents are sent, and only to addresses of this machine: a sandbox calls nobody
outside.
"""

import ipaddress
import json
import queue
import threading
import time
import urllib.error
import urllib.request
from typing import NamedTuple
from urllib.parse import urlsplit

from echo4o.sandbox.hub.access import Caller, Repo, require_write_token
from echo4o.sandbox.hub.errors import HubRefusal, unsupported
from echo4o.sandbox.hub.history import MAIN, load_commit, target
from echo4o.sandbox.hub.store import Store

Json = dict[str, object]
_KINDS = ("dataset", "model", "org", "space", "user")
_DOMAINS = ("repo", "discussion")
_ATTEMPTS, _TIMEOUT_S = 3, 10.0


class Pushed(NamedTuple):
    """A commit that main points to, and who is to hear of it."""

    repo: Repo
    commit: str
    hooks: tuple[Json, ...]


class Postman(threading.Thread):
    """Sends the messages, one after the other, so that a commit waits for nobody."""

    def __init__(self, store: Store) -> None:
        super().__init__(daemon=True)
        self._store = store
        self._waiting: queue.SimpleQueue[Pushed | None] = queue.SimpleQueue()

    def tell(self, repo: Repo, commit: str) -> None:
        """Take a commit that was just made; a webhook that is switched on later hears nothing."""
        rows = self._store.all("SELECT * FROM webhooks WHERE disabled = 0 ORDER BY uid")
        hooks = tuple(hook for hook in map(dict, rows) if _watches(hook, repo))
        if hooks:
            self._waiting.put(Pushed(repo, commit, hooks))

    def stop(self) -> None:
        """End after what is being sent."""
        self._waiting.put(None)

    def run(self) -> None:
        """Send until `stop`."""
        while (pushed := self._waiting.get()) is not None:
            for hook in pushed.hooks:
                self._send(hook, pushed)

    def _send(self, hook: Json, pushed: Pushed) -> None:
        body = json.dumps(_payload(self._store, hook, pushed)).encode()
        headers = {"Content-Type": "application/json"}
        if hook["secret"] is not None:
            headers["X-Webhook-Secret"] = str(hook["secret"])
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for attempt in range(_ATTEMPTS):
            request = urllib.request.Request(str(hook["url"]), body, headers)
            try:
                opener.open(request, timeout=_TIMEOUT_S).close()
                return
            except (OSError, urllib.error.URLError):
                time.sleep(0.2 * 2**attempt)


def create(store: Store, caller: Caller, body: Json) -> Json:
    """A new webhook of the caller."""
    account = require_write_token(caller)
    if strange := sorted(set(body) - {"watched", "domains", "secret", "url"}):
        raise unsupported(f"a webhook with {strange}")
    watched, domains = body.get("watched"), body.get("domains", list(_DOMAINS))
    if not isinstance(watched, list) or not watched or not all(map(_is_watchable, watched)):
        raise HubRefusal(400, f"`watched` must be a list of type ({', '.join(_KINDS)}) and name")
    if not isinstance(domains, list) or not set(domains) <= set(_DOMAINS):
        raise HubRefusal(400, f"`domains` must be some of {_DOMAINS}")
    store.execute(
        "INSERT INTO webhooks (account, url, watched, domains, secret, disabled)"
        " VALUES (?, ?, ?, ?, ?, 0)",
        *(account, _local(body.get("url")), json.dumps(watched), json.dumps(domains)),
        body.get("secret"),
    )
    return listed(store, caller)[-1]


def listed(store: Store, caller: Caller) -> list[Json]:
    """The caller's webhooks."""
    account = require_write_token(caller)
    rows = store.all("SELECT * FROM webhooks WHERE account = ? ORDER BY uid", account)
    return [
        {
            "id": f"{row['uid']:024x}",
            "url": row["url"],
            "watched": json.loads(row["watched"]),
            "domains": json.loads(row["domains"]),
            "secret": row["secret"],
            "disabled": bool(row["disabled"]),
        }
        for row in rows
    ]


def find(store: Store, caller: Caller, name: str) -> Json:
    """One of the caller's webhooks, or 404."""
    found = next((one for one in listed(store, caller) if one["id"] == name), None)
    if found is None:
        raise HubRefusal(404, "Webhook not found")
    return found


def switch(store: Store, caller: Caller, name: str, *, disabled: bool) -> Json:
    """Switch a webhook off or on."""
    uid = int(str(find(store, caller, name)["id"]), 16)
    store.execute("UPDATE webhooks SET disabled = ? WHERE uid = ?", disabled, uid)
    return find(store, caller, name)


def delete(store: Store, caller: Caller, name: str) -> None:
    """Remove a webhook."""
    uid = int(str(find(store, caller, name)["id"]), 16)
    store.execute("DELETE FROM webhooks WHERE uid = ?", uid)


def _is_watchable(one: object) -> bool:
    return isinstance(one, dict) and one.get("type") in _KINDS and isinstance(one.get("name"), str)


def _local(url: object) -> str:
    parts = urlsplit(str(url))
    try:
        is_local = parts.hostname == "localhost" or (
            ipaddress.ip_address(parts.hostname or "").is_loopback
        )
    except ValueError:
        is_local = False
    if parts.scheme != "http" or not is_local:
        raise HubRefusal(400, f"the sandbox sends webhooks to this machine only, not to {url!r}")
    return str(url)


def _watches(hook: Json, repo: Repo) -> bool:
    if "repo" not in json.loads(str(hook["domains"])):
        return False
    names = {(one["type"], one["name"].lower()) for one in json.loads(str(hook["watched"]))}
    owners = {(kind, repo.namespace.lower()) for kind in ("user", "org")}
    return bool(names & {(repo.kind, repo.id.lower()), *owners})


def _payload(store: Store, hook: Json, pushed: Pushed) -> Json:
    repo, commit = pushed.repo, load_commit(store, pushed.repo, pushed.commit)
    return {
        "event": {"action": "update", "scope": "repo.content"},
        "repo": {
            "type": repo.kind,
            "name": repo.id,
            "id": f"{repo.uid:024x}",
            "private": repo.private,
            "owner": {"id": repo.namespace},
            "headSha": target(store, repo, MAIN),
            "url": {"web": repo.url_path, "api": f"/api/{repo.kind}s/{repo.id}"},
        },
        "updatedRefs": [{"ref": MAIN, "oldSha": commit.parent, "newSha": commit.id}],
        "webhook": {"id": f"{hook['uid']:024x}", "version": 3},
    }
