"""Reading: trees, paths, commits, and the files themselves, whole or in ranges."""

from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from echo4o.sandbox.hub import history, repos
from echo4o.sandbox.hub.errors import HubRefusal, entry_not_found
from echo4o.sandbox.hub.history import Commit
from echo4o.sandbox.hub.http import Target, api_target, flag, page, page_target, read_json
from echo4o.sandbox.hub.objects import Entry, Files, folders

router = APIRouter()
Json = dict[str, object]
_REPO = "/api/{kinds}/{namespace}/{name}"


def _file(path: str, entry: Entry) -> Json:
    return {"type": "file", "path": path, **repos.file_facts(entry)}


def _folder(path: str, oid: str) -> Json:
    return {"type": "directory", "path": path, "oid": oid, "size": 0}


def _listing(files: Files, folder: str, *, recursive: bool) -> list[Json] | None:
    """What lies in a folder, sorted by path; None when there is no such folder."""
    ids = folders(files)
    if folder not in ids:
        return None
    start = folder + "/" if folder else ""

    def inside(path: str) -> bool:
        return path.startswith(start) and (recursive or "/" not in path[len(start) :])

    found = {path: _folder(path, oid) for path, oid in ids.items() if path and inside(path)}
    found |= {path: _file(path, entry) for path, entry in files.items() if inside(path)}
    return [found[path] for path in sorted(found)]


def _with_last_commit(target: Target, commit: str, items: list[Json]) -> list[Json]:
    paths = {str(item["path"]) for item in items}
    last = history.last_changes(target.store, target.repo, commit, paths)
    for item in items:
        found: Commit = last[str(item["path"])]
        item["lastCommit"] = {"id": found.id, "title": found.title, "date": found.date}
    return items


@router.get(_REPO + "/tree/{rest:path}")
def tree(request: Request) -> JSONResponse:
    """The files and folders below a path."""
    target, query = api_target(request), request.query_params
    commit = history.resolve(target.store, target.repo, target.revision)
    files = history.files_at(target.store, target.repo, commit)
    folder = target.path.strip("/")
    items = _listing(files, folder, recursive=flag(query.get("recursive")))
    if items is None:
        raise entry_not_found(folder, commit)
    expand = flag(query.get("expand"))
    if expand:
        items = _with_last_commit(target, commit, items)
    return page(request, items, default=100 if expand else 1000, most=100 if expand else 1000)


@router.post(_REPO + "/paths-info/{rest:path}")
async def paths_info(request: Request) -> list[Json]:
    """Facts about some paths; those that do not exist are left out."""
    target = api_target(request)
    form: Json
    if "form" in request.headers.get("content-type", ""):
        fields = await request.form(max_fields=10_000)
        form = {"paths": fields.getlist("paths"), "expand": fields.get("expand")}
    else:
        form = await read_json(request)
    paths = form.get("paths")
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise HubRefusal(400, "`paths` must be a list of strings")
    commit = history.resolve(target.store, target.repo, target.revision)
    files = history.files_at(target.store, target.repo, commit)
    ids = folders(files)
    names = [path.rstrip("/") for path in paths]
    items = [_file(name, files[name]) for name in names if name in files]
    items += [_folder(name, ids[name]) for name in names if name and name in ids]
    return _with_last_commit(target, commit, items) if flag(form.get("expand")) else items


@router.get(_REPO + "/commits/{rest:path}")
def commits(request: Request) -> JSONResponse:
    """The history of a revision, newest first."""
    target = api_target(request)
    commit = history.resolve(target.store, target.repo, target.revision)
    items = [
        {
            "id": step.id,
            "title": step.title,
            "message": step.message,
            "authors": [{"user": step.author}],
            "date": step.date,
        }
        for step in history.ancestry(target.store, target.repo, commit)
    ]
    return page(request, items, default=50, most=1000)


_RESOLVE = (
    "/datasets/{namespace}/{name}/resolve/{rest:path}",
    "/spaces/{namespace}/{name}/resolve/{rest:path}",
    "/{namespace}/{name}/resolve/{rest:path}",
    "/{name}/resolve/{rest:path}",
)


def resolve(request: Request) -> Response:
    """A file's headers or bytes; ranges, conditions and HEAD as in RFC 9110."""
    target = page_target(request)
    commit = history.resolve(target.store, target.repo, target.revision)
    entry = history.files_at(target.store, target.repo, commit).get(target.path)
    if entry is None:
        raise entry_not_found(target.path, commit)
    etag = f'"{entry.sha256 if entry.lfs else entry.oid}"'
    name = quote(target.path.rpartition("/")[2])
    headers = {
        "X-Repo-Commit": commit,
        "ETag": etag,
        "Content-Disposition": f"inline; filename*=UTF-8''{name}",
        "X-Content-Type-Options": "nosniff",
    }
    if entry.lfs:
        headers |= {"X-Linked-ETag": etag, "X-Linked-Size": str(entry.size)}
    if etag in [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    blob = target.store.blobs.path(entry.sha256)
    return FileResponse(blob, headers=headers, media_type="application/octet-stream")


for _path in _RESOLVE:
    router.add_api_route(_path, resolve, methods=["GET", "HEAD"])
