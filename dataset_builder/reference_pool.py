"""A pool of given reference pictures: a folder, or a `datasets` repository; classified, registered.

A picture is used only when its kind (human, object, scene) and its rights are known; everything
else is refused and listed. Accepted pictures are kept in the plan's folder under their hash.
"""

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from echo4o.errors import Echo4oError, printable
from echo4o.pictures import PictureError, picture_facts
from echo4o.records import Input, JsonValue, sha256_bytes, write_atomic
from echo4o.schema import dump_json

from .decontaminate import Blocklist
from .plan import Entry
from .pool_candidates import KINDS, METADATA_NAME, Candidate, kind_of

FOLDER_NAME = "references"
REFUSED_NAME = "plan.references.refused.jsonl"
_FRAME = re.compile(r"^(?:an? |the )?(?:photo|picture|image) (?:of|showing|with) ", re.IGNORECASE)
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


def fill_pool(
    origin: Input,
    candidates: Iterable[Candidate],
    folder: Path,
    *,
    licence: str | None = None,
    block: Blocklist | None = None,
) -> Pool:
    """Take every usable picture into `folder`/references.

    `licence` holds for pictures whose metadata names none.

    Raises:
        Echo4oError: not one picture is usable.
    """
    pool = Pool(inputs=(origin,))
    seen: set[str] = set()
    for candidate in candidates:
        reason = _take(candidate, pool, folder, licence, block or Blocklist(), seen)
        if reason is not None:
            pool.refused.append({"picture": candidate.name, "reason": reason})
    if not pool.entries:
        why = pool.refused[0]["reason"] if pool.refused else "it holds no pictures"
        raise Echo4oError(f"--references {origin.id}: not one picture can be used: {why}")
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
    kind, register = kind_of(candidate), _register(candidate, licence)
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
    if facts.get("described_by"):
        constraints["described_by"] = facts["described_by"]
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


def _register(candidate: Candidate, licence: str | None) -> dict[str, JsonValue]:
    facts = dict(candidate.facts)
    facts["licence"] = facts.get("licence") or facts.get("license") or licence
    facts["source"] = facts.get("source") or candidate.name
    if facts.get("depicts_person") is None:
        facts["depicts_person"] = kind_of(candidate) == "human"
    return {name: facts.get(name) for name in _REGISTER}


def _unusable(
    kind: str | None, register: Mapping[str, JsonValue], facts: Mapping[str, JsonValue]
) -> str | None:
    if kind is None:
        return (
            "its kind is unknown; name its folder, or `kind` in its metadata, by one of "
            f"{', '.join(sorted(set(KINDS)))}; or ask a model with --vlm"
        )
    if not register["licence"]:
        return f"no licence: name one in {METADATA_NAME} or with --references-license"
    if register["depicts_person"] and not register["consent"]:
        return f"it shows a person without `consent` in {METADATA_NAME}"
    if facts.get("minor") or facts.get("public_figure"):
        return "it shows a minor or a public figure"
    return None


def _words(value: JsonValue) -> str | None:
    """A label without frame and article, in one line; None when there is none."""
    words = _FRAME.sub("", printable(value)).split() if isinstance(value, str) else []
    if not words:
        return None
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
