"""What the `model` verbs share: naming, loading and adapting a model, opening picture files."""

import argparse
import io
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import Echo4oError
from ..pictures import MAX_BYTES, PictureError, picture_facts
from ..records import sha256_file
from .kinds import KINDS, OURS, pipeline_class, pipeline_type

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline
    from PIL import Image

    from .bagel.pipeline import Echo4oPipeline
    from .pictures import AdapterUse

logger = logging.getLogger(__name__)

PLAIN_ADAPTER = "pytorch_lora_weights.safetensors"
"""File of an adapter as diffusers writes it."""
DTYPES = ("float32", "bfloat16", "float16")


class AdapterChoice(NamedTuple):
    """A LoRA adapter that was asked for."""

    source: str
    """Folder or Hub id."""
    weight: float = 1.0
    revision: str | None = None


def model_arguments(parser: argparse.ArgumentParser) -> argparse.Action:
    """MODEL and how to load it; returns the action of MODEL."""
    model = parser.add_argument("model", help="folder or Hub id, in either layout")
    parser.add_argument("--revision", help="branch, tag or commit of the Hub repository")
    parser.add_argument("--dtype", choices=DTYPES, help="of the main model (default: as stored)")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), help="default: cuda if any")
    return model


def open_model(args: argparse.Namespace) -> "Echo4oPipeline":
    """Load what `model_arguments` named, for a verb that needs an Echo4oPipeline.

    Raises:
        Echo4oError: it is another kind of model.
    """
    kind = pipeline_class(args.model, args.revision)
    if kind in KINDS and kind != OURS:
        raise Echo4oError(
            f"{args.model} is a model of {kind}, which only `model generate`, `info` and `push` "
            f"take; this verb needs one of {OURS}"
        )
    pipe: Echo4oPipeline = open_kind(args, OURS)
    return pipe


def open_kind(args: argparse.Namespace, kind: str) -> "DiffusionPipeline":
    """Load what `model_arguments` named as the pipeline of a class of `KINDS`."""
    from transformers.utils import logging

    logger.info("loading %s", args.model)
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    return open_on(
        kind, args.model, revision=args.revision, dtype=_dtype(args.dtype), device=args.device
    )


def open_on(
    kind: str,
    model: str,
    *,
    revision: str | None = None,
    dtype: "torch.dtype | None" = None,
    device: str | None = None,
) -> "DiffusionPipeline":
    """Load a model as the pipeline of a class of `KINDS`, where it shall work.

    Args:
        kind: The class.
        model: Folder or Hub id.
        revision: Of the Hub repository.
        dtype: Of its main part; default as stored.
        device: cpu, cuda or auto; default cuda if there is any.

    Raises:
        Echo4oError: cuda, and there is none; or a `CheckpointError`.
    """
    import torch

    best = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" != best:
        raise Echo4oError(
            "--device cuda needs a CUDA device and none is visible; leave it out to use the CPU"
        )
    chosen = {"revision": revision, "dtype": dtype}
    load = pipeline_type(kind).from_pretrained
    if kind == OURS:
        return load(model, device_map=device or best, **chosen)
    return load(model, **chosen).to(best if device in (None, "auto") else device)


def _dtype(name: str | None) -> "torch.dtype | None":
    import torch

    named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return named[name] if name else None


def open_picture(path: Path) -> "Image.Image":
    """Read a picture file that anybody may have written.

    Raises:
        Echo4oError: there is none, or it is too large, damaged or of another kind.
    """
    from PIL import Image

    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise Echo4oError(f"{path} has {size} bytes; at most {MAX_BYTES} are accepted")
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise Echo4oError(f"there is no picture file {path}") from error
    try:
        picture_facts(data)
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "GIF"))
        image.load()
    except (PictureError, OSError, SyntaxError, ValueError, EOFError) as error:
        raise Echo4oError(f"{path} cannot be read as a picture: {error}") from error
    return image


def adapter_arguments(parser: argparse.ArgumentParser) -> None:
    """Which LoRA adapters to put into the model."""
    parser.add_argument(
        "--adapter",
        type=_adapter,
        action="append",
        default=[],
        metavar="NAME[=WEIGHT]",
        help="folder or Hub id of a LoRA adapter; may be given several times",
    )
    parser.add_argument(
        "--any-base", action="store_true", help="also adapters that name another base model"
    )


def _adapter(text: str) -> AdapterChoice:
    source, equals, weight = text.rpartition("=")
    if not equals:
        return AdapterChoice(text)
    try:
        return AdapterChoice(source, float(weight))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{weight!r} is no weight, in {text!r}") from None


def use_adapters(
    pipe: Any, choices: Sequence[AdapterChoice], *, any_base: bool
) -> "tuple[AdapterUse, ...]":
    """Add adapters to the weights for good; returns what was added.

    Raises:
        Echo4oError: a weight is no finite number; see also `load_lora_weights`.
    """
    from .pictures import AdapterUse

    used = []
    for number, choice in enumerate(choices):
        if not abs(choice.weight) < 1e6:
            raise Echo4oError(f"the weight of {choice.source} must be finite, got {choice.weight}")
        logger.info("adding %s with weight %g", choice.source, choice.weight)
        name = f"adapter_{number}"
        if type(pipe).__name__ == OURS:
            adapter = pipe.load_lora_weights(
                choice.source, name, revision=choice.revision, any_base=any_base
            )
            sha256, revision = adapter.sha256(), adapter.revision
        else:
            sha256, revision = _add_plain(pipe, choice, name)
        used.append(
            AdapterUse(source=choice.source, weight=choice.weight, sha256=sha256, revision=revision)
        )
    if used:
        names = [f"adapter_{number}" for number in range(len(used))]
        pipe.set_adapters(names, [choice.weight for choice in choices])
        pipe.fuse_lora(safe_fusing=True)
        pipe.unload_lora_weights()
    return tuple(used)


def _add_plain(pipe: Any, choice: AdapterChoice, name: str) -> tuple[str, str | None]:
    """Add an adapter in diffusers' own form; returns its hash and commit.

    Raises:
        CheckpointError: there is none.
    """
    from .checkpoint import CheckpointError, find_folder

    patterns = ["*.safetensors", "*.json"]
    folder, commit = find_folder(choice.source, revision=choice.revision, patterns=patterns)
    file = folder / PLAIN_ADAPTER
    if not file.is_file():
        raise CheckpointError(
            f"{choice.source} holds no {PLAIN_ADAPTER}; give the folder or Hub id of an adapter "
            f"for {type(pipe).__name__}"
        )
    try:
        pipe.load_lora_weights(folder, name)
    except (RuntimeError, ValueError) as error:
        said = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        raise CheckpointError(
            f"{choice.source} does not fit {type(pipe).__name__}: {said}"
        ) from error
    return sha256_file(file), commit
