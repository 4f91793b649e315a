"""Makes pictures for every item: batched, with recorded seeds, resumable, one file per picture.

A folder of pictures belongs to one model and one set of settings, named in its manifest; finished
pictures are kept, and a run with anything else in the same folder is refused. Several processes
(`--processes`, torchrun, accelerate launch) share what is left to do.
"""

import datetime
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image, ImageOps
from tqdm import tqdm

from echo4o.errors import Echo4oError
from echo4o.launch import is_rank
from echo4o.models.pictures import PictureRecord, Reference, encode_png
from echo4o.records import sha256_file, write_atomic

from .items import Item, ItemSet
from .painters import ModelIdentity, Painter, PaintSettings, PipelinePainter, manifest_facts
from .pictures import find_pictures, name_of, opened

if TYPE_CHECKING:
    from accelerate import PartialState

MANIFEST = "manifest.json"
_LONGEST_WAIT = datetime.timedelta(days=7)
"""Of one process for the slowest of the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateConfig(PaintSettings):
    """How pictures are made, how many, and how many at once."""

    samples: int = 1
    """Pictures of each item; more can be added later."""
    batch_size: int = 8
    """Pictures made at once."""

    def __post_init__(self) -> None:
        PaintSettings.__post_init__(self)
        if self.samples < 1:
            raise ValueError(f"`samples` must be at least 1, got {self.samples}")
        if self.batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {self.batch_size}")


class Wanted(NamedTuple):
    """One picture to be made."""

    item: Item
    sample: int
    """From 1."""


def seed_of(seed: int, number: int, sample: int = 1) -> int:
    """Return the seed of a picture of item `number`: 0 to 2**31 - 1, unrelated between pictures."""
    name = f"{seed}/{number}" if sample == 1 else f"{seed}/{number}/{sample}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") >> 1


def generate(
    items: Sequence[Item],
    source: ItemSet,
    painter: Painter,
    folder: Path,
    config: GenerateConfig,
    *,
    progress: bool = False,
) -> int:
    """Make the pictures that are not there yet; return how many this process made.

    One of several processes makes its share, and returns when all have finished.

    Args:
        items: For which items.
        source: The set they come from; it is part of the manifest.
        painter: What makes the pictures.
        folder: Where they go: `7.png`, further samples of the same item `7-2.png`, `7-3.png`.
        config: Settings.
        progress: Show a bar on stderr.

    Raises:
        Echo4oError: the folder holds pictures of another model, item set or setting.
    """
    processes = _processes()
    settle_manifest(folder, _manifest(source, painter, config))
    todo = missing(items, folder, config.samples)
    number, count = 0, 1
    if processes is not None:
        processes.wait_for_everyone()  # until each has seen what is left; nobody has begun
        number, count = processes.process_index, processes.num_processes
    share = todo[number::count]
    title = "generate" if count == 1 else f"generate, process {number + 1} of {count}"
    with tqdm(total=len(share), desc=title, disable=not progress, unit="picture") as bar:
        for batch in _batches(share, config.batch_size):
            seeds = [seed_of(config.seed, one.item.number, one.sample) for one in batch]
            pictures = _paint(painter, batch, seeds, config)
            for one, seed, picture in zip(batch, seeds, pictures, strict=True):
                data = _encode(picture, one, seed, painter.identity, config)
                write_atomic(folder / name_of(one.item, one.sample), data)
            bar.update(len(batch))
    if processes is not None:
        processes.wait_for_everyone()
    return len(share)


def _paint(
    painter: Painter, batch: Sequence[Wanted], seeds: Sequence[int], config: GenerateConfig
) -> Sequence[Image.Image]:
    prompts = [one.item.prompt for one in batch]
    if not any(one.item.references for one in batch):
        return painter.paint(prompts, seeds, config)
    if not isinstance(painter, PipelinePainter):
        raise Echo4oError(
            f"{painter.made_by} paints from text alone, and these items have pictures"
        )
    references = [[_reference(name) for name in one.item.references] for one in batch]
    return painter.paint_from(prompts, references, seeds, config)


def _reference(name: str) -> Image.Image:
    with opened(Path(name).read_bytes(), name) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def missing(items: Sequence[Item], folder: Path, samples: int) -> list[Wanted]:
    """Return the pictures that `folder` lacks: first samples first, then the second ones."""
    found = {sample: find_pictures(folder, sample) for sample in range(1, samples + 1)}
    return [
        Wanted(item, sample)
        for sample, present in found.items()
        for item in items
        if item.number not in present
    ]


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return what a picture folder says about itself, None when it says nothing."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise Echo4oError(f"{path} is not JSON ({error}); use a new folder") from error
    if not isinstance(value, dict):
        raise Echo4oError(f"{path} is not a manifest; use a new folder")
    return value


def settle_manifest(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Write a picture folder's manifest, or hold what is there against it.

    Raises:
        Echo4oError: the folder's pictures were made differently, or nobody knows how.
    """
    found = read_manifest(folder)
    if found is None:
        if folder.is_dir() and find_pictures(folder):
            raise Echo4oError(
                f"{folder} has pictures but no {MANIFEST}, so nobody knows what made them; "
                "judge them with `echo4o eval judge`, or choose another folder"
            )
        write_atomic(folder / MANIFEST, json.dumps(wanted, indent=2) + "\n")
        return
    differences = list(_differences(found, wanted))
    if differences:
        raise Echo4oError(
            f"the pictures in {folder} were made differently: {'; '.join(differences)}. "
            "Choose another --out, or delete that folder"
        )


def _manifest(source: ItemSet, painter: Painter, config: GenerateConfig) -> dict[str, Any]:
    return {
        "format": 1,
        "items": {"source": source.source, "sha256": source.sha256},
        "model": asdict(painter.identity),
        **manifest_facts(painter),
        "settings": config.identity(),
    }


def _processes() -> "PartialState | None":
    """The processes of this run; None when it is the only one."""
    if not is_rank():
        return None
    import torch
    from accelerate import PartialState

    # Unless it is told, accelerate gives several processes without a GPU no barriers.
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=_LONGEST_WAIT)
    return state if state.num_processes > 1 else None


def _differences(found: object, wanted: object, name: str = "") -> Iterator[str]:
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for key in dict.fromkeys([*found, *wanted]):
            yield from _differences(found.get(key), wanted.get(key), f"{name}.{key}".lstrip("."))
    elif found != wanted:
        yield f"{name} is {found!r} there and {wanted!r} now"


def _batches(wanted: Sequence[Wanted], size: int) -> Iterator[Sequence[Wanted]]:
    for start in range(0, len(wanted), size):
        yield wanted[start : start + size]


def _encode(
    picture: Image.Image, one: Wanted, seed: int, model: ModelIdentity, config: GenerateConfig
) -> bytes:
    files = [Path(name) for name in one.item.references]
    facts = PictureRecord(
        prompt=one.item.prompt,
        model=model.id,
        revision=model.revision,
        seed=seed,
        parameters={
            "item": one.item.number,
            "sample": one.sample,
            "model_sha256": model.sha256,
            **config.identity(),
        },
        references=tuple(Reference(name=file.name, sha256=sha256_file(file)) for file in files),
    )
    return encode_png(picture, facts)
