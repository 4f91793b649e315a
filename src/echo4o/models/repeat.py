"""Repeating a picture from the record it carries: what is believed, and what must be the same.

A record comes from a file that anybody may have written. Paths in it are never opened: references
are found by name and must have the recorded content.
"""

import logging
import os
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..errors import Echo4oError
from ..records import sha256_file
from .kinds import KINDS
from .opening import DTYPES
from .pictures import PictureRecord, Reference, read_record

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL import Image

logger = logging.getLogger(__name__)

MOST_STEPS = 1000
"""More are not believed: a record must not keep the machine busy for days."""
_LIBRARIES = ("torch", "diffusers", "transformers", "echo4o")


def _is_count(most: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and 1 <= value <= most


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6


PARAMETERS: dict[str, Callable[[object], bool]] = {
    "num_inference_steps": _is_count(MOST_STEPS),
    "guidance_scale": _is_number,
    "image_guidance_scale": lambda value: value is None or _is_number(value),
    "timestep_shift": _is_number,
    "height": _is_count(1 << 20),
    "width": _is_count(1 << 20),
    "think": lambda value: type(value) is bool,
}
"""Arguments of the pipeline's call that a record holds, and what each may be."""


def read_request(path: Path) -> PictureRecord:
    """The record of a picture that `model generate` made.

    Raises:
        Echo4oError: it has none, or one that cannot be repeated.
    """
    record = read_record(path)
    given = set(record.parameters)
    strange = min((sorted(given ^ set(kind.settings)) for kind in KINDS.values()), key=len)
    if strange or record.seed is None:
        what = f"`{strange[0]}`" if strange else "a missing seed"
        raise Echo4oError(
            f"{path} cannot be repeated: only pictures of `model generate` of this version can, "
            f"and its record has other contents ({what})"
        )
    for name, value in record.parameters.items():
        if not PARAMETERS[name](value):
            raise Echo4oError(f"{path}: `{name}` cannot be {value!r}")
    if not 0 <= record.seed < 1 << 63:
        raise Echo4oError(f"{path}: `seed` cannot be {record.seed}")
    if not all(_is_number(use.weight) for use in record.adapters):
        raise Echo4oError(f"{path}: an adapter's weight is no finite number")
    return record


def find_references(record: PictureRecord, given: Sequence[Path], beside: Path) -> list[Path]:
    """The files of the recorded references: those given, else of the same name, always checked.

    Raises:
        Echo4oError: one is missing or has another content.
    """
    if given and len(given) != len(record.references):
        raise Echo4oError(
            f"the picture was made with {len(record.references)} references, got {len(given)} "
            "with --image; leave --image out to look for them beside the picture"
        )
    found = [*given] or [_search(one, beside) for one in record.references]
    for path, one in zip(found, record.references, strict=True):
        if not path.is_file() or sha256_file(path) != one.sha256:
            raise Echo4oError(
                f"{path} is not the reference {one.name!r} the picture was made with "
                f"(sha256 {one.sha256[:16]}...); give the same files in order with --image"
            )
    return found


def _search(reference: Reference, beside: Path) -> Path:
    name = reference.name
    if name in ("", ".", "..") or Path(name).name != name or "\\" in name or "\0" in name:
        raise Echo4oError(f"the record names a reference {name!r}, which is no plain file name")
    places = [folder / name for folder in (beside, Path()) if (folder / name).is_file()]
    return next((path for path in places if sha256_file(path) == reference.sha256), Path(name))


def runtime(pipe: "DiffusionPipeline") -> dict[str, str | int]:
    """What may move a pixel by one level on this machine."""
    import torch

    from . import native

    main = pipe.components[KINDS[type(pipe).__name__].main]
    facts: dict[str, str | int] = {
        "dtype": str(main.dtype).removeprefix("torch."),
        "device": main.device.type,
        "threads": torch.get_num_threads(),
    }
    if main.device.type == "cpu":
        facts["kernels"] = "compiled" if native.kernels() else "torch"
    return facts | {name: version(name) for name in _LIBRARIES}


def use_threads(record: PictureRecord) -> None:
    """Compute with as many threads as then, if this machine has them."""
    import torch

    threads = record.runtime.get("threads")
    if type(threads) is int and 1 <= threads <= (os.cpu_count() or 1):
        torch.set_num_threads(threads)


def compare(then: PictureRecord, now: PictureRecord, old: "Image.Image", new: "Image.Image") -> str:
    """One sentence: whether the pixels are the same, and what changed if they are not."""
    from PIL import ImageChops

    if old.size == new.size:
        extrema = ImageChops.difference(old, new).getextrema()
        highest = max(high for _, high in cast("list[tuple[int, int]]", extrema))
        if highest == 0:
            return "all pixels equal"
        distance = f"pixels differ by at most {highest} of 255"
    else:
        distance = f"sizes differ: {old.size} and {new.size}"
    changed = [
        f"{name} {then.runtime.get(name, 'unknown')} -> {value}"
        for name, value in now.runtime.items()
        if then.runtime.get(name) != value
    ]
    why = f"changed since: {', '.join(changed)}" if changed else "the model may have changed"
    return f"{distance}; {why}"


def recorded_dtype(record: PictureRecord) -> str | None:
    """The number type the picture was made in, if it is one we know."""
    found = record.runtime.get("dtype")
    return str(found) if found in DTYPES else None
