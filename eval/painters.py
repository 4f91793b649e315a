"""What makes pictures on this machine: our own pipeline, or any text-to-image one of diffusers.

Models that are bought through an API are in buying.py.
"""

import hashlib
import inspect
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from echo4o.errors import Echo4oError
from echo4o.hub_reading import resolve
from echo4o.models.kinds import KINDS, OURS, open_pipeline, pipeline_class
from echo4o.records import sha256_file

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelIdentity:
    """Exactly which weights."""

    id: str
    """Hub id, name of the folder, or `api:` and the model's name there."""
    revision: str | None
    """Commit on the Hub; None for a folder."""
    sha256: str | None
    """Hash over the folder's files; None for a Hub id, whose commit says as much."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PaintSettings:
    """How pictures are made; everything here changes them."""

    seed: int = 0
    """Every picture's own seed follows from this one, its item's number and its sample."""
    steps: int | None = None
    """Denoising steps; None means the pipeline's default."""
    guidance: float | None = None
    """Guidance scale for the text; None means the pipeline's default."""
    size: tuple[int, int] | None = None
    """Width and height in pixels; None means what the model was made for."""
    dtype: str | None = None
    """Type that the weights are loaded in; None means as stored, or the library's default."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"`steps` must be at least 1, got {self.steps}")
        if self.seed < 0:
            raise ValueError(f"`seed` must not be negative, got {self.seed}")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"`size` must be at least 1x1, got {self.size[0]}x{self.size[1]}")

    def identity(self) -> dict[str, Any]:
        """Return what determines the pictures, as JSON values."""
        value: dict[str, Any] = {"seed": self.seed, "steps": self.steps, "guidance": self.guidance}
        value["size"] = None if self.size is None else list(self.size)
        return value if self.dtype is None else {**value, "dtype": self.dtype}


class Painter(Protocol):
    """The seam to whatever makes pictures."""

    identity: ModelIdentity
    made_by: str
    """Class of the pipeline."""

    def paint(
        self, prompts: Sequence[str], seeds: Sequence[int], settings: PaintSettings
    ) -> Sequence[Image.Image]:
        """Return one picture per prompt; a picture depends on its own prompt and seed only."""


class PipelinePainter:
    """A pipeline from a Hub id or a folder; loaded when the first picture is wanted."""

    def __init__(self, model: str, revision: str | None = None) -> None:
        self.identity = identify(model, revision)
        self.made_by = pipeline_class(model, self.identity.revision)
        self._source = model
        self._dtype: str | None = None

    def paint_from(
        self,
        prompts: Sequence[str],
        references: Sequence[Sequence[Image.Image]],
        seeds: Sequence[int],
        settings: PaintSettings,
    ) -> Sequence[Image.Image]:
        """Return one picture per prompt, each made from its own reference pictures.

        Raises:
            Echo4oError: the pipeline takes no reference pictures, or lacks a setting.
        """
        import torch

        self._dtype = settings.dtype
        if "image" not in inspect.signature(type(self._pipeline).__call__).parameters:
            raise Echo4oError(
                f"{self.made_by} of {self._source} takes no reference pictures; choose a pipeline "
                "whose call has `image`"
            )
        options, images = self._options(settings), []
        # One at a time: pipelines differ in how they read a batch of lists.
        for prompt, own, seed in zip(prompts, references, seeds, strict=True):
            generator = torch.Generator("cpu").manual_seed(seed)
            made = self._call(prompt, image=list(own), generator=generator, **options)
            images.append(made.images[0])
        return images

    def paint(
        self, prompts: Sequence[str], seeds: Sequence[int], settings: PaintSettings
    ) -> Sequence[Image.Image]:
        """Return one picture per prompt.

        Raises:
            Echo4oError: the pipeline makes no pictures from text alone, or lacks a setting.
        """
        import torch

        self._dtype = settings.dtype
        # Noise is drawn on the CPU, one generator per picture, so that it is the same everywhere.
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        made = self._call(list(prompts), generator=generators, **self._options(settings))
        flagged = getattr(made, "nsfw_content_detected", None) or ()
        for prompt, is_flagged in zip(prompts, flagged, strict=False):
            if is_flagged:
                logger.warning("the model's own filter blacked out the picture of %r", prompt)
        images: Sequence[Image.Image] = made.images
        return images

    def _call(self, prompts: list[str] | str, **options: Any) -> Any:
        try:
            return self._pipeline(prompts, **options)
        except (TypeError, ValueError) as error:
            if self.made_by == OURS:
                raise
            # Many pipelines name a picture as optional and cannot do without one.
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise Echo4oError(
                f"{self.made_by} of {self._source} cannot paint from text alone with these "
                f"settings: {said}"
            ) from error

    def _options(self, settings: PaintSettings) -> dict[str, Any]:
        wanted: dict[str, Any] = {
            "num_inference_steps": settings.steps,
            "guidance_scale": settings.guidance,
        }
        if settings.size is not None:
            wanted["width"], wanted["height"] = settings.size
        options = {name: value for name, value in wanted.items() if value is not None}
        known = inspect.signature(type(self._pipeline).__call__).parameters
        missing = [name for name in options if name not in known]
        if missing:
            raise Echo4oError(
                f"{self.made_by} has no setting `{missing[0]}`; leave it away, the pipeline has "
                "its own default"
            )
        return options

    @cached_property
    def _pipeline(self) -> Callable[..., Any]:
        import torch

        dtype = None if self._dtype is None else getattr(torch, self._dtype)
        chosen: dict[str, Any] = {"revision": self.identity.revision, "dtype": dtype}
        if self.made_by in KINDS:
            pipeline = open_pipeline(self.made_by, self._source, **chosen)
        else:
            pipeline = _load_other(self._source, **chosen)
        pipeline.set_progress_bar_config(disable=True)
        if torch.cuda.is_available():
            pipeline.to(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        return pipeline


def _load_other(source: str, revision: str | None, dtype: "torch.dtype | None") -> Any:
    from diffusers import DiffusionPipeline

    try:
        # Nothing that a repository brings is run: neither code nor pickled weights.
        pipeline = DiffusionPipeline.from_pretrained(
            source, revision=revision, dtype=dtype, trust_remote_code=False, use_safetensors=True
        )
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        said = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        raise Echo4oError(f"{source} does not load as a pipeline of diffusers: {said}") from error
    parameters = inspect.signature(type(pipeline).__call__).parameters
    needed = [
        name
        for name, one in parameters.items()
        if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD
    ]
    needs_more = [name for name in needed if name not in ("self", "prompt")]
    if needs_more or not {"prompt", "generator"} <= set(parameters):
        lacks = f"it needs `{needs_more[0]}`" if needs_more else "it takes no prompt and seed"
        raise Echo4oError(
            f"{source} is a {type(pipeline).__name__}, which makes no pictures from text alone "
            f"({lacks}); choose a text-to-image pipeline"
        )
    return pipeline


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


def manifest_facts(painter: Painter) -> Mapping[str, Any]:
    """Return what a picture folder says about its painter, beside the model."""
    return {} if painter.made_by == OURS else {"pipeline": painter.made_by}


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
