"""What a folder would publish: its files with their hashes, and how a repo differs from them.

Refused are secrets, links out of the folder, names that other systems cannot hold, and the one file
name that stops `datasets` from loading a repo. Reads the disk only; `hub.py` does the publishing.
"""

import hashlib
import logging
import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .errors import Echo4oError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

logger = logging.getLogger(__name__)

_SKIPPED_FOLDERS = frozenset({".git", "__pycache__", ".ipynb_checkpoints"})
_SKIPPED_FILES = ("*.pyc", ".DS_Store", "Thumbs.db")
_SECRET_NAMES = (
    ".env", ".env.*", ".envrc", ".netrc", "_netrc", ".pypirc", ".npmrc", ".git-credentials",
    "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "*.pem", "*.p12", "*.pfx", "*.keystore",
    "stored_tokens", "hf_token*", "token", "token.txt", "credentials.json",
)  # fmt: skip
_SECRET_TEXT = re.compile(
    rb"\bhf_[A-Za-z]{34}\b|\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{40,}|\bAKIA[0-9A-Z]{16}\b"
    rb"|\bgh[pousr]_[A-Za-z0-9]{36}\b|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_SECRET_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY")
_SCAN_BYTES = 8 << 20
_GIT_BYTES = 16 << 20
_CHUNK = 1 << 20


class RefusedFileError(Echo4oError):
    """A file in the folder must not be published."""


class LocalFile(NamedTuple):
    """One file to publish.

    `git_id` is its git blob id, for files small enough (16 MiB) to be stored outside LFS.
    """

    path: Path
    size: int
    sha256: str
    git_id: str | None


class Changes(NamedTuple):
    """The way from a revision of a repo to the content of the folder; false when there is none."""

    send: tuple[str, ...]
    delete: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.send or self.delete)

    @property
    def names(self) -> tuple[str, ...]:
        """Every path that differs."""
        return self.send + self.delete


def take_inventory(folder: Path, repo_id: str, repo_type: str) -> dict[str, LocalFile]:
    """Hash every file below `folder`; the keys are paths in the repo, sorted.

    Version control, caches of the Hub client and bytecode are left out.

    Raises:
        RefusedFileError: a file must not be published; the message names it and the remedy.
        Echo4oError: there is no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise Echo4oError(f"there is no folder {folder}; build it first")
    paths = {path.relative_to(folder).as_posix(): path for path in _walk(folder)}
    if not paths:
        raise Echo4oError(f"the folder {folder} has no files to publish")
    for name in sorted(paths):
        _refuse_name(name, repo_id, repo_type)
    secrets = _known_secrets()
    return {name: _read(name, paths[name], secrets) for name in sorted(paths)}


def digest(files: Mapping[str, LocalFile]) -> str:
    """One hash of names and contents, to recognise the same folder again."""
    lines = [f"{file.sha256} {name}\n" for name, file in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def compare(
    files: Mapping[str, LocalFile], remote: "Mapping[str, RepoFile]", keep: tuple[str, ...]
) -> Changes:
    """What a repo lacks and what it has too much; extra files matching `keep` may stay."""
    send = tuple(name for name, file in files.items() if not _same(file, remote.get(name)))
    extra = (
        name
        for name in sorted(remote.keys() - files.keys())
        if not any(fnmatchcase(name, pattern) for pattern in keep)
    )
    return Changes(send, tuple(extra))


def _same(local: LocalFile, remote: "RepoFile | None") -> bool:
    if remote is None:
        return False
    if remote.lfs is not None:
        return bool(remote.lfs.sha256 == local.sha256)
    return bool(remote.blob_id == local.git_id)


def space_sdk(folder: Path) -> str:
    """The sdk that a Space's README.md names: gradio, docker or static."""
    readme = folder / "README.md"
    text = readme.read_text("utf-8") if readme.is_file() else ""
    front = text.partition("---\n")[2].partition("\n---")[0]
    found = re.search(r"^sdk:\s*[\"']?(gradio|docker|static)\b", front, re.M)
    if found is None:
        raise Echo4oError(f"{readme} must name the sdk in its front matter, such as sdk: gradio")
    return found[1]


def _walk(folder: Path) -> Iterator[Path]:
    root = folder.resolve()
    for place, folders, names in os.walk(folder):
        here = Path(place)
        cache = here.name == ".cache" and "huggingface" in folders
        folders[:] = sorted(set(folders) - _SKIPPED_FOLDERS - ({"huggingface"} if cache else set()))
        for name in folders:
            if (here / name).is_symlink():
                raise RefusedFileError(
                    f"{here / name} is a link to a folder; put the folder itself in its place"
                )
        for name in sorted(names):
            if not any(fnmatchcase(name, pattern) for pattern in _SKIPPED_FILES):
                yield _regular_file(here / name, root)


def _regular_file(path: Path, root: Path) -> Path:
    if path.is_symlink():
        target = os.readlink(path)
        if os.path.isabs(target) or not path.resolve().is_relative_to(root):
            raise RefusedFileError(
                f"{path} is a link to {target}, outside the folder; put the file in its place"
            )
    if not path.exists() or not stat.S_ISREG(path.stat().st_mode):
        raise RefusedFileError(f"{path} is not a regular file; remove it")
    return path


def _refuse_name(name: str, repo_id: str, repo_type: str) -> None:
    parts = name.split("/")
    if repo_type == "dataset" and name == f"{repo_id.rpartition('/')[2]}.py":
        raise RefusedFileError(
            f"{name} beside the data makes `datasets` refuse the whole repo (it looks like a "
            "loading script); rename or remove it"
        )
    if any(fnmatchcase(parts[-1].lower(), pattern) for pattern in _SECRET_NAMES):
        raise RefusedFileError(f"{name} looks like a file of secrets; keep it out of the folder")
    if "\\" in name or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        raise RefusedFileError(f"{name!r} has a backslash, a control character or broken Unicode")
    if ".." in parts or any(len(part.encode()) > 255 for part in parts):
        raise RefusedFileError(f"the name {name!r} is too long or has '..'; rename the file")


def _known_secrets() -> list[bytes]:
    values = [os.environ.get(name, "") for name in _SECRET_VARIABLES]
    return [value.encode() for value in values if len(value) >= 8]


def _read(name: str, path: Path, secrets: list[bytes]) -> LocalFile:
    size = path.stat().st_size
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    count = 0
    with path.open("rb") as file:
        while chunk := file.read(_SCAN_BYTES if size <= _SCAN_BYTES else _CHUNK):
            sha256.update(chunk)
            count += len(chunk)
            if size <= _GIT_BYTES:
                git.update(chunk)
            if size <= _SCAN_BYTES:
                _refuse_secret(name, chunk, secrets)
    if count != size:
        raise Echo4oError(f"{path} changed while it was read; wait until it is finished")
    return LocalFile(
        path, size, sha256.hexdigest(), git.hexdigest() if size <= _GIT_BYTES else None
    )


def _refuse_secret(name: str, data: bytes, secrets: list[bytes]) -> None:
    # The text itself is never shown: messages end up in logs.
    if any(secret in data for secret in secrets) or (
        b"\0" not in data[:1024] and _SECRET_TEXT.search(data)
    ):
        raise RefusedFileError(f"{name} contains an access token or private key; remove it")
