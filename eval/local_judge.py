"""A judge on this machine: a vision-language model through transformers, asked as an API is.

Replies are kept in the ledger like bought ones, at no cost. Decoding is greedy, so the same weights
say the same about the same picture; a JSON schema is not enforced, the protocol reads what comes.
"""

import asyncio
import io
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from PIL import Image

from echo4o.client import ChatRequest, Reply
from echo4o.errors import Echo4oError
from echo4o.ledger import Ledger

from .painters import ModelIdentity, identify

if TYPE_CHECKING:
    from transformers import AutoModelForImageTextToText, AutoProcessor

logger = logging.getLogger(__name__)

PREFIX = "local:"
DETECTOR = "detector:"
"""Prefix of judges that find objects; see `geneval_judge`."""
CLIP = "openai/clip-vit-large-patch14"
"""What names colours for a detector when nothing else is said."""
_LONGEST_REPLY = 1024


def split_revision(name: str) -> tuple[str, str | None]:
    """Return the parts of NAME[@REVISION]; a folder has none, whatever it is called."""
    if Path(name).is_dir():
        return name, None
    source, _, revision = name.partition("@")
    return source, revision or None


def pinned(identity: ModelIdentity) -> str:
    """Return a model's name with the start of what pins its weights."""
    return f"{identity.id}@{(identity.revision or identity.sha256 or '')[:12]}"


@dataclass(slots=True)
class _Waiting:
    request: ChatRequest
    reply: asyncio.Future[str] = field(default_factory=lambda: asyncio.Future())


class LocalJudge:
    """Answers chat requests in batches; use it as an asynchronous context manager.

    Args:
        name: Hub id or folder of a vision-language model, after `local:`.
        ledger: Where replies are kept.
        batch_size: Questions answered at once.
        workers: Threads that answer, each a batch of its own.

    Raises:
        Echo4oError: there is no such model, or it is none that answers questions about pictures.
    """

    def __init__(self, name: str, *, ledger: Ledger, batch_size: int = 8, workers: int = 1) -> None:
        self._source, revision = split_revision(name.removeprefix(PREFIX))
        identity = identify(self._source, revision)
        self._revision = identity.revision
        self.model = f"{PREFIX}{pinned(identity)}"
        """Name of the judge with what pins its weights; part of every content key."""
        self.calls_made = 0
        """Questions that the model answered now."""
        self._ledger = ledger
        self._batch_size = batch_size
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._workers = workers
        self._tasks: list[asyncio.Task[None]] = []
        self._asked: dict[str, asyncio.Future[str]] = {}
        """Questions that are being answered, by key: equal ones are one question."""
        self._parts: tuple[AutoModelForImageTextToText, AutoProcessor] | None = None

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._workers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def chat(self, request: ChatRequest, *, ahead: bool = False) -> Reply:
        """One answer, from the ledger when it was given before; all wait alike, as batches fill.

        The same words about the same picture, asked again, get the same answer: it is given once.
        """
        del ahead
        if request.repeat:
            request = replace(request, repeat=0)
        entry = self._ledger.find(request.key)
        if entry is None or entry.state != "done":
            await self._reply_to(request)
            entry = self._ledger.find(request.key)
        assert entry is not None
        return Reply(
            outcome="done",
            text=entry.text,
            model=entry.answered_by or request.model,
            usage=entry.usage,
            created=entry.created,
            attempts=entry.attempts,
        )

    async def _reply_to(self, request: ChatRequest) -> None:
        """Wait until a question is answered; equal ones at once are one question."""
        if request.key not in self._asked:
            waiting = _Waiting(request)
            self._asked[request.key] = waiting.reply
            self._queue.put_nowait(waiting)
        try:
            await asyncio.shield(self._asked[request.key])
        finally:
            self._asked.pop(request.key, None)

    async def _work(self) -> None:
        while True:
            batch = [await self._queue.get()]
            await asyncio.sleep(0)  # whoever is ready to ask does so now
            while len(batch) < self._batch_size and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            requests = [one.request for one in batch]
            try:
                texts = await asyncio.to_thread(self._answer, requests)
                self._keep(requests, texts)
            except Exception as error:
                for one in batch:
                    one.reply.set_exception(error)
                continue
            for one in batch:
                one.reply.set_result("")

    def _keep(self, requests: list[ChatRequest], texts: list[str]) -> None:
        from datetime import UTC, datetime

        for request, text in zip(requests, texts, strict=True):
            entry = self._ledger.find(request.key)
            if entry is not None and entry.state == "done":
                continue
            self.calls_made += 1
            self._ledger.reserve(
                request.key, kind="chat", model=request.model, request=request.record, price_usd=0
            )
            self._ledger.settle(
                request.key,
                "done",
                cost_usd=0,
                attempts=1,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                answered_by=self.model,
                text=text,
            )

    def _answer(self, requests: list[ChatRequest]) -> list[str]:
        import torch

        model, processor = self._load()
        inputs = processor.apply_chat_template(
            [_messages(request) for request in requests],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        ).to(model.device, model.dtype)
        longest = max(request.max_tokens or _LONGEST_REPLY for request in requests)
        with torch.inference_mode():
            made = model.generate(**inputs, do_sample=False, max_new_tokens=longest)
        new = made[:, inputs["input_ids"].shape[1] :]
        limits = [request.max_tokens or _LONGEST_REPLY for request in requests]
        texts: list[str] = processor.batch_decode(
            [row[:limit] for row, limit in zip(new, limits, strict=True)], skip_special_tokens=True
        )
        return texts

    def _load(self) -> tuple[Any, Any]:
        if self._parts is None:
            import torch
            from transformers import AutoModelForImageTextToText, AutoProcessor

            try:
                processor = AutoProcessor.from_pretrained(self._source, revision=self._revision)
                model = AutoModelForImageTextToText.from_pretrained(
                    self._source, revision=self._revision, dtype="auto"
                )
            except (OSError, ValueError, KeyError) as error:
                raise Echo4oError(
                    f"{self._source} is no vision-language model that transformers can load as a "
                    f"judge ({str(error).splitlines()[0]})"
                ) from error
            if not getattr(processor, "chat_template", None):
                raise Echo4oError(
                    f"{self._source} has no chat template, so it cannot be asked; choose a model "
                    "that was made for conversation"
                )
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self._parts = (model.to(device).eval(), processor)
        return self._parts


def _messages(request: ChatRequest) -> list[dict[str, Any]]:
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": Image.open(io.BytesIO(part)).convert("RGB")}
        for part in request.user
    ]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if request.system is not None:
        said = {"role": "system", "content": [{"type": "text", "text": request.system}]}
        messages.insert(0, said)
    return messages
