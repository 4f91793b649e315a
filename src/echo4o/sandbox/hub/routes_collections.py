"""Collections over HTTP."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from echo4o.sandbox.hub import collections
from echo4o.sandbox.hub.access import require_write_token
from echo4o.sandbox.hub.http import caller_of, page, read_json, store_of

router = APIRouter()
Json = dict[str, object]
_ONE = "/api/collections/{namespace}/{name}"


@router.get("/api/collections")
def list_collections(request: Request) -> JSONResponse:
    """Collections by owner."""
    owner = request.query_params.get("owner")
    found = collections.listed(store_of(request), caller_of(request), owner)
    return page(request, found, default=100, most=100)


@router.post("/api/collections")
async def create(request: Request) -> JSONResponse:
    """A new collection."""
    body, caller = await read_json(request), caller_of(request)
    require_write_token(caller)
    try:
        return JSONResponse(collections.create(store_of(request), caller, body))
    except collections.Taken as taken:
        # `create_collection(exists_ok=True)` takes the slug from the body of the 409.
        return JSONResponse({"error": "Collection already exists", "slug": taken.slug}, 409)


@router.get(_ONE)
def show(request: Request, namespace: str, name: str) -> Json:
    """A collection with its items."""
    return collections.show(store_of(request), caller_of(request), f"{namespace}/{name}")


@router.patch(_ONE)
async def change(request: Request, namespace: str, name: str) -> Json:
    """Change a collection."""
    body, slug = await read_json(request), f"{namespace}/{name}"
    return {"data": collections.change(store_of(request), caller_of(request), slug, body)}


@router.delete(_ONE)
def delete(request: Request, namespace: str, name: str) -> Json:
    """Remove a collection."""
    collections.delete(store_of(request), caller_of(request), f"{namespace}/{name}")
    return {}


@router.post(_ONE + "/items")
async def add_item(request: Request, namespace: str, name: str) -> Json:
    """Append a repo or paper."""
    body, slug = await read_json(request), f"{namespace}/{name}"
    return collections.add_item(store_of(request), caller_of(request), slug, body)


@router.patch(_ONE + "/items/{uid}")
async def change_item(request: Request, namespace: str, name: str, uid: str) -> Json:
    """Change an item's note or place."""
    body, slug = await read_json(request), f"{namespace}/{name}"
    collections.change_item(store_of(request), caller_of(request), slug, uid, body)
    return {}


@router.delete(_ONE + "/items/{uid}")
def remove_item(request: Request, namespace: str, name: str, uid: str) -> Json:
    """Take an item out."""
    slug = f"{namespace}/{name}"
    collections.remove_item(store_of(request), caller_of(request), slug, uid)
    return {}
