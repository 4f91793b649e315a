"""Finds files that run code when somebody loads them; no release of ours has one."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

_SUFFIXES = (
    ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".joblib", ".dill", ".npz", ".h5", ".keras",
)  # fmt: skip
"""What libraries unpickle, or run, by their name alone."""
_PROTOCOLS = b"\x02\x03\x04\x05"


def harmful_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Path and reason of each such file, by its name or by how it begins."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not path.is_file() or name.startswith(".cache/huggingface/"):
            continue
        if path.suffix.lower() in _SUFFIXES:
            yield name, f"a {path.suffix} file, which libraries unpickle"
        elif _is_pickle(path):
            yield name, "a pickle under another name"


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(4)
    if start[:1] == b"\x80" and start[1:2] in _PROTOCOLS and start[1:2]:
        return True
    if start != b"PK\3\4" or path.suffix == ".whl":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(one.endswith("data.pkl") for one in archive.namelist())
    except zipfile.BadZipFile:
        return False
