"""The README.md of a dataset folder: the configs that `load_dataset` reads, and a short card."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from echo4o.records import JsonValue
from echo4o.schema import DATASET_NAME, FORMAT_VERSION, SUBSETS

ABOUT = {
    "surreal_fantasy": "everyday things with one property that is not theirs",
    "multi_reference": "pictures made from 1 to 4 reference pictures",
    "instruction_following": "exact numbers, colours, sizes and places on plain backgrounds",
}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))


@dataclass(frozen=True, kw_only=True, slots=True)
class CardFacts:
    """What a card says that the rows do not."""

    origin: str
    """One sentence: where the rows come from."""
    title: str = DATASET_NAME
    """Name of the dataset, as a repository would have it."""
    license: str | None = None
    """Licence identifier of the Hub, or None when nobody declared one."""
    tags: Sequence[str] = ("synthetic",)
    """Hub tags."""
    checks: Sequence[str] = ()
    """What was checked and found, in sentences."""
    rights: Sequence[str] = ()
    """Who may do what, as RELEASE.toml says."""
    versions: Sequence[str] = ()
    """What changed since the first version."""
    repo: str | None = None
    """Hub id that it was last pushed to."""

    def to_dict(self) -> dict[str, JsonValue]:
        """JSON for the record; `CardFacts(**...)` reads it back."""
        return {
            name: list(value) if isinstance(value, list | tuple) else value
            for name, value in asdict(self).items()
        }


def render_card(
    facts: CardFacts,
    files: Mapping[str, str],
    statistics: Mapping[str, JsonValue],
) -> str:
    """Front matter and text; `files` are the Parquet files, `data/CONFIG/SPLIT-...` -> SHA-256."""
    import yaml

    rows = cast(int, statistics["rows"])
    matter: dict[str, object] = {
        "pretty_name": facts.title,
        "language": ["en"],
        "task_categories": ["text-to-image", "image-to-image"],
        "size_categories": [next((name for top, name in _SIZES if rows < top), "n>1M")],
        "tags": list(facts.tags),
        "configs": front_matter_configs(files),
    }
    if facts.license is not None:
        matter = {"license": facts.license, **matter}
    header = yaml.safe_dump(matter, sort_keys=False, width=1000)
    return f"---\n{header}---\n\n{_text(facts, statistics)}"


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


def _text(facts: CardFacts, statistics: Mapping[str, JsonValue]) -> str:
    subsets = cast(Mapping[str, int], statistics["by_subset"])
    lines = [f"| `{name}` | {count:,} | {ABOUT[name]} |" for name, count in subsets.items()]
    splits = cast(Mapping[str, int], statistics["by_split"])
    repo = facts.repo or f"ORG/{facts.title}"
    counted = ", ".join(f"{count:,} in `{name}`" for name, count in splits.items())
    return "\n".join(
        [
            f"# {facts.title}",
            "",
            f"{facts.origin} {statistics['rows']:,} rows ({counted}); row format {FORMAT_VERSION}.",
            "",
            "| config | rows | what |",
            "|---|---|---|",
            f"| `all` (default) | {statistics['rows']:,} | all of them |",
            *lines,
            "| `preview` | up to 300 | small JPEG copies, for a first look |",
            "",
            "```python",
            "from datasets import load_dataset",
            "",
            f'rows = load_dataset("{repo}", "preview", split="train")',
            "```",
            "",
            "Pictures are stored byte for byte as they were received. `constraints`, `references`",
            "and `provenance` are JSON texts. Counts stand in `statistics.json`, how all was made",
            "in `record.json`.",
            "",
            "## Checks",
            "",
            *(facts.checks or ("Nobody checked the pictures against their texts.",)),
            "",
            "## Rights",
            "",
            *(
                facts.rights
                or ("Nobody has signed for the rights yet; this is not for publication.",)
            ),
            "",
            *(["## Versions", "", *facts.versions, ""] if facts.versions else []),
        ]
    )


def check_lines(checked: Mapping[str, Any]) -> tuple[str, ...]:
    """The counts of `data check` as a list in Markdown; empty when nothing was checked."""
    if not checked["rows"]:
        return ()
    before, after = checked["aligned_before"]["all"], checked["aligned_after"]["all"]
    rules = checked["rules"]
    safety = ", ".join(f"{name} {count}" for name, count in checked["safety"].items())
    dropped = "dropped" if rules["drop_flagged"] else "kept"
    moderation = rules["moderation"] or "not asked"
    credentials = sum(checked["credentials"].values())
    return (
        f"- A vision model (`{rules['model']}`) compared {before['judged']:,} of "
        f"{checked['rows']:,} pictures with their texts: {before['aligned']:,} agreed. After "
        f"rewriting and dropping, {after['aligned']:,} of {after['judged']:,} do.",
        f"- Safety pass: {safety}; such rows are {dropped}. Moderation service: {moderation}.",
        f"- Near-duplicates marked: {checked['near_duplicates']:,}. Rows nobody checked: "
        f"{checked['unchecked']:,}, undecided: {checked['decisions'].get('undecided', 0):,}. "
        f"Pictures with content credentials: {credentials:,}.",
    )
