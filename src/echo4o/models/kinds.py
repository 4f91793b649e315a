"""Which pipeline opens a model, how its folder names it, and the settings of a picture of it.

Imports none of them.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..errors import Echo4oError
from ..hub_reading import download_file
from ..records import write_atomic

if TYPE_CHECKING:
    import torch

INDEX = "model_index.json"


class Kind(NamedTuple):
    """A pipeline of this package."""

    module: str
    settings: tuple[str, ...]
    """Arguments of its call that a picture's record holds."""
    main: Literal["model", "transformer"]
    """Its largest part of its own."""


_EVERY = ("num_inference_steps", "guidance_scale")
_SIZED = (*_EVERY, "image_guidance_scale", "height", "width")
OURS = "Echo4oPipeline"
KINDS = {
    OURS: Kind("bagel", (*_SIZED, "timestep_shift", "think"), "model"),
    "OmniGen2Pipeline": Kind("omnigen2", _SIZED, "transformer"),
    "Blip3oPipeline": Kind("blip3o", _EVERY, "transformer"),
}
"""By the class that `model_index.json` names."""


def pipeline_class(model: str, revision: str | None = None) -> str:
    """The class that a model's `model_index.json` names, which need not be one of `KINDS`.

    Without that file it is ours, or BLIP3-o's when `config.json` says so: neither of the authors
    has one.

    Raises:
        Echo4oError: the file is there and names no class.
    """
    path = _file(model, INDEX, revision)
    if path is None:
        config = _file(model, "config.json", revision)
        kind = "" if config is None else _read(config, "model_type", model)
        return "Blip3oPipeline" if str(kind).startswith("blip3o") else OURS
    named = _read(path, "_class_name", model)
    if isinstance(named, list) and named:
        named = named[-1]  # ["pipeline", "Echo4oPipeline"]: a file of the repository, and the class
    if not isinstance(named, str) or not named.isidentifier():
        raise Echo4oError(f"{INDEX} of {model} names {named!r:.80} as its class; that is none")
    return named


def pipeline_type(name: str) -> Any:
    """The class of one of `KINDS`.

    Raises:
        Echo4oError: it is none of them.
    """
    if name not in KINDS:
        raise Echo4oError(f"{name} is none of the pipelines of echo4o: {', '.join(KINDS)}")
    return getattr(import_module(f".{KINDS[name].module}.pipeline", __package__), name)


def open_pipeline(
    name: str, source: str | Path, *, revision: str | None, dtype: "torch.dtype | None"
) -> Any:
    """The pipeline of a class of `KINDS`, loaded by itself: nothing of a repository is run.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged or does not fit.
    """
    return pipeline_type(name).from_pretrained(source, revision=revision, dtype=dtype)


def finish_folder(folder: Path, pipeline: str, model: type, file: str) -> None:
    """Make a folder that diffusers has written loadable by diffusers with trust, on any machine.

    From the Hub diffusers takes a class only from a library it knows or from a file in the
    repository, so pipeline and main part get one of a single line each. What an earlier save left,
    in shards or in one file, does not stay beside the other form.

    Args:
        folder: of a whole pipeline.
        pipeline: one of `KINDS`.
        model: class of its main part.
        file: name of the file for it.
    """
    kind = KINDS[pipeline]
    for names in folder.glob("*/*.safetensors.index.json"):
        whole = names.with_name(names.name.removesuffix(".index.json"))
        if whole.is_file():
            min(whole, names, key=lambda path: path.stat().st_mtime_ns).unlink()
    index = json.loads((folder / INDEX).read_bytes())
    index["_class_name"], index[kind.main] = ["pipeline", pipeline], [file, model.__name__]
    home = f"{__package__}.{kind.module}.pipeline"
    write_atomic(folder / kind.main / f"{file}.py", _import(model.__module__, model.__name__))
    write_atomic(folder / "pipeline.py", _import(home, pipeline))
    write_atomic(folder / INDEX, json.dumps(index, indent=2) + "\n")
    for config in folder.glob("*/config.json"):
        values = json.loads(config.read_bytes())
        # Where a part was loaded from: nobody else has that folder, and it may name its owner.
        kept = {name: value for name, value in values.items() if name != "_name_or_path"}
        if config.parent.name == kind.main and "_class_name" in kept:
            kept["_class_name"] = model.__name__  # it is another while processes share it (FSDP)
        if kept != values:
            write_atomic(config, json.dumps(kept, indent=2) + "\n")


def _import(module: str, name: str) -> str:
    return f"from {module} import {name} as {name}\n"


def _read(path: Path, key: str, model: str) -> object:
    try:
        return json.loads(path.read_bytes())[key]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if key != "_class_name":
            return None
        raise Echo4oError(f"{INDEX} of {model} names no pipeline class ({error!r})") from error


def _file(model: str, name: str, revision: str | None) -> Path | None:
    if Path(model).is_dir():
        path = Path(model) / name
        return path if path.is_file() else None
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        return None  # no Hub id: whoever opens it says so
    from huggingface_hub import constants, try_to_load_from_cache

    if constants.HF_HUB_OFFLINE:  # what is not in the cache was not on the Hub, or is not needed
        cached = try_to_load_from_cache(model, name, revision=revision)
        return Path(cached) if isinstance(cached, str) else None
    return download_file(model, "model", name, revision or "main")
