"""Facts from files: the records that data, train and eval leave behind. Guesses nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

from echo4o.errors import Echo4oError
from echo4o.records import JsonValue, RunRecord, refuse_foreign

from .dataset_parts import SHEET, counts_of, facts_of_dataset
from .facts import DatasetFacts, ModelFacts, Part, ScoreFact, SpaceFacts
from .render import front_matter

_ADAPTERS = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
"""Files of an adapter, as PEFT and as diffusers name them."""
TOLD = "card.json"
"""What no record knows of a model: licence, limits, contact, and what it was built from."""
_PICTURES = ("*.png", "*.jpg", "*.webp", "samples/*.png", "samples/*.jpg")


class GatherError(Echo4oError):
    """A folder lacks the record that a card is made from, or the record is of another kind."""


def dataset_facts(folder: Path, *, repo_id: str | None = None) -> DatasetFacts:
    """Facts of a built dataset: what its builder noted, or else its record and README's configs.

    Raises:
        RecordError: there is no record, or it is not of a dataset.
    """
    refuse_foreign(folder, "data")
    record = RunRecord.load(folder)
    counts = _json(folder / "statistics.json")
    told = _mapping(record.parameters.get("card"))
    if {"title", "origin"} <= told.keys():
        shards = {name: one for name, one in record.files.items() if name.endswith(".parquet")}
        has_sheet = (folder / SHEET).is_file()
        return facts_of_dataset(told, shards, counts, repo_id=repo_id, has_sheet=has_sheet)
    matter = front_matter((folder / "README.md").read_text()) if _has_readme(folder) else {}
    cost = record.metrics.get("cost_usd")
    return DatasetFacts(
        name=folder.resolve().name,
        repo_id=repo_id,
        license=_text(matter.get("license")),
        rows=counts_of(counts).get("rows"),
        by_subset=counts_of(counts.get("by_subset")),
        by_category={
            name: counts_of(inner) for name, inner in _mapping(counts.get("by_category")).items()
        },
        by_split=counts_of(counts.get("by_split")),
        generators=counts_of(counts.get("by_generator")),
        configs=tuple(cast(Sequence[Mapping[str, JsonValue]], matter.get("configs") or ())),
        cost_usd=float(cost) if isinstance(cost, int | float) else None,
        pictures=_pictures(folder),
        record=record,
    )


def model_facts(
    folder: Path, *, repo_id: str | None = None, runs: Sequence[Path] = ()
) -> ModelFacts:
    """Facts of a trained model: its record, and the scores of evaluation runs.

    Args:
        folder: A training output (with `record.json`) or its `model` folder.
        repo_id: Hub id it will have.
        runs: Evaluation outputs, each with a `run.json`.

    Raises:
        RecordError: there is no record, or it is not of a model.
        GatherError: a run has no scores.
    """
    home = folder if (folder / "record.json").is_file() else folder.resolve().parent
    refuse_foreign(home, "train", "model")
    record = RunRecord.load(home)
    bases = [entry for entry in record.inputs if entry.kind == "model"]
    # A base without a Hub id is the random model that the recipe made itself.
    base = next((entry for entry in bases if "/" in entry.id), None)
    trained = record.metrics.get("parameters_trained")
    told = told_facts(folder)
    return ModelFacts(
        name=repo_id.split("/")[-1] if repo_id else f"echo-4o-{record.name}",
        repo_id=repo_id,
        family=_family(record),
        is_adapter=any((folder / name).is_file() for name in _ADAPTERS),
        license=told.license,
        limits=told.limits,
        contact=told.contact,
        parts=told.parts,
        base_model=base,
        datasets=tuple(entry for entry in record.inputs if entry.kind == "dataset"),
        parameters=trained if isinstance(trained, int) else None,
        pictures=_pictures(folder),
        scores=tuple(score for run in runs for score in scores_of(run)),
        record=record,
    )


def _family(record: RunRecord) -> Literal["bagel", "omnigen2", "blip3o"]:
    if record.parameters.get("blip3o") is not None:
        return "blip3o"
    return "bagel" if record.parameters.get("omnigen2") is None else "omnigen2"


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What `card.json` of a model may say."""

    license: str | None = None
    """Hub identifier of the weights' licence."""
    limits: tuple[str, ...] = ()
    """Known limits, one sentence each."""
    contact: str | None = None
    """Where to ask for a removal."""
    parts: tuple[Part, ...] = ()
    """What the model was built from."""


def told_facts(folder: Path) -> Told:
    """The facts in a folder's `card.json`; none without one.

    Raises:
        GatherError: it says something unknown or of the wrong kind.
    """
    given = dict(_json(folder / TOLD))
    parts, limits = given.pop("parts", []), given.pop("limits", [])
    try:
        if not isinstance(limits, list) or not isinstance(parts, list):
            raise TypeError("`limits` and `parts` are lists")
        _refuse_unknown(given, Told)
        for one in parts:
            _refuse_unknown(_mapping(one), Part)
        made = tuple(Part(**cast(dict[str, str], one)) for one in parts)
        told = Told(
            parts=made, limits=tuple(cast(list[str], limits)), **cast(dict[str, str], given)
        )
    except TypeError as error:
        raise GatherError(f"{TOLD} cannot be read: {error}") from None
    texts = [told.license, told.contact, *told.limits]
    texts += [text for one in made for text in (one.name, one.role, one.license, one.sha256)]
    if not all(isinstance(one, str | None) for one in texts):
        raise GatherError(f"{TOLD}: everything in it is a text")
    return told


def _refuse_unknown(given: Mapping[str, object], kind: type[Told] | type[Part]) -> None:
    known = [one.name for one in fields(kind)]
    if strange := sorted(set(given) - set(known)):
        raise TypeError(f"unknown `{strange[0]}`; known are {', '.join(known)}")


def scores_of(run: Path) -> list[ScoreFact]:
    """The scores in an evaluation output, overall first.

    Raises:
        GatherError: there is no `run.json`, or it holds no scores.
    """
    facts = _json(run / "run.json")
    scores = _mapping(facts.get("scores"))
    if "overall" not in scores:
        raise GatherError(f"{run} holds no finished evaluation; run `echo4o eval run` first")
    few = {"one_or_two_objects": scores.get("one_or_two_objects")}
    parts = {**_mapping(scores.get("by_group")), **_mapping(scores.get("by_tag"))}
    scale = _number(scores, "scale") if "scale" in scores else 1.0
    return [
        _score(facts, name, _mapping(value), scale)
        for name, value in {"overall": scores["overall"], **few, **parts}.items()
        if value is not None
    ]


def space_facts(folder: Path) -> SpaceFacts:
    """Facts of a Space folder: its front matter, its page and `model.txt`."""
    text = (folder / "README.md").read_text()
    matter, page = front_matter(text), text.split("---\n", 2)[2].strip()
    named = folder / "model.txt"
    model, _, revision = (named.read_text().strip() if named.is_file() else "").partition("@")
    return SpaceFacts(
        **page_facts(matter),
        hardware=_text(matter.get("suggested_hardware")),
        tags=tuple(str(tag) for tag in cast(Sequence[object], matter.get("tags") or ())),
        model=model or None,
        model_revision=revision or None,
        startup=str(matter.get("startup_duration_timeout", "1h")),
        page=page or None,
    )


_PAGE = {
    "title": "title",
    "emoji": "emoji",
    "colorFrom": "color_from",
    "colorTo": "color_to",
    "sdk_version": "sdk_version",
    "python_version": "python_version",
}


def page_facts(matter: Mapping[str, JsonValue]) -> dict[str, Any]:
    """What the front matter of any Space says, as arguments of `PageFacts`.

    Raises:
        GatherError: it says too little.
    """
    missing = [name for name in _PAGE if name not in matter]
    if missing:
        raise GatherError(f"the front matter of README.md has no `{missing[0]}`; add it")
    return {
        **{ours: str(matter[name]) for name, ours in _PAGE.items()},
        "license": _text(matter.get("license")),
        "summary": _text(matter.get("short_description")),
    }


def _score(
    facts: Mapping[str, JsonValue], tag: str, value: Mapping[str, JsonValue], scale: float
) -> ScoreFact:
    return ScoreFact(
        task=str(facts.get("task", "not recorded")),
        tag=tag,
        score=_number(value, "score"),
        low=_number(value, "low"),
        high=_number(value, "high"),
        items=int(_number(value, "items")),
        judge=str(_mapping(facts.get("judge")).get("model", "not recorded")),
        protocol=str(_mapping(facts.get("protocol")).get("name", "not recorded")),
        items_name=str(_mapping(facts.get("items")).get("source", "not recorded")),
        scale=scale,
    )


def _number(value: Mapping[str, JsonValue], name: str) -> float:
    number = value.get(name)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise GatherError(f"a score lacks `{name}`, it has {sorted(value)}")
    return float(number)


def _json(path: Path) -> Mapping[str, JsonValue]:
    if not path.is_file():
        return {}
    try:
        return _mapping(json.loads(path.read_text()))
    except (ValueError, RecursionError) as error:
        raise GatherError(f"{path.name} is not JSON ({error}); make it again") from None


def _mapping(value: object) -> Mapping[str, JsonValue]:
    return cast(Mapping[str, JsonValue], value) if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _has_readme(folder: Path) -> bool:
    return (folder / "README.md").is_file()


def _pictures(folder: Path) -> tuple[str, ...]:
    found = sorted(path for pattern in _PICTURES for path in folder.glob(pattern))
    return tuple(path.relative_to(folder).as_posix() for path in found[:4])
