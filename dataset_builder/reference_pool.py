"""A pool of given reference pictures: a folder, or a `datasets` repository; classified, registered.

A picture is used only when its kind (human, object, scene) and its rights are known; everything
else is refused and listed. Accepted pictures are kept in the plan's folder under their hash.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from echo4o.errors import Echo4oError
from echo4o.pictures import PictureError, picture_facts
from echo4o.records import Input, JsonValue, sha256_bytes, write_atomic
from echo4o.schema import dump_json

from .decontaminate import Blocklist
from .plan import Entry

FOLDER_NAME = "references"
METADATA_NAME = "metadata.jsonl"
REFUSED_NAME = "plan.references.refused.jsonl"
KINDS = {
    **dict.fromkeys(("human", "humans", "person", "people", "portrait", "portraits"), "human"),
    **dict.fromkeys(("object", "objects", "thing", "things"), "object"),
    **dict.fromkeys(("scene", "scenes", "sence", "place", "places", "background"), "scene"),
}
"""Folder or class names -> kind; `sence` is how the authors spell it."""
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
_REGISTER = ("source", "licence", "attribution", "depicts_person", "consent")


@dataclass(slots=True)
class Pool:
    """Accepted pictures as plan entries, and why others were refused."""

    inputs: tuple[Input, ...] = ()
    entries: list[Entry] = field(default_factory=list)
    refused: list[dict[str, JsonValue]] = field(default_factory=list)

    def report(self) -> str:
        """The refused pictures as JSON lines."""
        return "".join(dump_json(one) + "\n" for one in self.refused)


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


def read_pool(
    source: str, folder: Path, *, licence: str | None = None, block: Blocklist | None = None
) -> Pool:
    """Take every usable picture of `source` into `folder`/references.

    `source` is a folder with pictures in folders named by kind, or listed in its metadata.jsonl
    (`file_name` and the facts of a picture), or else ORG/NAME[:CONFIG][@REVISION] of a `datasets`
    repository with a picture column. `licence` holds for pictures whose metadata names none.

    Raises:
        Echo4oError: there is no such source, its metadata is damaged, or nothing in it is usable.
    """
    local = Path(source)
    if local.is_dir():
        pool, candidates = Pool(inputs=(Input(kind="folder", id=local.name),)), _of_folder(local)
    elif local.exists() or source.startswith((".", "/")):
        raise Echo4oError(f"--references {source} is no folder; give a folder or ORG/NAME")
    else:
        pool, candidates = _of_hub(source)
    seen: set[str] = set()
    for candidate in candidates:
        reason = _take(candidate, pool, folder, licence, block or Blocklist(), seen)
        if reason is not None:
            pool.refused.append({"picture": candidate.name, "reason": reason})
    if not pool.entries:
        why = pool.refused[0]["reason"] if pool.refused else "it holds no pictures"
        raise Echo4oError(f"--references {source}: not one picture can be used: {why}")
    return pool


def _take(
    candidate: Candidate,
    pool: Pool,
    folder: Path,
    licence: str | None,
    block: Blocklist,
    seen: set[str],
) -> str | None:
    """Add a picture to the pool; returns why not."""
    kind, register = _kind(candidate), _register(candidate, licence)
    reason = _unusable(kind, register, candidate.facts)
    if kind is None or reason is not None:
        return reason
    try:
        data = candidate.read()
        facts = picture_facts(data)
        if not block.allows_picture(data, candidate.name):
            return "it is a benchmark's picture"
    except (OSError, PictureError) as error:
        return str(error)
    digest = sha256_bytes(data)
    if digest in seen:
        return "the same picture is there already"
    seen.add(digest)
    _keep(candidate, data, folder / FOLDER_NAME / f"{digest}.{facts.extension}")
    size: dict[str, JsonValue] = {"width": facts.width, "height": facts.height}
    pool.entries.append(
        _entry(kind, candidate, {"sha256": digest, "extension": facts.extension, **size}, register)
    )
    return None


def _entry(
    kind: str,
    candidate: Candidate,
    picture: dict[str, JsonValue],
    register: dict[str, JsonValue],
) -> Entry:
    facts = candidate.facts
    label = _words(facts.get("label")) or _words(facts.get("text")) or _words(facts.get("name"))
    name = _words(facts.get("name")) or label
    constraints: dict[str, JsonValue] = {"name": name, "label": label}
    if label:
        constraints["include"] = [{"class": label, "count": 1}]
    return Entry(
        kind="reference",
        id=f"reference-{str(picture['sha256'])[:24]}",
        prompt=label or kind,
        instruction=label or kind,
        subset="multi_reference",
        category=kind,
        constraints=constraints,
        source={**picture, "register": register},
    )


def _kind(candidate: Candidate) -> str | None:
    named = candidate.facts.get("kind") or candidate.facts.get("class")
    if named is not None:
        return KINDS.get(str(named).lower())
    parts = candidate.name.lower().split("/")[:-1]
    return next((KINDS[part] for part in parts if part in KINDS), None)


def _register(candidate: Candidate, licence: str | None) -> dict[str, JsonValue]:
    facts = dict(candidate.facts)
    facts["licence"] = facts.get("licence") or facts.get("license") or licence
    facts["source"] = facts.get("source") or candidate.name
    if facts.get("depicts_person") is None:
        facts["depicts_person"] = _kind(candidate) == "human"
    return {name: facts.get(name) for name in _REGISTER}


def _unusable(
    kind: str | None, register: Mapping[str, JsonValue], facts: Mapping[str, JsonValue]
) -> str | None:
    if kind is None:
        return f"its kind is unknown; use a folder or `kind` of {', '.join(sorted(set(KINDS)))}"
    if not register["licence"]:
        return f"no licence: name one in {METADATA_NAME} or with --references-license"
    if register["depicts_person"] and not register["consent"]:
        return f"it shows a person without `consent` in {METADATA_NAME}"
    if facts.get("minor") or facts.get("public_figure"):
        return "it shows a minor or a public figure"
    return None


def _words(value: JsonValue) -> str | None:
    """A label without its article, in one line; None when there is none."""
    if not isinstance(value, str) or not value.strip():
        return None
    words = value.split()
    if words[0].lower() in ("a", "an", "the") and len(words) > 1:
        words = words[1:]
    return " ".join(words).rstrip(".")[:200]


def _keep(candidate: Candidate, data: bytes, target: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if candidate.path is not None:
        try:
            os.link(candidate.path, target)
            return
        except OSError:  # another file system, or one without links
            if candidate.path.stat().st_size > shutil.disk_usage(target.parent).free:
                raise
    write_atomic(target, data)


def _of_folder(folder: Path) -> Iterator[Candidate]:
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


def _of_hub(source: str) -> tuple[Pool, Iterator[Candidate]]:
    """A pool for ORG/NAME[:CONFIG][@REVISION], at the commit that it has now."""
    from echo4o.hub import resolve

    name, _, revision = source.partition("@")
    repo, _, config = name.partition(":")
    commit = resolve(repo, "dataset", revision or None)
    pool = Pool(inputs=(Input(kind="dataset", id=name, revision=commit),))
    return pool, _of_dataset(repo, config, commit)


def _of_dataset(repo: str, config: str, commit: str) -> Iterator[Candidate]:
    """Pictures of a repository, streamed; the other columns are their facts."""
    from datasets import ClassLabel, Image, load_dataset

    splits = load_dataset(repo, config or None, revision=commit, streaming=True)
    for split, rows in splits.items():
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
