"""/v1/files and /v1/batches: lines run in the background and survive a restart."""

import asyncio
import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import UploadFile

from ...records import write_atomic
from .problems import ApiProblem, bad
from .reading import parse_json, read_json
from .service import Service

logger = logging.getLogger(__name__)

Batch = dict[str, Any]
Authorise = Callable[[Request], None]

MAX_FILE_BYTES = 200 * 1024 * 1024
MAX_LINES = 50_000
_WINDOW_S = 24 * 3600
_PURPOSES = ("batch", "batch_output", "vision", "user_data", "evals", "assistants", "fine-tune")
_FINAL = ("completed", "failed", "cancelled", "expired")


class Files:
    """Uploaded and produced files: bytes in `<id>.bin`, facts in `<id>.json`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, purpose: str, data: bytes, *, created: int) -> dict[str, Any]:
        """Store a file; the same content for the same purpose is the same file."""
        digest = hashlib.sha256(f"{purpose}|{name}|".encode() + data).hexdigest()
        facts = {
            "id": f"file-{digest[:24]}",
            "object": "file",
            "bytes": len(data),
            "created_at": created,
            "filename": name,
            "purpose": purpose,
            "status": "processed",
        }
        write_atomic(self.root / f"{facts['id']}.bin", data)
        write_atomic(self.root / f"{facts['id']}.json", json.dumps(facts))
        return facts

    def facts(self, identity: str) -> dict[str, Any]:
        """Facts of one file; 404 when there is none."""
        return _load(self.root, identity, "file")

    def read(self, identity: str) -> bytes:
        """Bytes of one file."""
        self.facts(identity)
        return (self.root / f"{identity}.bin").read_bytes()

    def remove(self, identity: str) -> None:
        """Forget a file."""
        self.facts(identity)
        (self.root / f"{identity}.json").unlink()
        (self.root / f"{identity}.bin").unlink()

    def list(self) -> list[dict[str, Any]]:
        """Facts of all files, newest first."""
        return _load_all(self.root)


class Batches:
    """Batches, their state in `<id>.json` and finished lines in `<id>.lines`."""

    def __init__(self, root: Path, service: Service) -> None:
        self.files = Files(root / "files")
        self.root = root / "batches"
        self.root.mkdir(parents=True, exist_ok=True)
        self._service = service
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._attempts: Counter[str] = Counter()

    def resume(self) -> None:
        """Go on with what an earlier process began."""
        for batch in _load_all(self.root):
            if batch["status"] not in _FINAL:
                self._start(batch)

    async def stop(self) -> None:
        """Stop working; unfinished batches go on at the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def create(self, body: dict[str, Any]) -> Batch:
        """Begin a batch."""
        endpoint = body.get("endpoint")
        if not isinstance(endpoint, str) or self._service.operation(endpoint) is None:
            raise bad("endpoint", f"Batches of {endpoint!r} are not supported by the sandbox.")
        if body.get("completion_window") != "24h":
            raise bad("completion_window", "'completion_window' must be '24h'.")
        source = str(body.get("input_file_id"))
        if self.files.facts(source)["purpose"] != "batch":
            raise bad("input_file_id", "The file's purpose must be 'batch'.")
        number = sum(1 for _ in self.root.glob("*.json"))
        digest = hashlib.sha256(f"{source}|{endpoint}|{number}".encode()).hexdigest()
        now = int(time.time())
        batch: Batch = {
            "id": f"batch_{digest[:24]}",
            "object": "batch",
            "endpoint": endpoint,
            "errors": None,
            "input_file_id": source,
            "completion_window": "24h",
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": now,
            "expires_at": now + _WINDOW_S,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": body.get("metadata"),
        }
        self._save(batch)
        self._start(batch)
        return batch

    def get(self, identity: str) -> Batch:
        """State of one batch; 404 when there is none."""
        return _load(self.root, identity, "batch")

    def cancel(self, identity: str) -> Batch:
        """Stop a batch; what is finished goes to its output file."""
        batch = self.get(identity)
        if batch["status"] in _FINAL:
            raise ApiProblem(409, f"The batch is {batch['status']} and cannot be cancelled.")
        batch |= {"status": "cancelling", "cancelling_at": int(time.time())}
        self._save(batch)
        return batch

    def add_routes(self, app: FastAPI, authorise: Authorise) -> None:
        """Add /v1/files and /v1/batches to `app`."""
        _add_file_routes(app, self.files, authorise)

        @app.post("/v1/batches")
        async def create(request: Request) -> Response:
            authorise(request)
            return JSONResponse(self.create(await read_json(request)))

        @app.get("/v1/batches")
        async def every(request: Request) -> Response:
            authorise(request)
            return JSONResponse(_page(_load_all(self.root), request))

        @app.get("/v1/batches/{identity}")
        async def get(request: Request, identity: str) -> Response:
            authorise(request)
            return JSONResponse(self.get(identity))

        @app.post("/v1/batches/{identity}/cancel")
        async def cancel(request: Request, identity: str) -> Response:
            authorise(request)
            return JSONResponse(self.cancel(identity))

    def _start(self, batch: Batch) -> None:
        self._tasks[batch["id"]] = asyncio.create_task(self._work(batch["id"]))

    async def _work(self, identity: str) -> None:
        try:
            await self._run(identity)
        except Exception as error:  # nobody awaits this task: a batch that only stops never ends
            logger.exception("batch %s failed", identity)
            self._fail(self.get(identity), [_problem("internal_error", str(error), None)])

    async def _run(self, identity: str) -> None:
        batch = self.get(identity)
        lines, problems = _read_lines(self.files.read(batch["input_file_id"]), batch["endpoint"])
        if problems:
            self._fail(batch, problems)
            return
        finished = self._finished(identity)
        batch["request_counts"]["total"] = len(lines)
        if batch["status"] == "validating":
            batch |= {"status": "in_progress", "in_progress_at": int(time.time())}
        self._save(batch)
        with (self.root / f"{identity}.lines").open("a", encoding="utf-8") as log:
            log.write("\n")  # ends a line that a kill cut off, so that it spoils no other
            for line in lines:
                if self.get(identity)["status"] == "cancelling":
                    break
                if line["custom_id"] in finished:
                    continue
                result = await asyncio.to_thread(self._run_line, line, batch["endpoint"])
                finished[line["custom_id"]] = result
                log.write(json.dumps(result) + "\n")
                log.flush()
        self._finish(
            identity, [finished[k] for k in (x["custom_id"] for x in lines) if k in finished]
        )

    def _run_line(self, line: dict[str, Any], endpoint: str) -> dict[str, Any]:
        operation = self._service.operation(endpoint)
        assert operation is not None, endpoint
        job = self._service.job(endpoint, line["body"], client_key=line["custom_id"], in_batch=True)
        self._attempts[job.content.key] += 1
        attempt = self._attempts[job.content.key]
        result: dict[str, Any] = {
            "id": f"batch_req_{job.content.key[:24]}",
            "custom_id": line["custom_id"],
            "response": None,
            "error": None,
        }
        if self._service.faults.expires(job.content.key, attempt):
            message = "This request could not be executed before the completion window expired."
            return result | {"error": {"code": "batch_expired", "message": message}}
        fault = self._service.faults.transport(job.content.key, attempt)
        try:
            if fault in ("429", "500", "503"):
                raise ApiProblem(int(fault), "Injected by the sandbox.", kind="server_error")
            status, body = 200, operation(job)
        except ApiProblem as problem:
            status, body = problem.status, problem.body
        facts = {"status_code": status, "request_id": job.content.request_id, "body": body}
        return result | {"response": facts}

    def _finished(self, identity: str) -> dict[str, dict[str, Any]]:
        path = self.root / f"{identity}.lines"
        results = {}
        for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                result = json.loads(text)
            except ValueError:
                continue  # the line that a kill cut off; it is run again
            results[result["custom_id"]] = result
        return results

    def _finish(self, identity: str, results: list[dict[str, Any]]) -> None:
        batch = self.get(identity)
        good = [one for one in results if _status(one) == 200]
        wrong = [one for one in results if _status(one) != 200]
        for field, part in (("output_file_id", good), ("error_file_id", wrong)):
            if part:
                data = "".join(json.dumps(one) + "\n" for one in part).encode()
                name = f"{identity}_{field.removesuffix('_file_id')}.jsonl"
                created = batch["created_at"]
                facts = self.files.add(name, "batch_output", data, created=created)
                batch[field] = facts["id"]
        word = "expired" if any(one["error"] for one in wrong) else "completed"
        word = "cancelled" if batch["status"] == "cancelling" else word
        counts = batch["request_counts"] | {"completed": len(good), "failed": len(wrong)}
        batch |= {"status": word, f"{word}_at": int(time.time()), "request_counts": counts}
        self._save(batch)

    def _fail(self, batch: Batch, problems: list[dict[str, Any]]) -> None:
        errors = {"object": "list", "data": problems}
        self._save(batch | {"status": "failed", "failed_at": int(time.time()), "errors": errors})

    def _save(self, batch: Batch) -> None:
        write_atomic(self.root / f"{batch['id']}.json", json.dumps(batch))


def _add_file_routes(app: FastAPI, files: Files, authorise: Authorise) -> None:
    @app.post("/v1/files")
    async def upload(request: Request) -> Response:
        authorise(request)
        async with request.form(max_files=1, max_part_size=1 << 20) as form:
            file, purpose = form.get("file"), form.get("purpose")
            if not isinstance(file, UploadFile):
                raise bad("file", "Missing required parameter: 'file'.")
            if purpose not in _PURPOSES:
                raise bad("purpose", f"'purpose' must be one of {', '.join(_PURPOSES)}.")
            if (file.size or 0) > MAX_FILE_BYTES:
                raise ApiProblem(413, f"A file may have {MAX_FILE_BYTES} bytes, got {file.size}.")
            data = await file.read()
            name = file.filename or "upload"
        return JSONResponse(files.add(name, str(purpose), data, created=int(time.time())))

    @app.get("/v1/files")
    async def every(request: Request) -> Response:
        authorise(request)
        return JSONResponse(_page(files.list(), request))

    @app.get("/v1/files/{identity}")
    async def facts(request: Request, identity: str) -> Response:
        authorise(request)
        return JSONResponse(files.facts(identity))

    @app.get("/v1/files/{identity}/content")
    async def content(request: Request, identity: str) -> Response:
        authorise(request)
        return Response(files.read(identity), media_type="application/octet-stream")

    @app.delete("/v1/files/{identity}")
    async def remove(request: Request, identity: str) -> Response:
        authorise(request)
        files.remove(identity)
        return JSONResponse({"id": identity, "object": "file", "deleted": True})


def _read_lines(data: bytes, endpoint: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Lines of a batch file, and what is wrong with it (then nothing is run)."""
    lines: list[dict[str, Any]] = []
    problems: list[dict[str, Any]] = []
    seen: set[str] = set()
    texts = [text for text in data.decode(errors="replace").splitlines() if text.strip()]
    if not 1 <= len(texts) <= MAX_LINES:
        problems.append(_problem("invalid_file", f"1 to {MAX_LINES} lines, got {len(texts)}", None))
    for number, text in enumerate(texts, 1):
        try:
            line = parse_json(text.encode())
            identity, url, body = line["custom_id"], line["url"], line["body"]
        except (ValueError, KeyError, TypeError):
            message = "Each line is JSON with custom_id, method, url and body."
            problems.append(_problem("invalid_json_line", message, number))
            continue
        if url != endpoint or line.get("method") != "POST" or not isinstance(body, dict):
            problems.append(_problem("mismatched_endpoint", f"Expected POST {endpoint}.", number))
        elif not isinstance(identity, str) or identity in seen:
            problems.append(_problem("duplicate_custom_id", f"custom_id {identity!r}.", number))
        else:
            seen.add(identity)
            lines.append(line)
    return lines, problems[:100]


def _status(result: dict[str, Any]) -> int | None:
    """Status of a finished line, None for one that was never run."""
    return result["response"] and result["response"]["status_code"]


def _problem(code: str, message: str, line: int | None) -> dict[str, Any]:
    return {"code": code, "message": message, "param": None, "line": line}


def _load(root: Path, identity: str, kind: str) -> dict[str, Any]:
    # Ids come from clients: only our own alphabet reaches the file system.
    path = root / f"{identity}.json"
    if not identity.replace("_", "").replace("-", "").isalnum() or not path.is_file():
        raise ApiProblem(404, f"No such {kind}: {identity[:80]!r}", param="id")
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def _load_all(root: Path) -> list[dict[str, Any]]:
    facts = [json.loads(path.read_text(encoding="utf-8")) for path in root.glob("*.json")]
    return sorted(facts, key=lambda one: (-one["created_at"], one["id"]))


def _page(items: list[dict[str, Any]], request: Request) -> dict[str, Any]:
    """One page of a list by `after` and `limit`."""
    names = [item["id"] for item in items]
    after, limit = request.query_params.get("after"), request.query_params.get("limit", "20")
    if after is not None and after in names:
        items = items[names.index(after) + 1 :]
    count = int(limit) if limit.isdecimal() else 20
    page = items[:count]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(items) > count,
    }
