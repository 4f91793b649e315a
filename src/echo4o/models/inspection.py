"""What any model of ours holds, read from headers alone, whichever pipeline opens it."""

from collections import Counter
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

from ..errors import Echo4oError
from .checkpoint import BYTES
from .kinds import KINDS, OURS, pipeline_class


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
    assembly = import_module(f".{KINDS[kind].module}.assembly", __package__)
    located = assembly.locate(name, revision=revision)
    parts = {part: list(own.values()) for part, own in assembly.read_parts(located).items()}
    missing = "nothing"
    if kind == "Blip3oPipeline" and "unet" not in parts:
        missing = "unet (the autoencoder decodes features at once)"
    counts = {part: sum(prod(one.shape) for one in own) for part, own in parts.items()}
    stored = [one for own in parts.values() for one in own]
    size = sum(prod(one.shape) * BYTES[one.dtype] for one in stored)
    # The autoencoder computes in float32 whatever the rest does.
    rest, vae = sum(counts.values()) - counts["vae"], 4 * counts["vae"]
    return {
        "model": str(name),
        "revision": located.revision,
        "pipeline": kind,
        "layout": located.layout,
        **counts,
        "dtypes": dict(Counter(one.dtype for one in stored)),
        "tensors": len(stored),
        "gigabytes": round(size / 1e9, 3),
        "memory bfloat16": f"{(2 * rest + vae) / 1e9:.2f} GB",
        "memory float32": f"{(4 * rest + vae) / 1e9:.2f} GB",
        "missing": missing,
    }
