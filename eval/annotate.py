"""A page for people who judge a run's pictures: blind, by keyboard, two raters, adjudication.

A server for this machine only. Its address holds a secret, so that no other user and no other page
of the browser can read or vote; pictures are chosen by key, never by path.
"""

import json
import logging
import random
import secrets
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from echo4o.errors import Echo4oError
from echo4o.pictures import PictureError, sniff_mime

from .pictures import load_picture
from .report_extras import references_of
from .runs import kept_items, load_run
from .tasks import get_task
from .votes import ADJUDICATOR, Shown, Votes, all_votes, is_disputed, shown_pictures

logger = logging.getLogger(__name__)

_TEMPLATES = Path(__file__).parent / "templates"
_FILES = {
    "": ("annotate.html", "text/html"),
    "annotate.js": ("annotate.js", "text/javascript"),
    "annotate.css": ("annotate.css", "text/css"),
}
_LONGEST_BODY = 4_096
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Refused(Exception):
    """A request that is not answered; `status` says why."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Desk:
    """What the page asks for: queues, disputes, pictures, votes. One lock; no HTTP here."""

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder
        run = load_run(run_folder)
        self._task = get_task(run.task)
        self._shown = {one.key: one for one in shown_pictures(run_folder, run)}
        if not self._shown:
            raise Echo4oError(f"the run {run_folder} has no pictures to look at")
        self._items = kept_items(run_folder, run)
        self._references = references_of([run_folder], [run])
        self._lock = threading.Lock()

    def start(self) -> dict[str, Any]:
        """Return what the page needs to begin: title, kind and highest mark, how many pictures."""
        sheet = next(iter(self._shown.values())).sheet
        return {
            "title": self._task.title,
            "has_lines": bool(sheet.lines),
            "most": sheet.most,
            "pictures": len(self._shown),
        }

    def queue(self, rater: str) -> list[dict[str, Any]]:
        """Return all pictures in the rater's own order, with the rater's own votes only."""
        if rater == ADJUDICATOR:
            raise Refused(HTTPStatus.BAD_REQUEST, f"{rater!r} is kept for the last word")
        with self._lock:
            votes = self._votes(rater)
            order = list(self._shown.values())
            random.Random(rater).shuffle(order)
            return [self._card(one, votes) for one in order]

    def disputes(self) -> list[dict[str, Any]]:
        """Return the pictures on which raters disagree, their votes without names."""
        with self._lock:
            raters = all_votes(self._folder)
            last_word = self._votes(ADJUDICATOR)
            found = []
            for one in self._shown.values():
                given = [vote for rater in raters if (vote := rater.of(one)) is not None]
                if is_disputed(one, given):
                    said = sorted(vote.marks for vote in given)
                    found.append({**self._card(one, last_word), "said": said})
            return found

    def vote(self, rater: str, key: str, marks: object) -> dict[str, Any]:
        """Keep a vote; it is on the disk before the page hears of it."""
        shown = self._shown.get(key)
        if shown is None:
            raise Refused(HTTPStatus.NOT_FOUND, f"there is no picture {key!r:.40}")
        sheet = shown.sheet
        if not isinstance(marks, list) or not sheet.allows(marks):
            count = len(sheet.lines) or 1
            raise Refused(
                HTTPStatus.BAD_REQUEST,
                f"`marks` must be {count} whole numbers from 0 to {sheet.most}",
            )
        with self._lock:
            # Read anew: the same rater may have two windows.
            vote = self._votes(rater).cast(shown, marks)
        return {"key": key, "marks": list(vote.marks)}

    def picture(self, key: str) -> bytes:
        """Return a picture's bytes, upright and in a form that browsers show."""
        shown = self._shown.get(key)
        if shown is None:
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such picture")
        return _for_browsers(shown.path)

    def reference(self, key: str, place: str) -> bytes:
        """Return the bytes of one of a picture's references, counted from 0."""
        shown = self._shown.get(key)
        files = [] if shown is None else self._references.get(shown.verdict.number, [])
        if not (place.isdecimal() and place.isascii() and int(place) < len(files)):
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such reference")
        return _for_browsers(Path(files[int(place)]))

    def _card(self, shown: Shown, votes: Votes) -> dict[str, Any]:
        item = self._items.get(shown.verdict.number)
        vote = votes.of(shown)
        return {
            "key": shown.key,
            "prompt": shown.verdict.prompt,
            "note": "" if item is None else item.note,
            "checklist": list(shown.sheet.checklist),
            "lines": list(shown.sheet.lines),
            "references": len(self._references.get(shown.verdict.number, ())),
            "marks": None if vote is None else list(vote.marks),
        }

    def _votes(self, rater: str) -> Votes:
        try:
            return Votes.open(self._folder, rater)
        except Echo4oError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from error


def _for_browsers(path: Path) -> bytes:
    try:
        return load_picture(path).data
    except (PictureError, OSError) as error:
        raise Refused(HTTPStatus.NOT_FOUND, str(error)) from error


def make_server(run_folder: Path, port: int) -> tuple[ThreadingHTTPServer, str]:
    """Return a server on the loopback address, and the page's address with its secret.

    Raises:
        Echo4oError: there is no run, or it has no pictures.
        OSError: the port is taken.
    """
    desk, secret = Desk(run_folder), secrets.token_urlsafe(24)

    class Handler(_Handler):
        """Requests to this desk."""

        answers = _routes(desk)
        prefix = f"/{secret}/"

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    Handler.port = server.server_port
    server.daemon_threads = True
    return server, f"http://127.0.0.1:{server.server_port}/{secret}/"


def _routes(desk: Desk) -> Mapping[str, Callable[[Mapping[str, Any]], Any]]:
    return {
        "start": lambda asked: desk.start(),
        "queue": lambda asked: desk.queue(str(asked.get("rater", ""))),
        "disputes": lambda asked: desk.disputes(),
        "picture": lambda asked: desk.picture(str(asked.get("key", ""))),
        "reference": lambda asked: desk.reference(
            str(asked.get("key", "")), str(asked.get("place", ""))
        ),
        "vote": lambda asked: desk.vote(
            str(asked.get("rater", "")), str(asked.get("key", "")), asked.get("marks")
        ),
    }


class _Handler(BaseHTTPRequestHandler):
    """Checks who asks, then answers from the desk or the three files of the page."""

    answers: Mapping[str, Callable[[Mapping[str, Any]], Any]]
    prefix: str
    port: int
    server_version = "echo4o"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:
        """Answer a question."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Take a vote."""
        self._answer(self._post)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: addresses hold the secret."""

    def _answer(self, action: Callable[[str], tuple[bytes, str]]) -> None:
        try:
            body, kind = action(self._name())
            self._send(HTTPStatus.OK, body, kind)
        except Refused as refused:
            self._send(refused.status, json.dumps({"error": str(refused)}).encode(), _JSON)
        except ConnectionError:
            logger.debug("the browser went away")
        except OSError as error:  # a full disk: the page says that the vote was not kept
            said = json.dumps({"error": f"not kept: {error.strerror}"}).encode()
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, said, _JSON)

    def _name(self) -> str:
        """Return what is asked for, once the caller has shown that it is our page."""
        hosts = {f"{name}:{self.port}" for name in ("127.0.0.1", "localhost")}
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if host not in hosts or origin not in (None, f"http://{host}"):
            raise Refused(HTTPStatus.FORBIDDEN, "this page is for this machine only")
        path = urlsplit(self.path).path
        given, secret = path[: len(self.prefix)].encode(), self.prefix.encode()
        if not secrets.compare_digest(given, secret):
            raise Refused(HTTPStatus.NOT_FOUND, "use the address that the command printed")
        return path[len(self.prefix) :]

    def _get(self, name: str) -> tuple[bytes, str]:
        if name in _FILES:
            file, kind = _FILES[name]
            return (_TEMPLATES / file).read_bytes(), f"{kind}; charset=utf-8"
        if name not in self.answers or name == "vote":
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such page")
        query = parse_qs(urlsplit(self.path).query)
        found = self.answers[name]({key: values[0] for key, values in query.items()})
        if isinstance(found, bytes):
            return found, sniff_mime(found) or "application/octet-stream"
        return json.dumps(found).encode(), _JSON

    def _post(self, name: str) -> tuple[bytes, str]:
        if name != "vote":
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such page")
        # A form of another page can send neither this type nor, without the address, anything.
        if self.headers.get("Content-Type") != "application/json":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send application/json")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _LONGEST_BODY:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {_LONGEST_BODY} bytes")
        try:
            asked = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise Refused(HTTPStatus.BAD_REQUEST, "the body is no JSON") from error
        if not isinstance(asked, dict):
            raise Refused(HTTPStatus.BAD_REQUEST, "the body must be an object")
        return json.dumps(self.answers[name](asked)).encode(), _JSON

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


_JSON = "application/json"
