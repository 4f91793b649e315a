"""What pipelines of a transformer, a frozen text model and an autoencoder share: their folders.

Every part has a folder of its own and is loaded by its own class: nothing in a repository is
executed. What a family adds stands in its `assembly.py`.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from diffusers.loaders import Lumina2LoraLoaderMixin
from torch import Tensor
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from .checkpoint import (
    CheckpointError,
    TensorFacts,
    check_loaded,
    check_tensors,
    find_folder,
    load_checked,
    read_headers,
    read_json,
    refusing_nonsense,
)

MODEL_FOLDER = "transformer"
WEIGHTS = {
    MODEL_FOLDER: "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "mllm": "model",
}
"""Folders with weights that every model has, and how their files begin."""


class Located(NamedTuple):
    """Where a checkpoint lies on this machine and how it is laid out."""

    folder: Path
    layout: Literal["echo4o", "released"]
    revision: str | None
    """Commit of the Hub repository it was downloaded from."""


class Assembly(Protocol):
    """A family's module that finds, reads and finishes its folders."""

    def locate(
        self, name: str | Path, *, revision: str | None = None, cache_dir: str | Path | None = None
    ) -> Located:
        """A local folder or a Hub id -> the folder and its layout."""

    def load_parts(self, located: Located, *, dtype: torch.dtype | None = None) -> dict[str, Any]:
        """Everything that a pipeline is made of, by the names of its arguments."""

    def finish(self, folder: Path) -> None:
        """Make a folder that diffusers has written loadable by diffusers with trust."""


class PartsPipeline(DiffusionPipeline, Lumina2LoraLoaderMixin):
    """Loads and saves such a pipeline; adapters as for other diffusers pipelines."""

    _assembly: Assembly
    source_id: str | None = None
    """Where the pipeline was loaded from: Hub id or folder."""
    source_revision: str | None = None
    """Commit of the Hub repository, when it was loaded from one."""

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        cache_dir: str | Path | None = None,
    ) -> Self:
        """Load the released layout or what was saved here; code of a repository is never run.

        Args:
            name: folder or Hub id.
            revision: branch, tag or commit of the Hub repository.
            dtype: of all but the autoencoder, which stays fp32; default as stored.
            cache_dir: where downloads are kept.

        Raises:
            CheckpointError: there is no checkpoint, or it is damaged or does not fit.
        """
        located = cls._assembly.locate(name, revision=revision, cache_dir=cache_dir)
        pipe = cls(**cls._assembly.load_parts(located, dtype=dtype))
        pipe.source_id, pipe.source_revision = str(name), located.revision
        return pipe

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write one folder per part; `kwargs` go to diffusers."""
        super().save_pretrained(save_directory, **kwargs)
        self._assembly.finish(Path(save_directory))

    def save_parts(self, folder: Path) -> None:
        """Write all but the transformer's weights, which may be shared by processes."""
        self.save_config(folder)
        for name, part in self.components.items():
            if name == MODEL_FOLDER:
                part.save_config(folder / name)
            elif part is not None:
                part.save_pretrained(folder / name)
        self._assembly.finish(folder)

    def load_lora_weights(
        self, source: str | Path | dict[str, Tensor], adapter_name: str | None = None, **kwargs: Any
    ) -> None:
        """Add the adapter of a folder, file, Hub id or state dict; `kwargs` go to diffusers.

        Only safetensors are read.
        """
        plain = source if isinstance(source, dict) else str(source)
        super().load_lora_weights(plain, adapter_name, **kwargs, use_safetensors=True)


def find(
    name: str | Path,
    title: str,
    *,
    released: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
) -> Located:
    """A local folder or a Hub id -> the folder and its layout.

    Args:
        name: folder or Hub id.
        title: of the family.
        released: a folder that only the released layout has; None: it is the only layout.
        revision: branch, tag or commit of the Hub repository.
        cache_dir: where downloads are kept.

    Raises:
        CheckpointError: it is neither, or a part is missing.
    """
    folder, commit = find_folder(name, revision=revision, cache_dir=cache_dir)
    if released is not None and (folder / released).is_dir():
        return Located(folder, "released", commit)
    missing = [part for part in (*WEIGHTS, "processor") if not (folder / part).is_dir()]
    if missing:
        lacks = ", ".join(missing)
        if released is not None:
            lacks += f" (our layout) and no folder {released} (the released layout)"
        raise CheckpointError(
            f"{name} is no {title} checkpoint: it has no folder {lacks}; give the folder that has "
            "them"
        )
    return Located(folder, "released" if released is None else "echo4o", commit)


def read(folder: Path, transformer: Any) -> dict[str, dict[str, TensorFacts]]:
    """What the headers say about the parts of `WEIGHTS`; `transformer` is its class.

    Raises:
        CheckpointError: files or tensors are missing, damaged or do not fit.
    """
    found = {part: read_headers(folder / part, stem) for part, stem in WEIGHTS.items()}
    own = folder / MODEL_FOLDER
    with torch.device("meta"), refusing_nonsense(own / "config.json"):
        empty = transformer.from_config(read_json(own / "config.json"))
    shapes = {name: tuple(value.shape) for name, value in empty.state_dict().items()}
    check_tensors(found[MODEL_FOLDER], shapes, own)
    return found


def load(folder: Path, transformer: Any, dtype: torch.dtype | None) -> dict[str, Any]:
    """The parts of `WEIGHTS` and the tokenizer, by the names of a pipeline's arguments.

    Raises:
        CheckpointError: files or tensors are missing, damaged or do not fit.
    """
    read(folder, transformer)
    with refusing_nonsense(folder / "mllm"):
        mllm, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder / "mllm",
            dtype=dtype or "auto",
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # told below, by name
            output_loading_info=True,
        )
    check_loaded(info, folder / "mllm")
    with refusing_nonsense(folder / "processor"):
        processor = AutoTokenizer.from_pretrained(folder / "processor", trust_remote_code=False)
    return {
        MODEL_FOLDER: load_model(transformer, folder / MODEL_FOLDER, dtype),
        "vae": load_model(AutoencoderKL, folder / "vae", torch.float32),
        "mllm": mllm.eval(),
        "processor": processor,
    }


def load_model(kind: Any, folder: Path, dtype: torch.dtype | None) -> Any:
    """A model of diffusers, in its stored type unless another is asked for.

    Raises:
        CheckpointError: files or tensors are missing, damaged or do not fit.
    """
    tensors = read_headers(folder, WEIGHTS[MODEL_FOLDER])
    stored = {facts.dtype for facts in tensors.values()}
    own = torch.bfloat16 if stored == {"BF16"} else torch.float32
    return load_checked(kind, folder, torch_dtype=dtype or own)
