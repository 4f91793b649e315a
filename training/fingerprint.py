"""Tells local model folders apart by samples of their weights.

Folders of trained models are all called `model`, and reading tens of gigabytes at every start would
take long. Two trainings differ nearly everywhere, so a few blocks of every file suffice.
"""

import hashlib
from pathlib import Path

_BLOCKS, _BLOCK_BYTES = 64, 4096


def described(folder: Path) -> str:
    """The name of a folder and what identifies the weights in it, never its path."""
    folder = folder.resolve()
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        size = path.stat().st_size
        found.update(f"{path.relative_to(folder).as_posix()} {size}\n".encode())
        with path.open("rb") as file:
            for block in range(_BLOCKS):
                file.seek(block * max(size - _BLOCK_BYTES, 0) // (_BLOCKS - 1))
                found.update(file.read(_BLOCK_BYTES))
    return f"{folder.name} ({found.hexdigest()[:16]})"
