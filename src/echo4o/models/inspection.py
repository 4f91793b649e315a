"""What any model of ours holds, read from headers alone, whichever pipeline opens it."""

from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from ..errors import Echo4oError
from .kinds import KINDS, OURS, pipeline_class

_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}


def inspect(name: str | Path, *, revision: str | None = None) -> dict[str, Any]:
    """Facts about a checkpoint, in the order to print them.

    Raises:
        Echo4oError: it is none of our kinds; or a `CheckpointError`, when files are missing or
            damaged, or tensors do not fit the configuration.
    """
    from .bagel import inspection as of_bagel

    kind = pipeline_class(str(name), revision)
    if kind not in KINDS:
        raise Echo4oError(f"{name} names {kind} as its pipeline; known are {', '.join(KINDS)}")
    if kind == OURS:
        return of_bagel.inspect(name, revision=revision)
    read = {"OmniGen2Pipeline": _omnigen2, "Blip3oPipeline": _blip3o}[kind]
    commit, layout, parts, missing = read(name, revision)
    counts = {part: sum(prod(one.shape) for one in own) for part, own in parts.items()}
    stored = [one for own in parts.values() for one in own]
    size = sum(prod(one.shape) * _BYTES.get(one.dtype, 1) for one in stored)
    # The autoencoder computes in float32 whatever the rest does.
    rest, vae = sum(counts.values()) - counts["vae"], 4 * counts["vae"]
    return {
        "model": str(name),
        "revision": commit,
        "pipeline": kind,
        "layout": layout,
        **counts,
        "dtypes": dict(Counter(one.dtype for one in stored)),
        "tensors": len(stored),
        "gigabytes": round(size / 1e9, 3),
        "memory bfloat16": f"{(2 * rest + vae) / 1e9:.2f} GB",
        "memory float32": f"{(4 * rest + vae) / 1e9:.2f} GB",
        "missing": missing,
    }


def _omnigen2(name: str | Path, revision: str | None) -> tuple[Any, ...]:
    from .bagel.checkpoint import read_headers
    from .omnigen2 import assembly

    folder, commit = assembly.locate(name, revision=revision)
    parts = {part: read_headers(folder / part, stem) for part, stem in assembly.WEIGHTS.items()}
    assembly.check_transformer(parts[assembly.MODEL_FOLDER], folder / assembly.MODEL_FOLDER)
    return commit, "released", _facts(parts), "nothing"


def _blip3o(name: str | Path, revision: str | None) -> tuple[Any, ...]:
    from .blip3o import assembly, weights

    located = assembly.locate(name, revision=revision)
    if located.layout == "released":
        parts = weights.read_parts(located.folder)
    else:
        parts = assembly.read_parts(located.folder)
    missing = "nothing"
    if assembly.DECODER not in parts:
        missing = "unet (the autoencoder decodes features at once)"
    return located.revision, located.layout, _facts(parts), missing


def _facts(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {part: list(tensors.values()) for part, tensors in parts.items()}
