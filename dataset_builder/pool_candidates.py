"""Pictures that could become references: what a folder or a `datasets` repository says of them."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from echo4o.errors import Echo4oError
from echo4o.hub_errors import patiently
from echo4o.loading import builder
from echo4o.records import Input, JsonValue

METADATA_NAME = "metadata.jsonl"
KINDS = {
    **dict.fromkeys(("human", "humans", "person", "people", "portrait", "portraits"), "human"),
    **dict.fromkeys(("object", "objects", "thing", "things"), "object"),
    **dict.fromkeys(("scene", "scenes", "sence", "place", "places", "background"), "scene"),
}
"""Folder or class names -> kind; `sence` is how the authors spell it."""
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(:[^@]+)?(@.+)?", re.ASCII)
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif")


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A picture of the source and what its source says about it."""

    name: str
    """Path inside the source, or split and number."""
    facts: Mapping[str, JsonValue]
    """kind or class or label_name, name, label, licence, source, attribution, consent, ..."""
    path: Path | None = None
    data: bytes = b""

    def read(self) -> bytes:
        """The picture's bytes."""
        return self.data if self.path is None else self.path.read_bytes()


def kind_of(candidate: Candidate) -> str | None:
    """human, object or scene, as metadata or folder say; None when they do not."""
    named = candidate.facts.get("kind") or candidate.facts.get("class")
    if named is not None:
        return KINDS.get(str(named).lower())
    parts = candidate.name.lower().split("/")[:-1]
    return next((KINDS[part] for part in parts if part in KINDS), None)


def candidates_of(source: str) -> tuple[Input, Iterator[Candidate]]:
    """Where pictures come from, and the pictures.

    `source` is a folder with pictures in folders named by kind, or listed in its metadata.jsonl
    (`file_name` and the facts of a picture), or else ORG/NAME[:CONFIG][@REVISION] of a `datasets`
    repository with a picture column.

    Raises:
        Echo4oError: there is no such source, or its metadata is damaged.
    """
    local = Path(source)
    if local.is_dir():
        return Input(kind="folder", id=local.name), of_folder(local)
    if local.exists() or not _HUB_ID.fullmatch(source):
        raise Echo4oError(
            f"--references {source} is no folder and no Hub id; give a folder of pictures or "
            "ORG/NAME[:CONFIG][@REVISION]"
        )
    return of_hub(source)


def of_folder(folder: Path) -> Iterator[Candidate]:
    """Pictures below a folder in the order of their names, links left out."""
    facts = _metadata(folder / METADATA_NAME)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in _SUFFIXES:
            continue
        name = path.relative_to(folder).as_posix()
        # What a link leads to may lie outside the folder, and its rights are not listed here.
        if path.is_file() and not path.is_symlink():
            yield Candidate(name=name, facts=facts.get(name, {}), path=path)


def _metadata(path: Path) -> dict[str, Mapping[str, JsonValue]]:
    if not path.exists():
        return {}
    found: dict[str, Mapping[str, JsonValue]] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            facts = json.loads(line)
            found[str(facts["file_name"])] = facts
        except (ValueError, KeyError, TypeError) as error:
            raise Echo4oError(
                f"{path} line {number} is no object with `file_name` ({error}); mend or remove it"
            ) from None
    return found


def of_hub(source: str) -> tuple[Input, Iterator[Candidate]]:
    """Pictures of ORG/NAME[:CONFIG][@REVISION], at the commit that it has now."""
    from echo4o.hub import resolve

    name, _, revision = source.partition("@")
    repo, _, config = name.partition(":")
    commit = resolve(repo, "dataset", revision or None)
    return Input(kind="dataset", id=name, revision=commit), _of_dataset(repo, config, commit)


def _of_dataset(repo: str, config: str, commit: str) -> Iterator[Candidate]:
    """Pictures of a repository, streamed; the other columns are their facts."""
    from datasets import ClassLabel, Image

    opened = patiently(f"open {repo}", lambda: builder(repo, config or None, commit))
    for split, rows in opened.as_streaming_dataset().items():
        columns = rows.features or {}
        pictures = [name for name, kind in columns.items() if isinstance(kind, Image)]
        if len(pictures) != 1:
            raise Echo4oError(
                f"--references {repo} needs one picture column in split {split}, it has "
                f"{pictures}; give ORG/NAME:CONFIG of another config"
            )
        labels = {name: kind for name, kind in columns.items() if isinstance(kind, ClassLabel)}
        for number, row in enumerate(rows.cast_column(pictures[0], Image(decode=False))):
            cell = cast(Mapping[str, object], row.pop(pictures[0]))
            for name, kind in labels.items():
                if row[name] is not None and row[name] >= 0:
                    row["kind" if name == "label" else name] = kind.int2str(row[name])
                    if name == "label":
                        del row[name]
            data = cast(bytes | None, cell["bytes"]) or b""
            yield Candidate(name=f"{split}/{number}", facts=row, data=data)
