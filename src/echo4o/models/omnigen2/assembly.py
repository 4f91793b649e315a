"""Loading and saving OmniGen2's five folders: transformer, vae, mllm, processor, scheduler.

The released `model_index.json` names classes that no library has, so each folder is loaded by its
own class; nothing in a repository is executed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration

from ...records import write_atomic
from ..bagel.checkpoint import (
    CheckpointError,
    TensorFacts,
    check_tensors,
    download,
    read_headers,
    read_json,
)
from .transformer import OmniGen2Transformer2DModel

MODEL_FOLDER = "transformer"
WEIGHTS = {
    MODEL_FOLDER: "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "mllm": "model",
}
"""Folders with weights, and how their files begin."""
PIPELINE_SHIM = "from echo4o.models.omnigen2.pipeline import OmniGen2Pipeline as OmniGen2Pipeline\n"
MODEL_SHIM = (
    "from echo4o.models.omnigen2.transformer import OmniGen2Transformer2DModel as "
    "OmniGen2Transformer2DModel\n"
)
MODEL_MODULE = "transformer_omnigen2"
_DOWNLOADED = ["*.safetensors", "*.json", "*.txt", "*.jinja"]


class Components(NamedTuple):
    """What a pipeline is made of."""

    transformer: OmniGen2Transformer2DModel
    vae: AutoencoderKL
    scheduler: FlowMatchEulerDiscreteScheduler
    mllm: Qwen2_5_VLForConditionalGeneration
    processor: PreTrainedTokenizerBase


def locate(
    name: str | Path, *, revision: str | None = None, cache_dir: str | Path | None = None
) -> tuple[Path, str | None]:
    """A local folder or a Hub id -> the folder, and the commit if it was downloaded.

    Raises:
        CheckpointError: it is neither, or a part is missing.
    """
    folder, commit = Path(name), None
    if not folder.is_dir():
        folder = download(str(name), revision, cache_dir, _DOWNLOADED)
        commit = folder.name
    missing = [part for part in (*WEIGHTS, "processor") if not (folder / part).is_dir()]
    if missing:
        raise CheckpointError(
            f"{name} is no OmniGen2 checkpoint: it has no folder {', '.join(missing)}; give the "
            "folder that holds transformer, vae, mllm and processor"
        )
    return folder, commit


def load_components(folder: Path, *, dtype: torch.dtype | None = None) -> Components:
    """Load everything from a folder found by `locate`.

    Raises:
        CheckpointError: files or tensors are missing or damaged.
    """
    for part, stem in WEIGHTS.items():
        read_headers(folder / part, stem)
    transformer = _transformer(folder / MODEL_FOLDER, dtype)
    vae = AutoencoderKL.from_pretrained(
        folder / "vae", torch_dtype=torch.float32, use_safetensors=True
    )
    mllm = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder / "mllm", dtype=dtype or "auto", use_safetensors=True, trust_remote_code=False
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / "processor", trust_remote_code=False)
    scheduler = FlowMatchEulerDiscreteScheduler()
    return Components(transformer.eval(), vae.eval(), scheduler, mllm.eval(), tokenizer)


def check_transformer(tensors: Mapping[str, TensorFacts], folder: Path) -> None:
    """Whether a folder's tensors are those that its configuration asks for.

    Raises:
        CheckpointError: they are not.
    """
    with torch.device("meta"):
        empty = OmniGen2Transformer2DModel.from_config(read_json(folder / "config.json"))
    shapes = {name: tuple(value.shape) for name, value in empty.state_dict().items()}
    check_tensors(tensors, shapes, folder)


def _transformer(folder: Path, dtype: torch.dtype | None) -> OmniGen2Transformer2DModel:
    tensors = read_headers(folder, WEIGHTS[MODEL_FOLDER])
    check_transformer(tensors, folder)
    stored = {facts.dtype for facts in tensors.values()}
    own = torch.bfloat16 if stored == {"BF16"} else torch.float32
    model: OmniGen2Transformer2DModel = OmniGen2Transformer2DModel.from_pretrained(
        folder, torch_dtype=dtype or own, use_safetensors=True
    )
    return model


def finish(folder: Path) -> None:
    """Make a folder that diffusers has written loadable by diffusers with trust."""
    index = read_json(folder / "model_index.json")
    index["_class_name"] = ["pipeline", "OmniGen2Pipeline"]
    index["transformer"] = [MODEL_MODULE, "OmniGen2Transformer2DModel"]
    write_atomic(folder / MODEL_FOLDER / f"{MODEL_MODULE}.py", MODEL_SHIM)
    write_atomic(folder / "pipeline.py", PIPELINE_SHIM)
    write_atomic(folder / "model_index.json", json.dumps(index, indent=2) + "\n")
