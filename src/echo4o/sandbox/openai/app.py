"""Routes, keys, errors and headers of the OpenAI-compatible API."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ..faults import Faults
from ..keys import API_KEY
from .batches import Batches
from .bills import Bills
from .content import Content, content_of
from .images import open_picture
from .moderation import moderation_results
from .problems import ApiProblem
from .reading import read_form, read_json
from .service import MODELS, Job, Service

# Pictures up to this side are painted on the event loop: a thread would cost more than the paint.
_INLINE_SIZES = ("32x32", "48x48", "64x64", "96x96", "128x128")
_CREATED = 1_767_225_600


def create_app(root: Path) -> FastAPI:
    """The API with its state (files, batches, call log) under `root`.

    `app.state.faults` may be set before the first request.
    """
    root.mkdir(parents=True, exist_ok=True)
    service = Service(Bills(root / "calls.jsonl"))
    batches = Batches(root, service)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.faults = app.state.faults
        batches.resume()
        yield
        await batches.stop()
        service.bills.close()

    app = FastAPI(title="sandbox image API", lifespan=lifespan, openapi_url=None)
    app.state.faults = Faults()
    _add_errors(app)
    _add_operations(app, service)
    _add_small_routes(app, service)
    batches.add_routes(app, authorise)
    return app


def authorise(request: Request) -> None:
    """401 unless the request carries the sandbox's key."""
    given = request.headers.get("authorization", "")
    if given == f"Bearer {API_KEY}":
        return
    message = "Incorrect API key provided." if given else "You didn't provide an API key."
    raise ApiProblem(401, message, code="invalid_api_key" if given else None)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiProblem)
    async def on_problem(request: Request, problem: ApiProblem) -> Response:
        headers = {"x-should-retry": "false"} if problem.status < 500 else {}
        return JSONResponse(problem.body, problem.status, headers=headers)

    @app.exception_handler(ClientDisconnect)
    async def on_disconnect(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        place = f"{request.method} {request.url.path}"
        if error.status_code in (404, 405):
            problem = ApiProblem(404, f"Invalid URL ({place})", code="unknown_url")
            if request.url.path.startswith("/v1/"):
                message = f"The sandbox does not support {place}."
                problem = ApiProblem(501, message, code="unsupported", kind="sandbox_unsupported")
            return JSONResponse(problem.body, problem.status)
        problem = ApiProblem(error.status_code, str(error.detail))
        return JSONResponse(problem.body, problem.status)


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.post("/v1/images/generations")
    async def generate(request: Request) -> Response:
        authorise(request)
        job = await _job(request, service)
        return await _run(job, service.generate, inline=job.body.get("size") in _INLINE_SIZES)

    @app.post("/v1/images/edits")
    async def edit(request: Request) -> Response:
        authorise(request)
        body, uploads = await read_form(request)
        job = _identified(request, service, body, tuple(uploads))

        def work(job: Job) -> dict[str, Any]:
            references = [open_picture(data, "image") for data in uploads]
            return service.edit(job, references)

        small = sum(map(len, uploads)) < 1 << 20 and body.get("size") in _INLINE_SIZES
        return await _run(job, work, inline=small)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        authorise(request)
        return await _run(await _job(request, service), service.chat, inline=False)


def _add_small_routes(app: FastAPI, service: Service) -> None:
    def model_card(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": _CREATED, "owned_by": "sandbox"}

    @app.get("/healthz")
    async def healthz() -> Response:
        return PlainTextResponse("ok")

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        authorise(request)
        return JSONResponse({"object": "list", "data": [model_card(name) for name in MODELS]})

    @app.get("/v1/models/{name}")
    async def model(request: Request, name: str) -> Response:
        authorise(request)
        if name not in MODELS:
            message = f"The model `{name}` does not exist."
            raise ApiProblem(404, message, code="model_not_found")
        return JSONResponse(model_card(name))

    @app.post("/v1/moderations")
    async def moderations(request: Request) -> Response:
        authorise(request)
        body = await read_json(request)
        content = content_of(request.url.path, body, request.headers.get("x-client-request-id"))
        is_flagged = service.faults.outcome(content.key, kinds=("flag",)) is not None
        reply = {
            "id": f"modr-{content.key[:24]}",
            "model": "sandbox-moderation",
            "results": moderation_results(body.get("input"), is_flagged=is_flagged),
        }
        return JSONResponse(reply, headers=_headers(content))


async def _run(job: Job, operation: Callable[[Job], dict[str, Any]], *, inline: bool) -> Response:
    reply = operation(job) if inline else await asyncio.to_thread(operation, job)
    return JSONResponse(reply, headers=_headers(job.content))


def _headers(content: Content) -> dict[str, str]:
    return {
        "x-request-id": content.request_id,
        "openai-version": "2020-10-01",
        "openai-organization": "sandbox",
    }


async def _job(request: Request, service: Service) -> Job:
    return _identified(request, service, await read_json(request), ())


def _identified(
    request: Request, service: Service, body: dict[str, Any], pictures: tuple[bytes, ...]
) -> Job:
    return service.job(
        request.url.path,
        body,
        client_key=request.headers.get("x-client-request-id"),
        is_lost=bool(request.scope.get("echo4o.lost")),
        pictures=pictures,
    )
