"""Webhooks over HTTP."""

from fastapi import APIRouter, Request

from echo4o.sandbox.hub import webhooks
from echo4o.sandbox.hub.http import caller_of, read_json, store_of

router = APIRouter()
Json = dict[str, object]
_ALL = "/api/settings/webhooks"


@router.get(_ALL)
def list_webhooks(request: Request) -> list[Json]:
    """The caller's webhooks."""
    return webhooks.listed(store_of(request), caller_of(request))


@router.post(_ALL)
async def create(request: Request) -> Json:
    """A new webhook."""
    body = await read_json(request)
    return {"webhook": webhooks.create(store_of(request), caller_of(request), body)}


@router.get(_ALL + "/{name}")
def show(request: Request, name: str) -> Json:
    """One webhook."""
    return {"webhook": webhooks.find(store_of(request), caller_of(request), name)}


@router.delete(_ALL + "/{name}")
def delete(request: Request, name: str) -> Json:
    """Remove a webhook."""
    webhooks.delete(store_of(request), caller_of(request), name)
    return {}


@router.post(_ALL + "/{name}/enable")
@router.post(_ALL + "/{name}/disable")
def switch(request: Request, name: str) -> Json:
    """Switch a webhook on or off."""
    off = request.url.path.endswith("/disable")
    return {"webhook": webhooks.switch(store_of(request), caller_of(request), name, disabled=off)}
