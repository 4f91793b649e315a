"""The commit and preupload calls: which files go where, and what a list of operations does."""

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import NamedTuple

from echo4o.sandbox.hub.access import Repo
from echo4o.sandbox.hub.cards import read_card
from echo4o.sandbox.hub.errors import HubRefusal
from echo4o.sandbox.hub.names import SHA256, check_path
from echo4o.sandbox.hub.objects import Entry, Files, lfs_entry, regular_entry
from echo4o.sandbox.hub.store import Store

INLINE_LIMIT = 10 << 20
"""Largest file, in bytes, that may travel inside a commit."""

_SUFFIXES = (
    "7z arrow avif bin bz2 ckpt ftz gif gz h5 ico jpeg jpg joblib lz4 mlmodel mp3 mp4 msgpack npy "
    "npz onnx ot parquet pb pdf pickle pkl png pt pth rar safetensors tar tflite tgz wasm wav webm "
    "webp whl xz zip zst"
)
GITATTRIBUTES = "".join(
    f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in _SUFFIXES.split()
)


class Operation(NamedTuple):
    """One line of a commit: put (`entry` given) or delete (`entry` None) `path`."""

    path: str
    entry: Entry | None
    folder: bool = False


@dataclass(slots=True)
class Draft:
    """A commit as it was received; file contents are in the store already."""

    title: str = ""
    message: str = ""
    parent: str | None = None
    operations: list[Operation] = field(default_factory=list)


def upload_mode(patterns: list[str], path: str, size: int, sample: bytes) -> str:
    """`lfs` for large, binary and attributed files, else `regular`."""
    name = path.rpartition("/")[2]
    if any(fnmatchcase(path if "/" in pattern else name, pattern) for pattern in patterns):
        return "lfs"
    return "lfs" if size > INLINE_LIMIT or b"\0" in sample else "regular"


def lfs_patterns(store: Store, files: Files) -> list[str]:
    """The patterns that `.gitattributes` sends to LFS."""
    entry = files.get(".gitattributes")
    if entry is None or entry.size > 1 << 20:
        return []
    lines = store.blobs.read(entry.sha256).decode("utf-8", "replace").splitlines()
    return [line.split()[0] for line in lines if "filter=lfs" in line.split()[1:]]


def ignored_by(gitignore: str) -> Callable[[str], bool]:
    """A test of paths against a .gitignore; the last pattern that matches decides."""
    rules = []
    for line in gitignore.splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            keep = pattern.startswith("!")
            rules.append((_ignore_regex(pattern.removeprefix("!")), not keep))

    def ignored(path: str) -> bool:
        verdict = False
        for regex, ignore in rules:
            if regex.fullmatch(path):
                verdict = ignore
        return verdict

    return ignored


def _ignore_regex(pattern: str) -> re.Pattern[str]:
    # gitignore(5): a slash inside anchors the pattern, a final one means folders.
    anchored = "/" in pattern.rstrip("/")
    tail = "/.*" if pattern.endswith("/") else "(?:/.*)?"
    body = ""
    for token in re.split(r"(\*\*/|/\*\*|\*|\?)", pattern.strip("/")):
        special = {"**/": "(?:.*/)?", "/**": "/.*", "*": "[^/]*", "?": "[^/]"}
        body += special.get(token, re.escape(token))
    return re.compile(("" if anchored else "(?:.*/)?") + body + tail)


def read_line(store: Store, repo: Repo, draft: Draft, line: bytes) -> None:
    """Take one line of the ndjson body; contents are written to the store at once."""
    try:
        item = json.loads(line)
        key, value = item["key"], item["value"]
        if not isinstance(value, dict):
            raise TypeError
    except (ValueError, KeyError, TypeError) as error:
        raise HubRefusal(400, 'every line of a commit is {"key": ..., "value": {...}}') from error
    if key == "header":
        draft.title = str(value.get("summary") or "")
        draft.message = str(value.get("description") or "")
        parent = value.get("parentCommit")
        draft.parent = None if parent is None else str(parent)
    elif key == "file":
        draft.operations.append(_receive(store, value))
    elif key == "lfsFile":
        draft.operations.append(_link(store, repo, value))
    elif key in ("deletedFile", "deletedFolder"):
        path = str(value.get("path", "")).rstrip("/")
        draft.operations.append(Operation(check_path(path), None, key == "deletedFolder"))
    else:
        raise HubRefusal(501, f"The sandbox Hub does not support commit operations {key!r}.")


def _receive(store: Store, value: dict[str, object]) -> Operation:
    path = check_path(value.get("path"))
    content, encoding = value.get("content"), value.get("encoding", "utf-8")
    if not isinstance(content, str) or encoding not in ("base64", "utf-8"):
        raise HubRefusal(400, f"{path}: content must be text in base64 or utf-8")
    try:
        decoded = base64.b64decode(content, validate=True) if encoding == "base64" else None
    except binascii.Error as error:
        raise HubRefusal(400, f"{path}: the content is not valid base64") from error
    data = content.encode() if decoded is None else decoded
    if len(data) > INLINE_LIMIT:
        raise HubRefusal(413, f"{path}: {len(data)} bytes are too many for a commit; use LFS")
    store.blobs.put(data)
    return Operation(path, regular_entry(data))


def _link(store: Store, repo: Repo, value: dict[str, object]) -> Operation:
    path, oid = check_path(value.get("path")), str(value.get("oid"))
    if value.get("algo", "sha256") != "sha256" or not SHA256.fullmatch(oid):
        raise HubRefusal(400, f"{path}: the oid must be a sha256, got {oid!r:.80}")
    row = store.find("SELECT size FROM lfs WHERE repo = ? AND sha256 = ?", repo.uid, oid)
    if row is None:
        raise HubRefusal(400, f"LFS pointer pointed to a file that does not exist: {path} ({oid})")
    size = value.get("size", row["size"])
    if size != row["size"]:
        raise HubRefusal(400, f"{path}: {oid} has {row['size']} bytes, not {size}")
    return Operation(path, lfs_entry(oid, row["size"]))


def apply(before: Files, operations: Iterable[Operation]) -> dict[str, Entry]:
    """The files after the operations, in order."""
    files = dict(before)
    for path, entry, folder in operations:
        if entry is not None:
            files[path] = entry
            continue
        inside = [name for name in files if name.startswith(path + "/")] if folder else []
        doomed = inside or [name for name in (path,) if name in files and not folder]
        if not doomed:
            raise HubRefusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        for name in doomed:
            del files[name]
    _refuse_file_as_folder(files)
    return files


def _refuse_file_as_folder(files: Files) -> None:
    for path in files:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            if "/".join(parts[:depth]) in files:
                raise HubRefusal(400, f"{'/'.join(parts[:depth])} is a file and a folder of {path}")


def check_readme(store: Store, repo: Repo, before: Files, after: Files) -> None:
    """Refuse a commit that brings a README.md with broken metadata."""
    entry = after.get("README.md")
    if entry is None or entry == before.get("README.md") or entry.size > INLINE_LIMIT:
        return
    card = read_card(store.blobs.read(entry.sha256).decode("utf-8", "replace"), repo.kind)
    if card.errors:
        raise HubRefusal(400, "Invalid metadata in README.md: " + "; ".join(card.errors))
