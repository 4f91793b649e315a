"""LoRA adapters through PEFT: which layers they adapt, reading, checking, loading and saving.

An adapter is the folder that PEFT writes, `adapter_config.json` with `adapter_model.safetensors`;
a file of another kind is never opened. PEFT is imported when the first adapter is.
"""

import copy
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from ...errors import MissingExtraError
from ...records import sha256_file
from ..checkpoint import CheckpointError, check_tensors, find_folder, read_header, read_json
from .configuration import BagelConfig
from .modeling import BagelForUnifiedGeneration

if TYPE_CHECKING:
    from peft import LoraConfig

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT puts in front of the model's own names."""
_LAYER = r"language_model\.model\.layers\.\d+\."
EXPERTS = {
    "understanding": _LAYER + r"(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)",
    "generation": _LAYER + r"(self_attn\.[qkvo]_proj_moe_gen|mlp_moe_gen\.(gate|up|down)_proj)",
}
"""Expert -> the linear layers of its own; a bare `q_proj` would also hit the vision tower."""

_UNDERSTOOD = {
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "use_dora",
    "bias",
}
# What says nothing about the weights, or is only read while training.
_IGNORED = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "init_lora_weights",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
}
_HARMLESS_STARTS = (True, False, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter on this machine; its weights are not read yet."""

    source: str
    """Folder or Hub id it was asked for."""
    revision: str | None
    """Commit of the Hub repository."""
    folder: Path
    config: "LoraConfig"
    base: str
    """The model it was trained on, as its configuration names it; may be empty."""

    def sha256(self) -> str:
        """Hash of the weights."""
        return sha256_file(self.folder / WEIGHTS_FILE)


def lora_config(
    *experts: str, rank: int = 16, alpha: float | None = None, dropout: float = 0.0
) -> "LoraConfig":
    """PEFT's configuration for all linear layers of the named experts; `alpha` defaults to `rank`.

    Raises:
        ValueError: no expert, or an unknown one.
    """
    _require_peft()
    from peft import LoraConfig

    unknown = [name for name in experts if name not in EXPERTS]
    if unknown or not experts:
        got = repr(unknown[0]) if unknown else "none"
        raise ValueError(f"`experts` must be among {', '.join(EXPERTS)}, got {got}")
    return LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules="|".join(f"({EXPERTS[name]})" for name in experts),
    )


def _require_peft() -> None:
    if find_spec("peft") is None:
        raise MissingExtraError("LoRA", "lora")


def read_adapter(
    name: str | Path, *, revision: str | None = None, cache_dir: str | Path | None = None
) -> Adapter:
    """Find an adapter folder, perhaps on the Hub, and read its configuration.

    Raises:
        CheckpointError: there is none, it is no LoRA, or it asks for something we do not do.
    """
    _require_peft()
    patterns = [CONFIG_FILE, WEIGHTS_FILE]
    folder, commit = find_folder(name, revision=revision, cache_dir=cache_dir, patterns=patterns)
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / file).is_file():
            raise CheckpointError(
                f"{name} is no LoRA adapter: it has no {file}; save it with PEFT as safetensors "
                "(pickled weights such as adapter_model.bin are never read)"
            )
    values = read_json(folder / CONFIG_FILE)
    base = values.get("base_model_name_or_path") or ""
    return Adapter(str(name), commit, folder, _read_config(values, folder), str(base))


def _read_config(values: dict[str, Any], folder: Path) -> "LoraConfig":
    from peft import LoraConfig

    where = folder / CONFIG_FILE
    if values.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{where}: `peft_type` must be 'LORA', got {values.get('peft_type')!r}"
        )
    if values.get("init_lora_weights", True) not in _HARMLESS_STARTS:
        raise CheckpointError(
            f"{where}: `init_lora_weights` {values['init_lora_weights']!r} changed the base model "
            "when training began; convert it to a plain LoRA with PEFT first"
        )
    known = {key: value for key, value in values.items() if key in _UNDERSTOOD}
    other = [k for k, v in values.items() if v and k not in _UNDERSTOOD | _IGNORED]
    if other:
        raise CheckpointError(
            f"{where}: {', '.join(f'`{key}`' for key in sorted(other)[:5])} cannot be loaded into "
            "the pipeline; train an adapter of linear layers without it"
        )
    _check_values(known, where)
    try:
        return LoraConfig(**known, inference_mode=True)
    except ValueError as error:
        raise CheckpointError(f"{where} contradicts itself: {error}") from error


def _check_values(values: dict[str, Any], where: Path) -> None:
    """Types and ranges; PEFT would stumble over them far from their cause."""
    rules: dict[str, Callable[[Any], bool]] = {
        "r": _is_rank,
        "lora_alpha": _is_number,
        "lora_dropout": lambda value: _is_number(value) and 0 <= value < 1,
        "rank_pattern": lambda value: _is_map(value) and all(map(_is_rank, value.values())),
        "alpha_pattern": lambda value: _is_map(value) and all(map(_is_number, value.values())),
        "target_modules": lambda value: bool(value) and _is_words(value),
        "exclude_modules": lambda value: value is None or _is_words(value),
        "layers_pattern": lambda value: value is None or _is_words(value),
        "layers_to_transform": _is_layers,
        "use_rslora": lambda value: isinstance(value, bool),
        "use_dora": lambda value: isinstance(value, bool),
        "bias": lambda value: value == "none",
    }
    for key, is_good in rules.items():
        if (key in values or key == "target_modules") and not is_good(values.get(key)):
            raise CheckpointError(f"{where}: `{key}` cannot be {values.get(key)!r}")


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 65536


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e6


def _is_map(value: object) -> bool:
    return isinstance(value, dict)


def _is_words(value: object) -> bool:
    words = [value] if isinstance(value, str) else value
    return isinstance(words, list) and all(isinstance(word, str) for word in words)


def _is_layers(value: object) -> bool:
    layers = value if isinstance(value, list) else [] if value is None else [value]
    return all(isinstance(layer, int) and layer >= 0 for layer in layers)


def check_adapter(adapter: Adapter, config: BagelConfig) -> None:
    """Try the adapter on a model without memory, and compare with the header of its file.

    Raises:
        CheckpointError: it adapts layers that the model lacks, or its tensors do not fit.
    """
    from peft import get_peft_model_state_dict, inject_adapter_in_model

    try:
        with torch.device("meta"):
            model = BagelForUnifiedGeneration(config)
            inject_adapter_in_model(copy.deepcopy(adapter.config), model, "trial")
    except (ValueError, TypeError, re.error) as error:
        raise CheckpointError(
            f"the adapter {adapter.source} does not fit the model: {str(error).splitlines()[0]}"
        ) from error
    state = get_peft_model_state_dict(model, adapter_name="trial", save_embedding_layers=False)
    expected = {PREFIX + name: tuple(tensor.shape) for name, tensor in state.items()}
    path = adapter.folder / WEIGHTS_FILE
    check_tensors(read_header(path), expected, path, "use an adapter that was made for this model")


def load_adapter(model: BagelForUnifiedGeneration, adapter: Adapter, name: str) -> None:
    """Put a checked adapter into a model, frozen, in the model's type; it becomes the active one.

    Raises:
        CheckpointError: see `check_adapter`; the model is then as it was.
    """
    from peft import inject_adapter_in_model, set_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer

    check_adapter(adapter, model.config)
    stored = load_file(adapter.folder / WEIGHTS_FILE)
    state = {key.removeprefix(PREFIX): tensor for key, tensor in stored.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        inject_adapter_in_model(copy.deepcopy(adapter.config), model, name)
    set_peft_model_state_dict(model, state, adapter_name=name)
    model._hf_peft_config_loaded = True
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.requires_grad_(False).eval()


def save_adapter(
    model: BagelForUnifiedGeneration, folder: Path, name: str, *, base: str | None = None
) -> None:
    """Write an adapter of a model as PEFT does; `base` names the model it belongs to."""
    from peft import get_peft_model_state_dict

    config = copy.deepcopy(model.peft_config[name])
    config.inference_mode, config.base_model_name_or_path = True, base
    state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {PREFIX + key: tensor.contiguous().cpu() for key, tensor in state.items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config.save_pretrained(folder)
