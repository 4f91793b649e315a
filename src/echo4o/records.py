"""The run record: what an artefact was made from, how, when and on what; JSON beside the artefact.

Also the one atomic way to write a file; writers of shards rename theirs.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias

from .errors import Echo4oError

JsonValue: TypeAlias = (
    None | bool | int | float | str | list["JsonValue"] | tuple["JsonValue", ...]
) | dict[str, "JsonValue"]

RECORD_NAME = "record.json"
_LIBRARIES = (
    "accelerate",
    "datasets",
    "diffusers",
    "echo4o",
    "gradio",
    "huggingface_hub",
    "numpy",
    "openai",
    "peft",
    "pillow",
    "pyarrow",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)


class RecordError(Echo4oError):
    """A record is missing, is not JSON, or lacks a field."""


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file or nothing, as `whole_file` does."""
    with whole_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes its place at the end, or never: temporary file, fsync, rename.

    Parent folders are made.

    Raises:
        OSError: the disk is full or the folder may not be written; the old file is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; artefacts get the permissions of an ordinary new file.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut (does nothing where folders cannot open)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of `data` as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file as 64 hex digits, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def environment() -> dict[str, str]:
    """Python, platform and the versions of the installed libraries (imports none of them)."""
    # Not platform.platform(): the build of the kernel tells of the machine, not of the result.
    libc = "".join(platform.libc_ver())
    system = "-".join(part for part in (platform.system(), platform.machine(), libc) if part)
    found = {"python": platform.python_version(), "platform": system}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """Something an artefact was made from."""

    kind: str
    """`dataset`, `model`, `plan`, `items`, `folder`, ..."""
    id: str
    """Hub id, or the name (never the absolute path) of a local folder or file."""
    revision: str | None = None
    """Commit of the Hub repository."""
    sha256: str | None = None
    """Hash of the content, for files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """How one artefact came to be; saved as `record.json` beside it."""

    name: str
    """What was made, for example `echo-4o-image`."""
    command: str
    """The verb that made it, for example `echo4o data build`."""
    inputs: tuple[Input, ...] = ()
    """What it was made from."""
    parameters: dict[str, JsonValue] = dataclasses.field(default_factory=dict)
    """Every setting that changes the result; never a key or token."""
    seed: int | None = None
    """Random seed, when there is one."""
    environment: dict[str, str] = dataclasses.field(default_factory=environment)
    """Versions it was made with."""
    metrics: dict[str, JsonValue] = dataclasses.field(default_factory=dict)
    """What was counted or measured."""
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    """Relative file name -> SHA-256."""
    started: str = ""
    """Start time, ISO 8601, UTC."""
    seconds: float = 0.0
    """Wall-clock duration."""

    def save(self, folder_or_file: Path) -> Path:
        """Write the record atomically; a folder gets `record.json`. Returns the file."""
        path = _record_path(folder_or_file)
        content = json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, ensure_ascii=True)
        write_atomic(path, content + "\n")
        return path

    @classmethod
    def load(cls, folder_or_file: Path) -> "RunRecord":
        """Read a record back.

        Raises:
            RecordError: there is no such file, or it is not a record.
        """
        path = _record_path(folder_or_file)
        try:
            fields = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise RecordError(f"no record at {path}; run the command that makes it first") from None
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{path} is not JSON ({error}); make the artefact again") from None
        return _from_fields(fields, path)


def refuse_foreign(folder: Path, *nouns: str) -> None:
    """Refuse a folder that holds what other verbs made; writing there would take its record away.

    Args:
        folder: Where something is about to be written, or taken from.
        nouns: Whose verbs may have written the record: `data`, `model`, `train`, `eval`.

    Raises:
        RecordError: a verb of another noun wrote the record in it.
    """
    try:
        command = RunRecord.load(folder).command
    except RecordError:
        return  # none, or none of ours
    if command.startswith("echo4o ") and command.split()[1] not in nouns:
        raise RecordError(f"{folder} holds what `{command}` made; give another folder")


def _record_path(folder_or_file: Path) -> Path:
    return folder_or_file if folder_or_file.suffix == ".json" else folder_or_file / RECORD_NAME


def _from_fields(fields: object, path: Path) -> RunRecord:
    names = {field.name for field in dataclasses.fields(RunRecord)}
    if not isinstance(fields, dict) or set(fields) != names:
        found = sorted(fields) if isinstance(fields, dict) else type(fields).__name__
        raise RecordError(f"{path} is not a run record: its fields are {found}")
    for name, kind in _KINDS.items():
        if not isinstance(fields[name], kind):
            raise RecordError(f"{path} is not a run record: `{name}` is {fields[name]!r:.60}")
    for name, digest in fields["files"].items():
        # A record may come from a stranger, and its names become paths.
        if not isinstance(digest, str) or name.startswith("/") or ".." in name.split("/"):
            raise RecordError(f"{path} is not a run record: `files` has {name!r:.60}")
    try:
        inputs = tuple(Input(**entry) for entry in fields["inputs"])
    except TypeError as error:
        raise RecordError(f"{path} is not a run record: `inputs`: {error}") from None
    return RunRecord(**{**fields, "inputs": inputs})


_KINDS = {
    **dict.fromkeys(("name", "command", "started"), str),
    **dict.fromkeys(("parameters", "environment", "metrics", "files"), dict),
    "inputs": list,
}
