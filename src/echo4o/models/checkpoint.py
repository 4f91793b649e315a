"""Finding and checking checkpoint files: folders, Hub ids, JSON, and the headers of safetensors.

Knows no model and no parameter names; problems are found before anything is loaded.
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

from ..errors import Echo4oError
from ..hub_errors import patiently

MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.jinja")
"""What is downloaded of a model."""
_MAX_HEADER = 100_000_000
BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
"""Of a number of each type that safetensors knows, where these are whole bytes."""


class CheckpointError(Echo4oError, ValueError):
    """A checkpoint that cannot be loaded: names what is wrong with it."""


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """What a safetensors header says about one tensor."""

    dtype: str
    shape: tuple[int, ...]
    file: Path


def find_folder(
    name: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    patterns: Sequence[str] = MODEL_FILES,
) -> tuple[Path, str | None]:
    """A folder as it is, or what matches of a Hub repository and its commit.

    Raises:
        CheckpointError: this is neither a folder nor a Hub id.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    if Path(name).is_dir():
        return Path(name), None
    name = str(name)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise CheckpointError(
            f"there is no folder {name}; give a model folder or a Hub id (ORG/NAME)"
        )

    def fetch() -> str:
        return str(
            snapshot_download(
                name, revision=revision, cache_dir=cache_dir, allow_patterns=[*patterns]
            )
        )

    try:
        folder = Path(patiently(f"download {name} at {revision or 'main'}", fetch))
    except HFValidationError as error:
        raise CheckpointError(
            f"{name!r} is neither a folder on this machine nor a Hub id like org/name"
        ) from error
    return folder, folder.name


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: the file is missing or no valid JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; the checkpoint is incomplete") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is no valid JSON ({error}); correct that place, often a trailing comma"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} should hold a JSON object, got {type(value).__name__}")
    return value


def read_header(path: Path) -> dict[str, TensorFacts]:
    """Names, types and shapes of the tensors of one safetensors file, checked against its size.

    Raises:
        CheckpointError: the file is missing, cut off, or not safetensors.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; the checkpoint is incomplete")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _MAX_HEADER + 1
        if length > _MAX_HEADER or size < 8 + length:
            raise CheckpointError(
                f"{path} is no whole safetensors file ({size} bytes); download it again"
            )
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} has a broken header; download it again") from error
    try:
        header.pop("__metadata__", None)
        spans = sorted(_span(facts) for facts in header.values())
        if any(end != start for (_, end), (start, _) in pairwise([(0, 0), *spans])):
            raise ValueError("tensors overlap, or leave a hole")
        tensors = {
            name: TensorFacts(facts["dtype"], tuple(facts["shape"]), path)
            for name, facts in header.items()
        }
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} has a header that describes no tensors") from error
    end = spans[-1][1] if spans else 0
    if size != 8 + length + end:
        raise CheckpointError(
            f"{path} has {size} bytes but its header announces {8 + length + end}; "
            "it was cut off or damaged: download it again"
        )
    return tensors


def _span(facts: Any) -> tuple[int, int]:
    """Where a tensor begins and ends among the data; LookupError and the like where it is none."""
    start, end = facts["data_offsets"]
    if any(type(one) is not int or one < 0 for one in (start, end, *facts["shape"])):
        raise ValueError("sizes are whole numbers from 0")
    if end - start != prod(facts["shape"]) * BYTES[facts["dtype"]]:
        raise ValueError("the shape does not fill the bytes")
    return start, end


def read_headers(folder: Path, stem: str = "model") -> dict[str, TensorFacts]:
    """The same for a saved component: `stem`.safetensors, or the shards its index names."""
    index = folder / f"{stem}.safetensors.index.json"
    if not index.is_file():
        return read_header(folder / f"{stem}.safetensors")
    tensors: dict[str, TensorFacts] = {}
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or any(Path(str(n)).name != n for n in shards.values()):
        raise CheckpointError(f"{index} should map tensors to files beside it in `weight_map`")
    for name in sorted(set(shards.values())):
        tensors |= read_header(folder / name)
    return tensors


def check_tensors(
    found: Mapping[str, TensorFacts],
    expected: Mapping[str, tuple[int, ...]],
    where: Path,
    advice: str = "download it again",
) -> None:
    """Compare names and shapes; `advice` ends the error.

    Raises:
        CheckpointError: names the tensors that are missing, unexpected or of another shape.
    """
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    misshapen = [
        f"{name} {list(found[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    _refuse(
        {"missing": missing, "unexpected": unexpected, "of the wrong shape": misshapen},
        where,
        advice,
    )


def load_checked(kind: Any, folder: Path, **options: Any) -> Any:
    """A model of diffusers, of which no tensor may be missing; `options` go to `from_pretrained`.

    Raises:
        CheckpointError: tensors are missing or do not fit, or it is described by nonsense.
    """
    with refusing_nonsense(folder):
        model, info = kind.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **options
        )
    check_loaded(info, folder)
    return model.eval()


def check_loaded(info: Mapping[str, Any], where: Path) -> None:
    """Refuse a part that a library filled up with random numbers; it only warns.

    Args:
        info: What `from_pretrained(..., output_loading_info=True)` of diffusers or transformers
            returns beside the model.
        where: Its folder.

    Raises:
        CheckpointError: names the tensors that are missing or of another shape.
    """
    misshapen = [str(one[0]) for one in info["mismatched_keys"]]
    _refuse(
        {"missing": sorted(info["missing_keys"]), "of the wrong shape": misshapen},
        where,
        "download it again",
    )


@contextmanager
def refusing_nonsense(where: Path) -> Iterator[None]:
    """Turn what a configuration of nonsense leads to, inside a library, into one sentence.

    Raises:
        CheckpointError: says where and what.
    """
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except CheckpointError:
        raise
    except (
        *(ArithmeticError, AttributeError, LookupError, RecursionError),
        *(StrictDataclassError, TypeError, ValueError),
    ) as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(
            f"{where} describes no model that can be loaded ({said}); download it again"
        ) from error


def _refuse(problems: Mapping[str, list[str]], where: Path, advice: str) -> None:
    told = [f"{len(names)} {kind}: {_some(names)}" for kind, names in problems.items() if names]
    if told:
        raise CheckpointError(
            f"the tensors in {where} do not fit the model: {'; '.join(told)}; {advice}"
        )


def _some(names: list[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
