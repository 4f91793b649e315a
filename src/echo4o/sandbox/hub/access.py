"""Who is calling, and what they may see and change."""

import hashlib
from dataclasses import dataclass

from echo4o.sandbox.hub.errors import HubRefusal, repo_not_found
from echo4o.sandbox.hub.names import URL_PREFIX
from echo4o.sandbox.hub.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """The account behind a request; `name` is None without a token."""

    name: str | None
    role: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Repo:
    """One repository."""

    uid: int
    kind: str
    namespace: str
    name: str
    private: bool
    sdk: str | None
    created: str

    @property
    def id(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def url_path(self) -> str:
        """Path of the repo's page."""
        return f"/{URL_PREFIX[self.kind]}{self.id}"


def identify(store: Store, authorization: str | None) -> Caller:
    """The caller behind an Authorization header; a token that is not known is 401."""
    if not authorization:
        return Caller(name=None, role="none")
    scheme, _, token = authorization.partition(" ")
    digest = hashlib.sha256(token.strip().encode()).hexdigest()
    row = store.find("SELECT account, role FROM tokens WHERE sha256 = ?", digest)
    if scheme.lower() != "bearer" or row is None:
        raise HubRefusal(401, "Invalid credentials in Authorization header")
    return Caller(name=row["account"], role=row["role"])


def require_login(caller: Caller) -> str:
    """The name of the caller, or 401."""
    if caller.name is None:
        raise HubRefusal(401, "Invalid username or password.")
    return caller.name


def require_write_token(caller: Caller) -> str:
    """The name of a caller who may write somewhere, or 401 or 403."""
    name = require_login(caller)
    if caller.role != "write":
        raise HubRefusal(
            403, "Forbidden: this token is read-only; you must use a token with write access."
        )
    return name


def role_in(store: Store, caller: Caller, namespace: str) -> str:
    """What the caller is in a namespace: `admin`, `write`, `read` or `none`."""
    if caller.name is None:
        return "none"
    if caller.name.lower() == namespace.lower():
        return "admin"
    row = store.find(
        "SELECT role FROM members WHERE organisation = ? AND account = ?", namespace, caller.name
    )
    return "none" if row is None else str(row["role"])


def require_namespace(store: Store, caller: Caller, namespace: str) -> str:
    """The namespace as it is written, when the caller may create repos there; else 403."""
    require_write_token(caller)
    row = store.find("SELECT name FROM accounts WHERE name = ?", namespace)
    if row is None or role_in(store, caller, namespace) not in ("admin", "write"):
        raise HubRefusal(
            403, f'You don\'t have the rights to create a repo under the namespace "{namespace}"'
        )
    return str(row["name"])


def find_repo(store: Store, kind: str, namespace: str, name: str) -> Repo | None:
    """The repo of this name, whoever asks."""
    row = store.find(
        "SELECT * FROM repos WHERE kind = ? AND namespace = ? AND name = ?", kind, namespace, name
    )
    return None if row is None else repo_of(dict(row))


def repo_of(row: dict[str, object]) -> Repo:
    """A repo from its database row."""
    return Repo(**{**row, "private": bool(row["private"])})  # type: ignore[arg-type]


def may_read(store: Store, caller: Caller, repo: Repo) -> bool:
    """Public repos are everybody's, private ones their namespace's."""
    return not repo.private or role_in(store, caller, repo.namespace) != "none"


def may_write(store: Store, caller: Caller, repo: Repo) -> bool:
    """Whether the token and the account may change the repo."""
    return caller.role == "write" and role_in(store, caller, repo.namespace) in ("admin", "write")


def readable(store: Store, caller: Caller, kind: str, namespace: str, name: str) -> Repo:
    """The repo, or the refusal that does not tell private from missing."""
    repo = find_repo(store, kind, namespace, name)
    if repo is None or not may_read(store, caller, repo):
        raise repo_not_found(anonymous=caller.name is None)
    return repo


def require_write(store: Store, caller: Caller, repo: Repo) -> str:
    """The caller's name when they may change the repo, or 401 or 403."""
    name = require_write_token(caller)
    if not may_write(store, caller, repo):
        raise HubRefusal(403, f"You don't have write access to {repo.kind} {repo.id}.")
    return name


def require_admin(store: Store, caller: Caller, repo: Repo) -> str:
    """The caller's name when they may delete or move the repo, or 401 or 403."""
    name = require_write(store, caller, repo)
    if role_in(store, caller, repo.namespace) != "admin":
        raise HubRefusal(403, f"Only an admin of {repo.namespace} may do this to {repo.id}.")
    return name
