"""Makes a picture for every item: batched, with recorded seeds, resumable, one file per item.

A folder of pictures belongs to one model and one set of settings, named in its manifest; finished
pictures are kept, and a run with anything else in the same folder is refused.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image
from tqdm import tqdm

from echo4o.errors import Echo4oError
from echo4o.hub import resolve
from echo4o.models.pictures import PictureRecord, encode_png
from echo4o.records import sha256_file, write_atomic

from .items import Item, ItemSet
from .pictures import find_pictures, name_of

if TYPE_CHECKING:
    from echo4o import Echo4oPipeline

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateConfig:
    """How pictures are made; everything but `batch_size` changes them."""

    seed: int = 0
    """Every item's own seed follows from this one and its number."""
    steps: int | None = None
    """Denoising steps; None means the pipeline's default."""
    guidance: float | None = None
    """Guidance scale for the text; None means the pipeline's default."""
    size: tuple[int, int] | None = None
    """Width and height in pixels; None means what the model was made for."""
    batch_size: int = 8
    """Pictures made at once."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"`steps` must be at least 1, got {self.steps}")
        if self.batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {self.batch_size}")
        if self.seed < 0:
            raise ValueError(f"`seed` must not be negative, got {self.seed}")

    def identity(self) -> dict[str, Any]:
        """Return what determines the pictures."""
        size = None if self.size is None else list(self.size)
        return {"seed": self.seed, "steps": self.steps, "guidance": self.guidance, "size": size}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelIdentity:
    """Exactly which weights."""

    id: str
    """Hub id, or the name of the folder."""
    revision: str | None
    """Commit on the Hub; None for a folder."""
    sha256: str | None
    """Hash over the folder's files; None for a Hub id, whose commit says as much."""


class Painter(Protocol):
    """The seam to whatever makes pictures."""

    identity: ModelIdentity

    def paint(
        self, prompts: Sequence[str], seeds: Sequence[int], config: GenerateConfig
    ) -> Sequence[Image.Image]:
        """Return one picture per prompt; a picture depends on its own prompt and seed only."""


class PipelinePainter:
    """Our own pipeline, from a Hub id or a folder; loaded when the first picture is wanted."""

    def __init__(self, model: str, revision: str | None = None) -> None:
        self.identity = identify(model, revision)
        self._source = model
        self._pipeline: Echo4oPipeline | None = None

    def paint(
        self, prompts: Sequence[str], seeds: Sequence[int], config: GenerateConfig
    ) -> Sequence[Image.Image]:
        """Return one picture per prompt."""
        import torch

        options: dict[str, Any] = {}
        if config.steps is not None:
            options["num_inference_steps"] = config.steps
        if config.guidance is not None:
            options["guidance_scale"] = config.guidance
        if config.size is not None:
            options["width"], options["height"] = config.size
        # Noise is drawn on the CPU, one generator per picture, so that it is the same everywhere.
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        pipeline: Callable[..., Any] = self._load()
        images: Sequence[Image.Image] = pipeline(
            list(prompts), generator=generators, **options
        ).images
        return images

    def _load(self) -> "Echo4oPipeline":
        if self._pipeline is None:
            import torch

            from echo4o import Echo4oPipeline

            pipeline = Echo4oPipeline.from_pretrained(self._source, revision=self.identity.revision)
            pipeline.set_progress_bar_config(disable=True)
            if torch.cuda.is_available():
                pipeline.to("cuda")
            self._pipeline = pipeline
        return self._pipeline


def identify(model: str, revision: str | None) -> ModelIdentity:
    """Pin a model: the commit of a Hub repository, or a hash over a folder's files.

    Raises:
        Echo4oError: the name is neither a folder nor a Hub id, or the Hub has no such model.
    """
    folder = Path(model)
    if folder.is_dir():
        if revision is not None:
            raise Echo4oError(f"{model} is a folder and has no revision {revision!r}; drop it")
        return ModelIdentity(id=folder.resolve().name, revision=None, sha256=_hash_folder(folder))
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise Echo4oError(f"{model!r} is neither a folder nor a Hub id (owner/name)")
    return ModelIdentity(id=model, revision=resolve(model, "model", revision), sha256=None)


def seed_of(seed: int, number: int) -> int:
    """Return the seed of item `number`: 0 to 2**31 - 1, unrelated between neighbours."""
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def generate(
    items: Sequence[Item],
    source: ItemSet,
    painter: Painter,
    folder: Path,
    config: GenerateConfig,
    *,
    progress: bool = False,
) -> dict[int, Path]:
    """Make the pictures that are not there yet; return all of them by item number.

    Args:
        items: For which items.
        source: The set they come from; it is part of the manifest.
        painter: What makes the pictures.
        folder: Where they go, as `<number>.png`.
        config: Settings.
        progress: Show a bar on stderr.

    Raises:
        Echo4oError: the folder holds pictures of another model, item set or setting.
    """
    _settle_manifest(folder, _manifest(source, painter, config))
    present = find_pictures(folder)
    todo = [item for item in items if item.number not in present]
    bar = tqdm(
        total=len(items),
        initial=len(items) - len(todo),
        desc="generate",
        disable=not progress,
        unit="picture",
    )
    with bar:
        for batch in _batches(todo, config.batch_size):
            seeds = [seed_of(config.seed, item.number) for item in batch]
            pictures = painter.paint([item.prompt for item in batch], seeds, config)
            for item, seed, picture in zip(batch, seeds, pictures, strict=True):
                path = folder / name_of(item)
                write_atomic(path, _encode(picture, item, seed, painter.identity, config))
                present[item.number] = path
            bar.update(len(batch))
    return {item.number: present[item.number] for item in items}


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


def _manifest(source: ItemSet, painter: Painter, config: GenerateConfig) -> dict[str, Any]:
    return {
        "format": 1,
        "items": {"source": source.source, "sha256": source.sha256},
        "model": asdict(painter.identity),
        "settings": config.identity(),
    }


def _settle_manifest(folder: Path, wanted: dict[str, Any]) -> None:
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


def _differences(found: object, wanted: object, name: str = "") -> Iterator[str]:
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for key in dict.fromkeys([*found, *wanted]):
            yield from _differences(found.get(key), wanted.get(key), f"{name}.{key}".lstrip("."))
    elif found != wanted:
        yield f"{name} is {found!r} there and {wanted!r} now"


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _encode(
    picture: Image.Image, item: Item, seed: int, model: ModelIdentity, config: GenerateConfig
) -> bytes:
    facts = PictureRecord(
        prompt=item.prompt,
        model=model.id,
        revision=model.revision,
        seed=seed,
        parameters={"item": item.number, "model_sha256": model.sha256, **config.identity()},
    )
    return encode_png(picture, facts)


def _hash_folder(folder: Path) -> str:
    """Hash of the names and contents of a model folder's files; prose and records left out."""
    digest = hashlib.sha256()
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in files:
        name = path.relative_to(folder).as_posix()
        if name.startswith(".") or path.suffix in (".md", ".png") or path.name == "record.json":
            continue
        digest.update(f"{name}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()
