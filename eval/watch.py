"""A receiver of the Hub's webhooks: every new revision of a model is judged once, by a job.

What arrives may come from anybody: only messages with the secret count, only those about the
watched model's main branch, and only commits that changed more than scores and prose - else the
pull request with the scores of one revision would start the next job.
"""

import hmac
import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from echo4o.errors import Echo4oError
from echo4o.hub_errors import patiently
from echo4o.records import write_atomic

logger = logging.getLogger(__name__)

SECRET = "ECHO4O_WEBHOOK_SECRET"
_LARGEST = 1 << 20
_TIMEOUT_S = 30
_COMMIT = re.compile(r"[0-9a-f]{40}")
_UNCHANGING = (".eval_results/*", "*.md", ".gitattributes")


class Answer(NamedTuple):
    """What the Hub gets to hear."""

    status: int
    text: str


@dataclass(kw_only=True)
class Watcher:
    """Decides what a message means, and starts what it asks for."""

    model: str
    """`ORG/NAME`."""
    secret: str
    """Which the Hub sends along."""
    seen: Path
    """File of the commits for which a job was started."""
    start: Callable[[str], str]
    """Starts the judgement of a commit; returns what to call it."""

    def receive(self, secret: str, body: bytes) -> Answer:
        """Answer one message."""
        if not hmac.compare_digest(secret.encode(), self.secret.encode()):
            return Answer(403, "the secret is wrong")
        try:
            pushed = self._pushed(json.loads(body))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return Answer(400, "this is no message of the Hub")
        if pushed is None:
            return Answer(200, f"no new revision of {self.model}")
        old, new = pushed
        if new in self._known():
            return Answer(200, f"{new} is judged already")
        if old is not None and not self._is_changed(old, new):
            return Answer(200, f"{new} has the model of {old}")
        # Noted first: a start whose answer is lost must not be paid twice.
        self._note([*self._known(), new])
        try:
            name = self.start(new)
        except Echo4oError as error:
            self._note([one for one in self._known() if one != new])
            logger.warning("%s was not started: %s", new, error)
            return Answer(503, "the job could not be started")
        logger.info("%s of %s: %s", new, self.model, name)
        return Answer(202, f"{new} will be judged")

    def _pushed(self, message: dict[str, Any]) -> tuple[str | None, str] | None:
        """The old and new commit of main; None when the message is about something else."""
        repo, event = message["repo"], message["event"]
        if (repo["type"], repo["name"]) != ("model", self.model):
            return None
        if not str(event["scope"]).startswith("repo.content") or event["action"] == "delete":
            return None
        for ref in message.get("updatedRefs") or []:
            old, new = ref.get("oldSha"), ref.get("newSha")
            if ref["ref"] == "refs/heads/main" and _COMMIT.fullmatch(str(new)):
                return (old if _COMMIT.fullmatch(str(old)) else None), str(new)
        return None

    def _is_changed(self, old: str, new: str) -> bool:
        return self._files(old) != self._files(new)

    def _files(self, commit: str) -> set[tuple[str, str]]:
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        entries = patiently(
            f"list the files of {self.model}",
            lambda: [*HfApi().list_repo_tree(self.model, revision=commit, recursive=True)],
        )
        return {
            (one.path, str(one.blob_id))
            for one in entries
            if isinstance(one, RepoFile)
            and not any(fnmatchcase(one.path, pattern) for pattern in _UNCHANGING)
        }

    def _known(self) -> list[str]:
        return self.seen.read_text().split() if self.seen.is_file() else []

    def _note(self, commits: list[str]) -> None:
        write_atomic(self.seen, "".join(f"{one}\n" for one in commits))


def make_server(watcher: Watcher, host: str, port: int) -> HTTPServer:
    """A server that hands messages to a watcher, one at a time; 0 takes a free port."""

    class Receiver(BaseHTTPRequestHandler):
        timeout = _TIMEOUT_S

        def do_POST(self) -> None:
            size = self.headers.get("Content-Length", "")
            if not size.isdecimal() or int(size) > _LARGEST:
                answer = Answer(413, "the message is too large")
            else:
                secret = self.headers.get("X-Webhook-Secret", "")
                try:
                    answer = watcher.receive(secret, self.rfile.read(int(size)))
                except Echo4oError as error:  # the Hub cannot be asked now; it will send it again
                    logger.warning("%s", error)
                    answer = Answer(503, "try again later")
                except Exception:  # nobody knows whether it was started, so it is not repeated
                    logger.exception("a job may or may not have been started")
                    answer = Answer(500, "look at the log")
            self.send_response(answer.status)
            self.end_headers()
            self.wfile.write(answer.text.encode())

        def log_message(self, *words: object) -> None:
            """Say nothing of requests that anybody may send."""

    return HTTPServer((host, port), Receiver)
