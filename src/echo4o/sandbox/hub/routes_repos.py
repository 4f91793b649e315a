"""Accounts and repositories: whoami, create, delete, move, settings, lists, infos, refs."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from echo4o.sandbox.hub import access, history, repos, scores
from echo4o.sandbox.hub.cards import read_card
from echo4o.sandbox.hub.errors import HubRefusal, unsupported
from echo4o.sandbox.hub.http import (
    Target,
    api_target,
    base_url,
    caller_of,
    flag,
    page,
    read_json,
    store_of,
)
from echo4o.sandbox.hub.names import KINDS, check_ref

router = APIRouter()
Json = dict[str, object]
_REPO = "/api/{kinds}/{namespace}/{name}"


@router.get("/healthz")
def healthz() -> Json:
    """Whether the server is up."""
    return {"status": "ok"}


@router.get("/api/whoami-v2")
def whoami(request: Request) -> Json:
    """The account behind the token."""
    caller = caller_of(request)
    access.require_login(caller)
    return repos.whoami(store_of(request), caller)


def _kind(body: Json) -> str:
    kind = body.get("type") or "model"
    if kind not in KINDS.values():
        raise unsupported(f"repos of the type {kind!r}")
    return str(kind)


def _private(body: Json) -> bool:
    visibility = body.get("visibility", "private" if body.get("private") else "public")
    if visibility not in ("public", "private"):
        raise unsupported(f"the visibility {visibility!r}")
    return visibility == "private"


@router.post("/api/repos/create")
async def create(request: Request) -> Json:
    """A new repository."""
    body, caller, store = await read_json(request), caller_of(request), store_of(request)
    user = access.require_write_token(caller)
    known = {"name", "organization", "type", "visibility", "private", "sdk", "hardware"}
    if strange := sorted(set(body) - known):
        raise unsupported(f"creating a repo with {strange}")
    if body.get("hardware", "cpu-basic") != "cpu-basic":
        raise unsupported(f"the hardware {body['hardware']!r}")
    names = (str(body.get("organization") or user), str(body.get("name")))
    sdk = body.get("sdk")
    kind, private = _kind(body), _private(body)
    taken = access.find_repo(store, kind, *names)
    if taken is not None and access.may_write(store, caller, taken):
        # `create_repo(exist_ok=True)` takes the address from the body of the 409.
        url = base_url(request) + taken.url_path
        error = {"error": f"You already created this {kind} repo: {taken.id}", "url": url}
        return JSONResponse(error, 409)
    repo = repos.create(store, caller, kind, names, private, None if sdk is None else str(sdk))
    return {"url": base_url(request) + repo.url_path, "name": repo.id, "id": f"{repo.uid:024x}"}


@router.delete("/api/repos/delete")
async def delete(request: Request) -> Json:
    """Remove a repository."""
    body, caller, store = await read_json(request), caller_of(request), store_of(request)
    user = access.require_write_token(caller)
    namespace = str(body.get("organization") or user)
    repo = access.readable(store, caller, _kind(body), namespace, str(body.get("name")))
    access.require_admin(store, caller, repo)
    repos.delete(store, repo)
    return {}


@router.post("/api/repos/move")
async def move(request: Request) -> Json:
    """Rename a repository."""
    body, caller, store = await read_json(request), caller_of(request), store_of(request)
    names = [str(body.get(key, "")).split("/") for key in ("fromRepo", "toRepo")]
    if any(len(parts) != 2 for parts in names):
        raise HubRefusal(400, "`fromRepo` and `toRepo` must be namespace/name")
    repo = access.readable(store, caller, _kind(body), *names[0])
    access.require_admin(store, caller, repo)
    repos.move(store, caller, repo, *names[1])
    return {}


@router.post("/api/validate-yaml")
async def validate_yaml(request: Request) -> JSONResponse:
    """Check the front matter of a README.md."""
    body = await read_json(request)
    card = read_card(str(body.get("content", "")), str(body.get("repoType") or "model"))
    found = {
        "errors": [{"message": message} for message in card.errors],
        "warnings": [{"message": message} for message in card.warnings],
    }
    return JSONResponse(found, 400 if card.errors else 200)


@router.get("/api/{kinds}")
def list_repos(request: Request, kinds: str) -> JSONResponse:
    """Repos by author, search text and tags, newest change first where asked."""
    query, store, caller = request.query_params, store_of(request), caller_of(request)
    if kinds not in KINDS:
        raise unsupported(f"GET /api/{kinds}")
    known = {"author", "search", "filter", "sort", "limit", "full", "cardData", "cursor"}
    if strange := sorted(set(query) - known):
        raise unsupported(f"lists by {strange}")
    sort = query.get("sort")
    if sort not in (None, "lastModified", "createdAt"):
        raise unsupported(f"lists sorted by {sort}")
    found = repos.find_all(store, caller, KINDS[kinds], query.get("author"), query.get("search"))
    full = flag(query.get("full")) or flag(query.get("cardData"))
    items = [repos.listed(store, repo, full=full) for repo in found]
    wanted = set(query.getlist("filter"))
    items = [item for item in items if wanted <= {*repos.tags(item)}]
    if sort:
        items.sort(key=lambda item: str(item[sort]), reverse=True)
    return page(request, items, default=100, most=1000)


@router.get(_REPO)
@router.get(_REPO + "/revision/{rest:path}")
def info(request: Request) -> Json:
    """Facts about a revision."""
    target = api_target(request)
    commit = history.resolve(target.store, target.repo, target.revision)
    query = request.query_params
    facts = repos.describe(target.store, target.repo, commit, blobs=flag(query.get("blobs")))
    expand = query.getlist("expand") + query.getlist("expand[]")
    if "evalResults" in expand and target.repo.kind == "model":
        facts["evalResults"] = scores.results_of(target.store, target.repo, commit)
    return repos.narrow(facts, expand)


@router.get("/api/datasets/{namespace}/{name}/leaderboard")
def leaderboard(request: Request) -> JSONResponse:
    """Models by their score on a benchmark."""
    target = api_target(request)
    derived = not flag(request.query_params.get("base_model", "true"))
    found = scores.leaderboard(target.store, target.caller, target.repo, derived=derived)
    return JSONResponse(found)


@router.get(_REPO + "/auth-check")
@router.get(_REPO + "/auth-check/write")
def auth_check(request: Request) -> Json:
    """Whether the caller may read, or write."""
    target = api_target(request)
    if str(request.url.path).endswith("/write"):
        access.require_write(target.store, target.caller, target.repo)
    return {}


@router.put(_REPO + "/settings")
async def settings(request: Request) -> Json:
    """Change who sees the repo."""
    target, body = api_target(request), await read_json(request)
    if strange := sorted(set(body) - {"private", "visibility"}):
        raise unsupported(f"the settings {strange}")
    access.require_admin(target.store, target.caller, target.repo)
    private = _private(body)
    target.store.execute("UPDATE repos SET private = ? WHERE uid = ?", private, target.repo.uid)
    return {"private": private}


@router.get(_REPO + "/refs")
def refs(request: Request) -> Json:
    """Branches, tags and, when asked, pull requests."""
    target = api_target(request)
    rows = target.store.all(
        "SELECT name, target FROM refs WHERE repo = ? ORDER BY name", target.repo.uid
    )
    found: dict[str, list[Json]] = {"heads": [], "tags": [], "pr": []}
    for row in rows:
        _, group, name = row["name"].split("/", 2)
        shown = row["name"] if group == "pr" else name
        found[group].append({"name": shown, "ref": row["name"], "targetCommit": row["target"]})
    answer: Json = {"branches": found["heads"], "tags": found["tags"], "converts": []}
    if flag(request.query_params.get("include_prs")):
        answer["pullRequests"] = found["pr"]
    return answer


def _name(target: Target) -> str:
    return "/".join(part for part in (target.revision, target.path) if part)


@router.post(_REPO + "/branch/{rest:path}")
async def create_branch(request: Request) -> Json:
    """A new branch at a revision."""
    target, body = api_target(request), await read_json(request)
    access.require_write(target.store, target.caller, target.repo)
    name = check_ref(_name(target), "branch")
    if strange := sorted(set(body) - {"startingPoint"}):
        raise unsupported(f"creating a branch with {strange}")
    with target.store.transaction():
        start = str(body.get("startingPoint") or "main")
        commit = history.resolve(target.store, target.repo, start)
        history.add_ref(target.store, target.repo, f"refs/heads/{name}", commit)
    return {}


@router.post(_REPO + "/tag/{rest:path}")
async def create_tag(request: Request) -> Json:
    """A new tag at a revision; a tag never moves."""
    target, body = api_target(request), await read_json(request)
    access.require_write(target.store, target.caller, target.repo)
    name = check_ref(body.get("tag"), "tag")
    with target.store.transaction():
        commit = history.resolve(target.store, target.repo, _name(target))
        history.add_ref(target.store, target.repo, f"refs/tags/{name}", commit)
    return {}


@router.delete(_REPO + "/branch/{rest:path}")
@router.delete(_REPO + "/tag/{rest:path}")
def delete_ref(request: Request, namespace: str, name: str) -> Json:
    """Remove a branch or a tag."""
    target = api_target(request)
    access.require_write(target.store, target.caller, target.repo)
    group = "heads" if f"/{namespace}/{name}/branch/" in request.url.path else "tags"
    with target.store.transaction():
        history.delete_ref(target.store, target.repo, f"refs/{group}/{_name(target)}")
    return {}
