"""Whether a built dataset may be published: rights somebody signed for, references with papers.

The answers of RELEASE.toml are written into the dataset's card and record, so that they travel with
it; a dataset that carries none is not published.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from echo4o.model_cards.dataset_parts import SHEET
from echo4o.records import JsonValue, RunRecord, sha256_file, write_atomic
from echo4o.rights import FILE_NAME, Rights, RightsError
from echo4o.schema import SUBSETS, json_list

from .card import CardFacts, recorded, render_card


def check_rights(
    folder: Path, file: Path | None, *, repo: str | None = None, dry_run: bool = False
) -> Rights:
    """Refuse a dataset whose rights are not settled; with `file`, settle them first.

    The card then names `repo`, so that its first lines work when they are copied.

    Raises:
        RightsError: an answer is missing, or a reference is in no register.
    """
    record = RunRecord.load(folder)
    if file is not None:
        rights = Rights.load(file)
    elif (given := record.parameters.get("rights")) is not None:
        rights = Rights.from_dict(given, f"the record of {folder}")
    else:
        raise RightsError(
            f"nobody has signed for the rights of {folder}; fill in a {FILE_NAME} (table [rights]) "
            f"and give it with --rights {FILE_NAME}"
        )
    for row_id, entry in _references(folder):
        rights.check_reference(entry, row_id)
    if not dry_run:
        _stamp(folder, record, rights, repo)
    return rights


def _references(folder: Path) -> Iterator[tuple[str, Mapping[str, JsonValue]]]:
    """Row id and register entry of every reference; the preview repeats rows of the others."""
    import pyarrow.parquet as pq

    for path in sorted(folder.glob("data/*/*.parquet")):
        if path.parent.name not in SUBSETS:
            continue
        for row in pq.ParquetFile(path).read(["id", "references"]).to_pylist():
            for entry in json_list(row, "references"):
                yield row["id"], entry


def _stamp(folder: Path, record: RunRecord, rights: Rights, repo: str | None) -> None:
    """Write the answers into card and record; a kill in between is mended by the next run."""
    card = recorded(record, folder)
    signed = replace(
        card,
        rights=tuple(rights.lines()),
        repo=repo or card.repo,
        license=rights.license_id or card.license,
    )
    readme, text = folder / "README.md", _render(folder, record, signed)
    is_told = readme.is_file() and readme.read_text(encoding="utf-8") == text
    is_noted = record.parameters.get("rights") == rights.to_dict()
    if is_told and is_noted and signed.to_dict() == card.to_dict():
        return
    write_atomic(readme, text)
    parameters = record.parameters | {"card": signed.to_dict(), "rights": rights.to_dict()}
    files = record.files | {"README.md": sha256_file(folder / "README.md")}
    replace(record, parameters=parameters, files=files).save(folder)


def card_of(folder: Path) -> str:
    """The README.md that a dataset's record and statistics give.

    Raises:
        Echo4oError: it was built by another version, which recorded otherwise.
    """
    record = RunRecord.load(folder)
    return _render(folder, record, recorded(record, folder))


def _render(folder: Path, record: RunRecord, card: CardFacts) -> str:
    shards = {name: one for name, one in record.files.items() if name.endswith(".parquet")}
    statistics = json.loads((folder / "statistics.json").read_text(encoding="utf-8"))
    has_sheet = (folder / SHEET).is_file()
    return render_card(card, shards, statistics, has_sheet=has_sheet)
