"""The sandbox Hub as an ASGI app: routes, errors as the clients expect them, 501 for the rest."""

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from echo4o.sandbox.hub import (
    routes_collections,
    routes_commits,
    routes_discussions,
    routes_files,
    routes_repos,
    routes_webhooks,
)
from echo4o.sandbox.hub.errors import HubRefusal, unsupported
from echo4o.sandbox.hub.store import Store
from echo4o.sandbox.hub.webhooks import Postman


def create_app(root: Path) -> FastAPI:
    """A Hub whose whole state is the folder `root`; one server at a time may use it.

    Users are `rehearsal` (token `hf_sandbox_rehearsal`, write) and `reader` (token
    `hf_sandbox_reader`, read only); `rehearsal` administers the organisation `echo4o-sandbox`.
    """
    store = Store(root)
    postman = Postman(store)
    store.on_push = postman.tell

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        postman.start()
        yield
        postman.stop()
        postman.join(timeout=2)
        store.close()

    app = FastAPI(
        title="echo4o sandbox Hub",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.store = store
    # Collections and settings first: /api/{kinds}/... would take their addresses for repos.
    for routes in (
        routes_collections,
        routes_webhooks,
        routes_repos,
        routes_files,
        routes_commits,
        routes_discussions,
    ):
        app.include_router(routes.router)
    app.add_exception_handler(HubRefusal, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(OSError, _storage_failed)
    for unstorable in (OverflowError, UnicodeEncodeError, RecursionError):
        app.add_exception_handler(unstorable, _unstorable)
    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    app.add_api_route("/{path:path}", _unknown, methods=methods)
    return app


def _answer(refusal: HubRefusal) -> JSONResponse:
    return JSONResponse({"error": refusal.message}, refusal.status, headers=refusal.headers)


async def _refused(request: Request, error: HubRefusal) -> JSONResponse:
    return _answer(error)


async def _malformed(request: Request, error: RequestValidationError) -> JSONResponse:
    details = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
    return _answer(HubRefusal(400, details))


async def _unstorable(request: Request, error: Exception) -> JSONResponse:
    return _answer(HubRefusal(400, f"a value of the request cannot be stored: {error}"))


async def _storage_failed(request: Request, error: OSError) -> JSONResponse:
    status = 507 if error.errno in (errno.ENOSPC, errno.EDQUOT) else 500
    return _answer(HubRefusal(status, f"the sandbox Hub cannot store this: {error.strerror}"))


async def _unknown(request: Request, path: str) -> JSONResponse:
    return _answer(unsupported(f"{request.method} /{path}"))
