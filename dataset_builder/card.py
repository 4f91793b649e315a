"""What the card of a dataset folder says that its rows do not; `model_cards` words it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from echo4o.errors import Echo4oError
from echo4o.model_cards.dataset_parts import facts_of_dataset
from echo4o.model_cards.render import render_dataset_card
from echo4o.records import JsonValue, RunRecord
from echo4o.schema import DATASET_NAME


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
    cost_usd: float | None = None
    """What all answered image calls cost, also those whose pictures are not in it."""
    checks: Sequence[str] = ()
    """What was checked and found, in sentences."""
    rights: Sequence[str] = ()
    """Who may do what, as RELEASE.toml says."""
    versions: Sequence[str] = ()
    """What changed since the first version."""
    repo: str | None = None
    """Hub id that it was last pushed to."""

    def to_dict(self) -> dict[str, JsonValue]:
        """JSON for the record; `recorded` reads it back."""
        return {
            name: list(value) if isinstance(value, list | tuple) else value
            for name, value in asdict(self).items()
        }


def recorded(record: RunRecord, folder: Path) -> CardFacts:
    """What the record of a dataset folder keeps of its card.

    Raises:
        Echo4oError: nothing, or what this version does not know.
    """
    try:
        return CardFacts(**record.parameters["card"])  # type: ignore[arg-type]
    except (KeyError, TypeError):
        raise Echo4oError(f"{folder} was built by another echo4o; build it again") from None


def render_card(
    facts: CardFacts,
    files: Mapping[str, str],
    statistics: Mapping[str, JsonValue],
    *,
    has_sheet: bool,
) -> str:
    """The README.md; `files` are the Parquet files, `data/CONFIG/SPLIT-...` -> SHA-256."""
    told = facts.to_dict()
    return render_dataset_card(facts_of_dataset(told, files, statistics, has_sheet=has_sheet))


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
