"""LoRA in training: puts adapters on chosen experts and says how the frozen base is stored."""

from importlib.util import find_spec
from typing import Any

import torch
from torch.nn import Parameter

from echo4o.errors import Echo4oError
from echo4o.models.bagel.adapter import lora_config
from echo4o.models.bagel.modeling import BagelForUnifiedGeneration

from .parts import LoraSettings

ADAPTER = "default"
_EXPERTS = {"und": "understanding", "gen": "generation"}
_KEPT = ["vit_model", "connector", "time_embedder", "vae2llm", "llm2vae", "lm_head", "embed_tokens"]
"""Never quantised: everything but the experts."""


def add_adapters(model: BagelForUnifiedGeneration, settings: LoraSettings, seed: int) -> None:
    """Freeze the model and put one adapter, in float32, on the experts.

    The second matrix starts at zero: the adapted model is the base at first.
    """
    model.requires_grad_(False)
    config = lora_config(
        *(_EXPERTS[name] for name in settings.experts), rank=settings.rank, alpha=settings.alpha
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.add_adapter(config, ADAPTER)
    for parameter in adapter_parameters(model).values():
        parameter.data = parameter.data.float()


def adapter_parameters(model: torch.nn.Module) -> dict[str, Parameter]:
    """The adapters' own parameters, by name."""
    return {name: p for name, p in model.named_parameters() if ".lora_" in name}


def quantization(settings: LoraSettings | None) -> Any:
    """What `from_pretrained` takes as `quantization_config`.

    Raises:
        Echo4oError: 4 bits without bitsandbytes or a CUDA device.
    """
    if settings is None or settings.quantize == "none":
        return None
    if settings.quantize == "int8":
        from torchao.quantization import Int8WeightOnlyConfig  # type: ignore[import-untyped]
        from transformers import TorchAoConfig

        return TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=_KEPT)
    if find_spec("bitsandbytes") is None or not torch.cuda.is_available():
        raise Echo4oError(
            "`lora.quantize` = nf4 needs a CUDA device and bitsandbytes (pip install bitsandbytes);"
            " set lora.quantize=int8, which runs everywhere, or none"
        )
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=_KEPT,
    )
