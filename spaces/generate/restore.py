"""Settings that come back: from a link, or from a picture that was made here."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

import checks
from checks import Refusal
from engine import Engine

if TYPE_CHECKING:
    from echo4o.models.pictures import PictureRecord


class Values(NamedTuple):
    """The widgets of Create, in order."""

    prompt: str = ""
    aspect: str = next(iter(checks.ASPECTS))
    number: int = 1
    seed: int = -1
    quality: str = checks.FAST
    steps: int = checks.STEPS[checks.FAST]
    guidance: float = checks.GUIDANCE
    think: bool = False


class Restored(NamedTuple):
    """What a picture was made with."""

    values: Values
    references: int
    """Pictures that it was composed of; they are not in the file."""
    warning: str
    """Why a repetition may differ; empty when it will not."""


def link(values: Values) -> str:
    """The page's address with these settings in it."""
    given = values._asdict() | {"think": int(values.think)}
    return "?" + urlencode({name: value for name, value in given.items() if value != ""})


def from_link(query: Mapping[str, str]) -> Values | None:
    """Settings in an address; None without any. What is out of range there is left out."""
    found: dict[str, Any] = {}
    for name, read in _READERS.items():
        if name in query:
            try:
                found[name] = read(query[name])
            except (Refusal, ValueError):
                continue
    return Values(**found) if found else None


_READERS: dict[str, Callable[[str], Any]] = {
    "prompt": lambda text: checks.text(text, "prompt", checks.PROMPT_CHARACTERS),
    "aspect": lambda text: checks.text(text, "aspect", 40) if checks.aspect(text) else "",
    "number": lambda text: checks.whole(int(text), "number", 1, checks.MAX_PICTURES),
    "seed": lambda text: checks.whole(int(text), "seed", -1, checks.MAX_SEED),
    "quality": checks.quality,
    "steps": lambda text: checks.whole(int(text), "steps", 1, checks.MAX_STEPS),
    "guidance": lambda text: checks.number(float(text), "guidance", 1, checks.MAX_GUIDANCE),
    "think": lambda text: text == "1",
}


def from_file(path: object, engine: Engine) -> Restored:
    """Settings in a picture that this page or `echo4o model generate` made.

    Raises:
        Refusal: it has none, or some that this page cannot repeat.
    """
    from echo4o.errors import Echo4oError
    from echo4o.models.bagel.step_cache import StepCache
    from echo4o.models.pictures import read_record

    if not isinstance(path, str) or not checks.is_upload(path):
        raise Refusal("The file is missing: drop a PNG that was made here.")
    if Path(path).stat().st_size > checks.UPLOAD_BYTES:
        raise Refusal("The file is larger than 10 MB, and no picture of ours is.")
    try:
        record = read_record(Path(path))
    except Echo4oError as error:
        raise Refusal(
            "This file says nothing about how it was made: drop a PNG as it was downloaded here."
        ) from error
    asked = record.parameters
    cache = asked.get("step_cache")
    if cache not in (None, asdict(StepCache())):
        raise Refusal("This picture skipped steps in another way than this page does.")
    quality = checks.BEST if cache is None else checks.FAST
    values = Values(
        prompt=checks.text(record.prompt, "prompt in the file", checks.PROMPT_CHARACTERS),
        aspect=_aspect(asked.get("width"), asked.get("height"), record, engine),
        seed=checks.whole(record.seed, "seed in the file", 0, checks.MAX_SEED),
        quality=quality,
        steps=checks.whole(
            asked.get("num_inference_steps"), "steps in the file", 1, checks.MAX_STEPS
        ),
        guidance=checks.number(
            asked.get("guidance_scale"), "guidance in the file", 1, checks.MAX_GUIDANCE
        ),
        think=checks.switch(asked.get("think"), "think switch in the file"),
    )
    if asked.get("timestep_shift") != 3.0 or asked.get("image_guidance_scale") is not None:
        raise Refusal("This picture used settings that this page does not offer.")
    return Restored(values, len(record.references), _warning(record, engine))


def _aspect(width: object, height: object, record: "PictureRecord", engine: Engine) -> str:
    for name, proportion in checks.ASPECTS.items():
        if (width, height) == checks.size(proportion, engine.longest, engine.unit):
            return name
    if record.references:
        return checks.AS_REFERENCE
    raise Refusal("This picture has a size that this page does not make.")


def _warning(record: "PictureRecord", engine: Engine) -> str:
    if (record.model, record.revision) != (engine.name, engine.revision):
        return "It was made by another model, so this one will make another picture."
    if record.adapters:
        return "It was made with adapters that this page does not have."
    return ""
