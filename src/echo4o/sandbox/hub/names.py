"""Checks of everything that names something: repos, files, branches, tags.

Names never become paths on disk (content is stored by hash), but clients write them to theirs.
"""

import re
import unicodedata

from echo4o.sandbox.hub.errors import HubRefusal

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
URL_PREFIX = {"model": "", "dataset": "datasets/", "space": "spaces/"}
RESERVED = frozenset({"api", "datasets", "healthz", "lfs", "models", "spaces"})

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_REF_PART = re.compile(r"[A-Za-z0-9_+=-][A-Za-z0-9_.+=-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")


def check_name(name: object, what: str) -> str:
    """A user, organisation or repo name as the real Hub allows it, or 400."""
    if (
        not isinstance(name, str)
        or not _NAME.fullmatch(name)
        or "--" in name
        or ".." in name
        or name.endswith(".git")
        or name.lower() in RESERVED
    ):
        raise HubRefusal(
            400,
            f"{name!r} is not a valid {what}: use 1 to 96 letters, digits, '-', '_' and '.', "
            "start and end with a letter or digit, without '--', '..' or a final '.git'.",
        )
    return name


def check_path(path: object) -> str:
    """A file path inside a repo: relative, printable, without `.`, `..` or `.git`, or 400."""
    if not isinstance(path, str) or not path or len(path) > 2048:
        raise HubRefusal(400, f"a file path must be 1 to 2048 characters, got {path!r:.100}")
    for part in path.split("/"):
        if part in ("", ".", "..", ".git") or len(part.encode("utf-8", "surrogatepass")) > 255:
            raise HubRefusal(400, f"the path {path!r} has the forbidden part {part!r:.60}")
    if "\\" in path or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in path):
        raise HubRefusal(400, f"the path {path!r} has a control character or a backslash")
    return path


def check_ref(name: object, what: str) -> str:
    """A branch or tag name that cannot be taken for a commit id or another ref, or 400."""
    if (
        not isinstance(name, str)
        or len(name) > 200
        or name.startswith("refs/")
        or _COMMIT.fullmatch(name)
        or not all(
            _REF_PART.fullmatch(part) and ".." not in part and not part.endswith((".", ".lock"))
            for part in name.split("/")
        )
    ):
        raise HubRefusal(400, f"{name!r:.220} is not a valid {what} name")
    return name
