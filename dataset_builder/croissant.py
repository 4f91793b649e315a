"""The Croissant file of a dataset folder: what is in it, for machines, with fields on its making.

Written and checked with the library of the format's authors (mlcroissant). It holds no date and no
address, which a folder does not know before it is published: the same rows give the same file.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from echo4o.errors import Echo4oError
from echo4o.model_cards.dataset_parts import ABOUT
from echo4o.records import JsonValue, write_atomic
from echo4o.schema import FORMAT_VERSION, SUBSETS, features

from .card import CardFacts

if TYPE_CHECKING:
    import mlcroissant

CROISSANT_NAME = "croissant.json"
_PARQUET = "application/x-parquet"
_MAKING = {
    "data_collection_type": ["Synthetic data"],
    "data_use_cases": [
        "Fine-tuning of models that make pictures from text, or from text and references.",
    ],
    "data_limitations": [
        "Pictures were made by a model: they show its style, and details may differ from the text.",
        "Instructions are in English.",
    ],
    "data_biases": [
        "People, objects and scenes occur as the generator and the lists of objects favour them, "
        "not as in the world.",
    ],
    "personal_sensitive_information": [
        "References may show people; the column `references` says so, with licence and consent "
        "where they are known.",
    ],
    "data_release_maintenance_plan": (
        "Versions are tags that never move; rows are removed on request in a next version."
    ),
}


def write_croissant(
    folder: Path, facts: CardFacts, files: Mapping[str, str], statistics: Mapping[str, JsonValue]
) -> None:
    """Write `croissant.json` into a dataset folder; `files` are its Parquet files -> SHA-256.

    Raises:
        Echo4oError: the library finds an error in it.
    """
    import mlcroissant

    shards = [
        mlcroissant.FileObject(
            id=name,
            name=name,
            content_url=name,
            content_size=f"{(folder / name).stat().st_size} B",
            encoding_formats=[_PARQUET],
            sha256=digest,
        )
        for name, digest in sorted(files.items())
    ]
    configs = {name.split("/")[1] for name in files}
    present = [name for name in (*SUBSETS, "preview") if name in configs]
    generators = statistics["by_generator"]
    assert isinstance(generators, dict)
    metadata = mlcroissant.Metadata(
        name=facts.title,
        description=f"{facts.origin} {statistics['rows']:,} rows; row format {FORMAT_VERSION}.",
        version=f"{FORMAT_VERSION}.0.0",
        license=None if facts.license is None else [facts.license],
        keywords=list(facts.tags),
        in_language=["en"],
        cite_as="https://arxiv.org/abs/2508.09987",
        data_collection=facts.origin,
        machine_annotation_tools=sorted(generators),
        data_annotation_protocol=list(facts.checks) or None,
        distribution=[*shards, *(_file_set(name) for name in present)],
        record_sets=[_record_set(name) for name in present],
        **_MAKING,
    )
    if metadata.issues.errors:
        raise Echo4oError(f"the Croissant file is not valid: {sorted(metadata.issues.errors)[0]}")
    text = json.dumps(metadata.to_json(), indent=1, ensure_ascii=True, default=str)
    write_atomic(folder / CROISSANT_NAME, text + "\n")


def _file_set(config: str) -> "mlcroissant.FileSet":
    import mlcroissant

    return mlcroissant.FileSet(
        id=f"files-{config}",
        name=f"files-{config}",
        includes=[f"data/{config}/*.parquet"],
        encoding_formats=[_PARQUET],
    )


def _record_set(config: str) -> "mlcroissant.RecordSet":
    import mlcroissant

    about = ABOUT.get(config, "small JPEG copies of up to 300 rows")
    fields = [_field(config, name) for name in features()]
    return mlcroissant.RecordSet(
        id=config, name=config, description=about, key=[f"{config}/id"], fields=fields
    )


def _field(config: str, column: str) -> "mlcroissant.Field":
    import mlcroissant

    kind, transforms = mlcroissant.DataType.TEXT, []
    if column in ("width", "height"):
        kind = mlcroissant.DataType.INTEGER
    elif column in ("input_images", "output_image"):
        kind, transforms = (
            mlcroissant.DataType.IMAGE_OBJECT,
            [mlcroissant.Transform(json_path="bytes")],
        )
    extract = mlcroissant.Extract(column=column)
    return mlcroissant.Field(
        id=f"{config}/{column}",
        name=column,
        data_types=[kind],
        repeated=column == "input_images" or None,
        source=mlcroissant.Source(
            file_set=f"files-{config}", extract=extract, transforms=transforms
        ),
    )
