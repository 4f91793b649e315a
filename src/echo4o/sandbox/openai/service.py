"""Runs one operation, whether it came over HTTP or as a line of a batch."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from ..faults import Faults, OutcomeFault
from .bills import Bills
from .chat import CHAT_MODELS, complete
from .content import Content, content_of
from .images import IMAGE_MODELS, make_pictures, open_picture
from .problems import ApiProblem, bad
from .reading import edit_line

MODELS = (*IMAGE_MODELS, *CHAT_MODELS)


@dataclass(frozen=True, slots=True)
class Job:
    """One operation with everything it needs."""

    endpoint: str
    body: dict[str, Any]
    content: Content
    faults: Faults
    bills: Bills
    in_batch: bool = False

    def outcome(self, *kinds: OutcomeFault) -> OutcomeFault | None:
        """What the service is to do wrong with this content."""
        return self.faults.outcome(self.content.key, kinds=kinds)

    def charge(self, text: int, images: int, output: int) -> None:
        """Put the call on the bill."""
        self.bills.charge(
            self.content,
            endpoint=self.endpoint,
            model=str(self.body["model"]),
            tokens=(text, images, output),
            batch=self.in_batch,
        )


class Service:
    """The operations of the API."""

    def __init__(self, bills: Bills) -> None:
        self.bills = bills
        self.faults = Faults()

    def job(
        self,
        endpoint: str,
        body: dict[str, Any],
        *,
        client_key: str | None = None,
        is_lost: bool = False,
        in_batch: bool = False,
        pictures: tuple[bytes, ...] = (),
    ) -> Job:
        """A job with its content key; `pictures` are the uploads of an edit."""
        parameters = dict(body)
        if pictures:
            parameters["image"] = [hashlib.sha256(data).hexdigest() for data in pictures]
        content = content_of(endpoint, parameters, client_key, is_lost=is_lost)
        return Job(endpoint, body, content, self.faults, self.bills, in_batch)

    def generate(self, job: Job) -> dict[str, Any]:
        """/v1/images/generations."""
        _check_model(job.body, IMAGE_MODELS)
        return make_pictures(job, [])

    def edit(self, job: Job, references: list[Image.Image]) -> dict[str, Any]:
        """/v1/images/edits."""
        _check_model(job.body, IMAGE_MODELS)
        return make_pictures(job, references)

    def chat(self, job: Job) -> dict[str, Any]:
        """/v1/chat/completions."""
        _check_model(job.body, CHAT_MODELS)
        return complete(job)

    def operation(self, endpoint: str) -> Callable[[Job], dict[str, Any]] | None:
        """The operation that a batch may name, None for others."""
        return {
            "/v1/images/generations": self.generate,
            "/v1/images/edits": self._edit_line,
            "/v1/chat/completions": self.chat,
        }.get(endpoint)

    def _edit_line(self, job: Job) -> dict[str, Any]:
        body, pictures = edit_line(job.body)
        references = [open_picture(data, "images") for data in pictures]
        return self.edit(replace(job, body=body), references)


def _check_model(body: dict[str, Any], allowed: tuple[str, ...]) -> None:
    model = body.get("model")
    if not isinstance(model, str):
        raise bad("model", "you must provide a model parameter", "missing_required_parameter")
    if model not in MODELS:
        message = f"The model `{model}` does not exist or you do not have access to it."
        raise ApiProblem(404, message, code="model_not_found")
    if model not in allowed:
        raise bad("model", f"The model {model} cannot be used with this endpoint.", "invalid_model")
