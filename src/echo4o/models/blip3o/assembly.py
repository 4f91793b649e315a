"""Finding, loading and saving BLIP3-o: our folder of parts; the released one is read by weights.py.

Nothing in a repository is executed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DConditionModel,
)
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from ...records import write_atomic
from ..bagel.checkpoint import (
    CheckpointError,
    TensorFacts,
    check_tensors,
    download,
    read_headers,
    read_json,
)
from . import weights
from .transformer import Blip3oTransformer

MODEL_FOLDER = "transformer"
WEIGHTS = {
    MODEL_FOLDER: "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "mllm": "model",
}
"""Folders with weights that every model has, and how their files begin."""
DECODER = "unet"
"""The folder of the UNet, which a model with a direct decoder lacks; its scheduler has another."""
_SETTINGS = ("picture_side", "decoder_steps", "decoder_guidance_scale")
PIPELINE_SHIM = "from echo4o.models.blip3o.pipeline import Blip3oPipeline as Blip3oPipeline\n"
MODEL_SHIM = "from echo4o.models.blip3o.transformer import Blip3oTransformer as Blip3oTransformer\n"
MODEL_MODULE = "transformer_blip3o"
_DOWNLOADED = ["*.safetensors", "*.json", "*.txt", "*.jinja"]


class Located(NamedTuple):
    """Where a checkpoint lies on this machine and how it is laid out."""

    folder: Path
    layout: Literal["echo4o", "released"]
    revision: str | None
    """Commit of the Hub repository it was downloaded from."""


def locate(
    name: str | Path, *, revision: str | None = None, cache_dir: str | Path | None = None
) -> Located:
    """A local folder or a Hub id -> the folder and its layout.

    Raises:
        CheckpointError: it is neither, or a part is missing.
    """
    folder, commit = Path(name), None
    if not folder.is_dir():
        folder = download(str(name), revision, cache_dir, _DOWNLOADED)
        commit = folder.name
    if (folder / weights.DECODER_FOLDER).is_dir():
        return Located(folder, "released", commit)
    missing = [part for part in (*WEIGHTS, "processor") if not (folder / part).is_dir()]
    if missing:
        raise CheckpointError(
            f"{name} is no BLIP3-o checkpoint: it has no folder {', '.join(missing)} (our layout) "
            f"and no folder {weights.DECODER_FOLDER} (the released layout); give the folder that "
            "has them"
        )
    return Located(folder, "echo4o", commit)


def load_parts(located: Located, *, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Everything that a pipeline is made of, by the names of its arguments.

    Raises:
        CheckpointError: files or tensors are missing, damaged or do not fit.
    """
    if located.layout == "released":
        return weights.load_parts(located.folder, dtype=dtype)
    folder = located.folder
    index = read_json(folder / "model_index.json")
    has_unet = (folder / DECODER).is_dir()
    if has_unet != (index.get(DECODER) not in (None, [None, None])):
        raise CheckpointError(
            f"model_index.json of {folder} does not agree with the folders there about {DECODER}; "
            "the checkpoint is incomplete: copy or download it again"
        )
    read_headers(folder / "mllm", WEIGHTS["mllm"])
    mllm = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder / "mllm", dtype=dtype or "auto", use_safetensors=True, trust_remote_code=False
    )
    parts = {name: index[name] for name in _SETTINGS if name in index}
    parts |= {
        "transformer": _transformer(folder / MODEL_FOLDER, dtype),
        "mllm": mllm.eval(),
        "processor": AutoTokenizer.from_pretrained(folder / "processor", trust_remote_code=False),
        "scheduler": FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
        "vae": load_model(AutoencoderKL, folder / "vae", torch.float32),
    }
    if has_unet:
        parts["unet"] = load_model(UNet2DConditionModel, folder / DECODER, dtype)
        parts["decoder_scheduler"] = EulerDiscreteScheduler.from_pretrained(
            folder / "decoder_scheduler"
        )
    return parts


def read_parts(folder: Path) -> dict[str, dict[str, TensorFacts]]:
    """What the headers say about each part of our layout.

    Raises:
        CheckpointError: files or tensors are missing, damaged or do not fit.
    """
    parts = {part: read_headers(folder / part, stem) for part, stem in WEIGHTS.items()}
    if (folder / DECODER).is_dir():
        parts[DECODER] = read_headers(folder / DECODER, WEIGHTS[MODEL_FOLDER])
    check_transformer(parts[MODEL_FOLDER], folder / MODEL_FOLDER)
    return parts


def _transformer(folder: Path, dtype: torch.dtype | None) -> Blip3oTransformer:
    check_transformer(read_headers(folder, WEIGHTS[MODEL_FOLDER]), folder)
    model: Blip3oTransformer = load_model(Blip3oTransformer, folder, dtype)
    return model


def check_transformer(tensors: Mapping[str, TensorFacts], folder: Path) -> None:
    """Whether a folder's tensors are those that its configuration asks for.

    Raises:
        CheckpointError: they are not.
    """
    with torch.device("meta"):
        empty = Blip3oTransformer.from_config(read_json(folder / "config.json"))
    shapes = {name: tuple(value.shape) for name, value in empty.state_dict().items()}
    check_tensors(tensors, shapes, folder)


def load_model(kind: Any, folder: Path, dtype: torch.dtype | None) -> Any:
    """A model of diffusers, in its stored type unless another is asked for.

    Raises:
        CheckpointError: files are missing or damaged.
    """
    tensors = read_headers(folder, WEIGHTS[MODEL_FOLDER])
    stored = {facts.dtype for facts in tensors.values()}
    own = torch.bfloat16 if stored == {"BF16"} else torch.float32
    return kind.from_pretrained(folder, torch_dtype=dtype or own, use_safetensors=True).eval()


def finish(folder: Path) -> None:
    """Make a folder that diffusers has written loadable by diffusers with trust."""
    index = read_json(folder / "model_index.json")
    index["_class_name"] = ["pipeline", "Blip3oPipeline"]
    index["transformer"] = [MODEL_MODULE, "Blip3oTransformer"]
    write_atomic(folder / MODEL_FOLDER / f"{MODEL_MODULE}.py", MODEL_SHIM)
    write_atomic(folder / "pipeline.py", PIPELINE_SHIM)
    write_atomic(folder / "model_index.json", json.dumps(index, indent=2) + "\n")
