"""Git's view of a repo's files: blob, pointer and tree ids, computed as git computes them."""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple


class Entry(NamedTuple):
    """One file of a tree; `oid` is the git blob id of the file or of its LFS pointer."""

    sha256: str
    oid: str
    size: int
    lfs: bool


Files = Mapping[str, Entry]


def git_id(kind: str, body: bytes) -> str:
    """Sha1 of a git object."""
    return hashlib.sha1(b"%s %d\0" % (kind.encode(), len(body)) + body).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    """The text that git stores in place of a large file (git-lfs specification, version 1)."""
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return text.encode()


def lfs_entry(sha256: str, size: int) -> Entry:
    """The entry of a large file."""
    return Entry(sha256, git_id("blob", pointer(sha256, size)), size, True)


def regular_entry(data: bytes) -> Entry:
    """The entry of a small file."""
    return Entry(hashlib.sha256(data).hexdigest(), git_id("blob", data), len(data), False)


def folders(files: Files) -> dict[str, str]:
    """Tree id of every folder, by path; the root is the empty path."""
    children: dict[str, dict[str, tuple[bytes, str]]] = {"": {}}
    for path, entry in files.items():
        parts = path.split("/")
        for depth in range(1, len(parts)):
            children.setdefault("/".join(parts[:depth]), {})
        children["/".join(parts[:-1])][parts[-1]] = (b"100644", entry.oid)
    ids: dict[str, str] = {}
    # Deepest first: a folder's id needs those of the folders inside.
    for folder in sorted(children, key=lambda path: path.count("/") if path else -1, reverse=True):
        ids[folder] = _tree_id(children[folder])
        if folder:
            parent, _, name = folder.rpartition("/")
            children[parent][name] = (b"40000", ids[folder])
    return ids


def _tree_id(children: Mapping[str, tuple[bytes, str]]) -> str:
    def order(item: tuple[str, tuple[bytes, str]]) -> bytes:
        name, (mode, _) = item
        return name.encode() + (b"/" if mode == b"40000" else b"")

    body = b"".join(
        mode + b" " + name.encode() + b"\0" + bytes.fromhex(oid)
        for name, (mode, oid) in sorted(children.items(), key=order)
    )
    return git_id("tree", body)


def commit_id(tree: str, parents: tuple[str, ...], author: str, seconds: int, message: str) -> str:
    """Id of a commit object."""
    who = f"{author} <{author}@users.noreply.sandbox> {seconds} +0000"
    lines = [f"tree {tree}", *(f"parent {parent}" for parent in parents)]
    lines += [f"author {who}", f"committer {who}", "", message]
    return git_id("commit", "\n".join(lines).encode())
