"""Finding a BAGEL checkpoint, in our layout or the authors'."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..checkpoint import CheckpointError, find_folder

LayoutName = Literal["echo4o", "bagel"]
_TOLD = 4
"""So many folders an error names."""
MARKERS: dict[LayoutName, str] = {"echo4o": "model_index.json", "bagel": "llm_config.json"}


@dataclass(frozen=True, slots=True)
class Located:
    """Where a checkpoint lies on this machine and how it is laid out."""

    folder: Path
    layout: LayoutName
    revision: str | None = None
    """Commit of the Hub repository it was downloaded from."""


def locate(
    name: str | Path, *, revision: str | None = None, cache_dir: str | Path | None = None
) -> Located:
    """A local folder or a Hub id -> the folder that holds the checkpoint, perhaps an inner one.

    Raises:
        CheckpointError: neither a folder nor a Hub id, or a folder without a checkpoint.
    """
    folder, commit = find_folder(name, revision=revision, cache_dir=cache_dir)
    for layout, marker in MARKERS.items():
        if (folder / marker).is_file():
            return Located(folder, layout, commit)
    inner = [
        Located(path.parent, layout, commit)
        for layout, marker in MARKERS.items()
        for path in sorted(folder.glob(f"*/{marker}"))
    ]
    if len(inner) == 1:
        return inner[0]
    names = ", ".join(sorted({str(one.folder.relative_to(folder)) for one in inner})[:_TOLD])
    found = f"one in each of its folders {names}" if inner else "neither"
    raise CheckpointError(
        f"{name} is no checkpoint: it should hold {MARKERS['echo4o']} (our layout) or "
        f"{MARKERS['bagel']} (the authors' layout), found {found}; give the folder that has it"
    )
