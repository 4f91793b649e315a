"""Facts of a dataset of ours from what its builder notes: the record's card, shards, statistics."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import cast

from echo4o.records import JsonValue
from echo4o.schema import FORMAT_VERSION, SUBSETS

from .facts import DatasetFacts
from .render import PAPER, Safe

ABOUT = {
    "surreal_fantasy": "everyday things with one property that is not theirs",
    "multi_reference": "pictures made from 1 to 4 reference pictures",
    "instruction_following": "exact numbers, colours, sizes and places on plain backgrounds",
}
SHEET = "contact_sheet.png"


def facts_of_dataset(
    told: Mapping[str, JsonValue],
    shards: Mapping[str, str],
    statistics: Mapping[str, JsonValue],
    *,
    repo_id: str | None = None,
    has_sheet: bool = False,
) -> DatasetFacts:
    """Facts of a dataset folder; equal parts always give equal facts.

    Args:
        told: What the builder's card says that the rows do not: origin, title, license, tags,
            cost_usd, checks, rights, versions, repo.
        shards: Parquet files, `data/CONFIG/SPLIT-...` -> SHA-256.
        statistics: `statistics.json`.
        repo_id: Hub id; that of the last push if absent.
        has_sheet: Whether there is a contact sheet.
    """
    title = str(told["title"])
    subsets = counts_of(statistics.get("by_subset"))
    categories = cast(Mapping[str, JsonValue], statistics.get("by_category") or {})
    tags = tuple(str(one) for one in _list(told.get("tags")))
    license, cost = told.get("license"), told.get("cost_usd")
    return DatasetFacts(
        name=title,
        repo_id=repo_id or _text(told.get("repo")) or f"ORG/{title}",
        origin=Safe(told["origin"]),
        is_of_paper="echo4o" in tags or f"arxiv:{PAPER}" in tags,
        license=_text(license),
        tags=tuple(tag for tag in tags if tag != f"arxiv:{PAPER}"),
        rows=counts_of(statistics).get("rows"),
        by_subset=subsets,
        by_category={
            name: counts_of(categories.get(name)) for name in subsets if name in categories
        },
        by_split=counts_of(statistics.get("by_split")),
        about={name: ABOUT[name] for name in subsets if name in ABOUT},
        row_format=FORMAT_VERSION,
        configs=tuple(cast(Sequence[Mapping[str, JsonValue]], front_matter_configs(shards))),
        generators=counts_of(statistics.get("by_generator")),
        cost_usd=float(cost) if isinstance(cost, int | float) else None,
        checks=_lines(told.get("checks")),
        signed=_lines(told.get("rights")),
        versions=_lines(told.get("versions")),
        pictures=(SHEET,) if has_sheet else (),
        has_record=True,
    )


def front_matter_configs(shards: Mapping[str, str]) -> list[dict[str, object]]:
    """`configs:` entries; `all` is the union of the subsets' files, so no byte is stored twice.

    Each names the content of its files: `datasets` (5.2) tells local folders apart by their name
    and these entries alone, and would answer for a rebuilt folder from its cache.
    """
    splits = {(name.split("/")[1], name.split("/")[2].split("-")[0]) for name in shards}
    present = [name for name in SUBSETS if any(config == name for config, _ in splits)]
    names = [("all", present), *((name, [name]) for name in present)]
    if any(config == "preview" for config, _ in splits):
        names.append(("preview", ["preview"]))
    entries: list[dict[str, object]] = []
    for name, folders in names:
        files = [
            {"split": split, "path": [f"data/{f}/{split}-*.parquet" for f in having]}
            for split in ("train", "validation")
            if (having := [folder for folder in folders if (folder, split) in splits])
        ]
        content = (f"{shards[s]}  {s}\n" for s in sorted(shards) if s.split("/")[1] in folders)
        digest = hashlib.sha256("".join(content).encode()).hexdigest()
        entry: dict[str, object] = {"config_name": name, "description": f"content sha256:{digest}"}
        entries.append(entry | ({"default": True} if name == "all" else {}) | {"data_files": files})
    return entries


def _lines(value: JsonValue) -> tuple[str, ...]:
    return tuple(Safe(one) for one in _list(value))


def _list(value: JsonValue) -> Sequence[JsonValue]:
    return value if isinstance(value, list | tuple) else ()


def counts_of(value: object) -> dict[str, int]:
    """The numbers of a JSON object; a foreign file may say anything."""
    found = value.items() if isinstance(value, Mapping) else ()
    return {str(name): count for name, count in found if isinstance(count, int)}


def _text(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None
