"""Checkpoints in the authors' layout: their file names, configuration keys and parameter names.

The main model keeps the authors' parameter names, so that its tensors are copied as they are; the
names of the autoencoder (FLUX) are translated to those of diffusers and back. Bit-exact both ways.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2Tokenizer

from ...records import write_atomic
from ..checkpoint import (
    CheckpointError,
    TensorFacts,
    check_tensors,
    read_header,
    read_headers,
    read_json,
    refusing_nonsense,
)
from ..kinds import INDEX
from .configuration import PUBLISHED_VISION, BagelConfig
from .modeling import BagelForUnifiedGeneration
from .reading import read_model

logger = logging.getLogger(__name__)

MAIN_FILE, AUTOENCODER_FILE = "ema.safetensors", "ae.safetensors"
LLM_FILE, VIT_FILE, CONFIG_FILE = "llm_config.json", "vit_config.json", "config.json"
AUTOENCODER_PARAMETERS_FILE = "tiny_ae_params.json"
"""Only beside autoencoders that are not the published one, whose constants stand in no file."""
SCALE, SHIFT = 0.3611, 0.1159
VISION_PREFIXES = ("vit_model.", "connector.", "vit_pos_embed.")
SPECIAL_TOKENS = {
    "bos_token_id": "<|im_start|>",
    "eos_token_id": "<|im_end|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
_LATENT_IN = "vae2llm.weight"
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_CONFIG_KEYS = ("latent_patch_size", "interpolate_pos", "vae_transform", "vit_transform")


def special_token_ids(tokenizer: Qwen2Tokenizer) -> dict[str, int]:
    """The four ids the model needs, as fields of `BagelConfig`.

    Raises:
        CheckpointError: the tokenizer lacks one of the tokens.
    """
    vocabulary = tokenizer.get_vocab()
    lacking = [token for token in SPECIAL_TOKENS.values() if token not in vocabulary]
    if lacking:
        raise CheckpointError(
            f"the tokenizer lacks {', '.join(lacking)}; use the Qwen2.5 tokenizer files"
        )
    return {field: vocabulary[token] for field, token in SPECIAL_TOKENS.items()}


def read_config(
    folder: Path, tensors: Mapping[str, TensorFacts], tokenizer: Qwen2Tokenizer
) -> BagelConfig:
    """Build the configuration from the authors' files and the shapes of some tensors.

    Raises:
        CheckpointError: a file is missing, or they describe no model.
    """
    with refusing_nonsense(folder):
        return _config_of(folder, tensors, tokenizer)


def _config_of(
    folder: Path, tensors: Mapping[str, TensorFacts], tokenizer: Qwen2Tokenizer
) -> BagelConfig:
    text = read_json(folder / LLM_FILE)
    for key in ("qk_norm", "layer_module", "torch_dtype", "architectures"):
        text.pop(key, None)
    text["tie_word_embeddings"] = False
    vision = dict(PUBLISHED_VISION)
    if (folder / VIT_FILE).is_file():
        vision |= read_json(folder / VIT_FILE)
        # The authors drop the last layer of the file in code.
        vision["num_hidden_layers"] = vision.get("num_hidden_layers", 27) - 1
    extra = read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
    values = {key: extra[key] for key in _CONFIG_KEYS if key in extra}
    sides = {
        "max_latent_size": "latent_pos_embed.pos_embed",
        "vit_max_num_patch_per_side": "vit_pos_embed.pos_embed",
    }
    for field, name in sides.items():
        if name in tensors:
            values[field] = round(tensors[name].shape[0] ** 0.5)
    config = BagelConfig(
        text_config=text,
        vision_config=vision,
        visual_und=has_vision(tensors),
        latent_downsample=_constants(folder)["downsample"],
        **values,
        **special_token_ids(tokenizer),
    )
    if _LATENT_IN in tensors:
        config.latent_channels = tensors[_LATENT_IN].shape[1] // config.latent_patch_size**2
    return config


def write_config(folder: Path, config: BagelConfig, vae: AutoencoderKL) -> None:
    """Write `llm_config.json`, `vit_config.json` and `config.json`."""
    text = config.text_config.to_dict()
    rope = text.pop("rope_parameters")
    text |= {
        "architectures": ["Qwen2ForCausalLM"],
        "rope_theta": rope["rope_theta"],
        "qk_norm": True,
        "layer_module": "Qwen2MoTDecoderLayer",
    }
    for key in ("layer_types", "transformers_version"):
        text.pop(key, None)
    vision_config = config.vision_config.to_dict()
    vision = {key: vision_config[key] for key in PUBLISHED_VISION if key != "vision_use_head"}
    vision |= {
        "model_type": "siglip_vision_model",
        "num_hidden_layers": vision_config["num_hidden_layers"] + 1,
    }
    whole = {
        "architectures": ["BagelForConditionalGeneration"],
        "model_type": "bagel",
        "visual_gen": True,
        "visual_und": config.visual_und,
        "llm_config": text,
        "vit_config": vision,
        "vae_config": {
            "z_channels": config.latent_channels,
            "downsample": config.latent_downsample,
        },
        "latent_patch_size": config.latent_patch_size,
        "max_latent_size": config.max_latent_size,
        "vit_max_num_patch_per_side": config.vit_max_num_patch_per_side,
        "connector_act": "gelu_pytorch_tanh",
        "interpolate_pos": config.interpolate_pos,
        "vae_transform": list(config.vae_transform),
        "vit_transform": list(config.vit_transform),
    }
    parameters = autoencoder_parameters(vae)
    if parameters != PUBLISHED_AUTOENCODER:
        _write_json(folder / AUTOENCODER_PARAMETERS_FILE, {"ae_params": parameters})
    # A folder counts as a checkpoint once the last of these is there.
    for name, value in ((CONFIG_FILE, whole), (VIT_FILE, vision), (LLM_FILE, text)):
        _write_json(folder / name, value)


def load_model(folder: Path, tokenizer: Qwen2Tokenizer, **kwargs: Any) -> BagelForUnifiedGeneration:
    """Load the main model; `kwargs` go to transformers' `from_pretrained`.

    Raises:
        CheckpointError: tensors are missing, unexpected or misshapen. A checkpoint without the
            whole vision tower is allowed and announced.
    """
    tensors = read_main_headers(folder)
    config = read_config(folder, tensors, tokenizer)
    check_model_tensors(tensors, config, folder)
    say_what_is_missing(config, folder)
    kwargs.setdefault("dtype", main_dtype(tensors))
    return read_model(tensors, config, **kwargs)


def read_main_headers(folder: Path) -> dict[str, TensorFacts]:
    """What `ema.safetensors` holds, or without it the file or shards under transformers' names.

    Raises:
        CheckpointError: there are none, or one is damaged.
    """
    others = ("model.safetensors", "model.safetensors.index.json")
    if (folder / MAIN_FILE).is_file() or not any((folder / name).is_file() for name in others):
        return read_header(folder / MAIN_FILE)
    return read_headers(folder)


def check_model_tensors(
    tensors: Mapping[str, TensorFacts], config: BagelConfig, where: Path
) -> None:
    """Compare a header with the tensors a model of this configuration has."""
    advice = "`echo4o model merge --base` takes missing ones from a full model"
    check_tensors(tensors, expected_tensors(config), where, advice)


def expected_tensors(config: BagelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a model of this configuration."""
    with torch.device("meta"):
        model = BagelForUnifiedGeneration(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def has_vision(tensors: Mapping[str, TensorFacts]) -> bool:
    """Whether there is any tensor of the vision tower."""
    return any(name.startswith(VISION_PREFIXES) for name in tensors)


def say_what_is_missing(config: BagelConfig, folder: Path) -> None:
    """Announce a model for generation alone."""
    if not config.visual_und:
        logger.warning(
            "%s has no vision tower: the model makes pictures from text, but takes no pictures; "
            "`echo4o model merge --base` adds it from a full model",
            folder,
        )


def main_dtype(tensors: Mapping[str, TensorFacts]) -> torch.dtype:
    """The type most tensors are stored in."""
    stored = Counter(facts.dtype for facts in tensors.values()).most_common(1)[0][0]
    if stored not in _DTYPES:
        raise CheckpointError(f"the weights are stored as {stored}; give `dtype=torch.bfloat16`")
    return _DTYPES[stored]


def save_model(folder: Path, model: BagelForUnifiedGeneration) -> None:
    """Write `ema.safetensors` and the index that names it.

    Raises:
        CheckpointError: a model in our layout lies there, which would be loaded in its stead.
    """
    if (folder / INDEX).exists():
        raise CheckpointError(f"{folder} holds a model in our layout; give another folder")
    state = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    save_file(state, folder / MAIN_FILE, metadata={"format": "pt"})
    size = sum(tensor.nbytes for tensor in state.values())
    index = {
        "metadata": {"total_size": size},
        "weight_map": dict.fromkeys(sorted(state), MAIN_FILE),
    }
    _write_json(folder / "model.safetensors.index.json", index)


_PUBLISHED_GROUPS = 32
PUBLISHED_AUTOENCODER: dict[str, Any] = {
    "resolution": 256,
    "in_channels": 3,
    "downsample": 8,
    "ch": 128,
    "out_ch": 3,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "z_channels": 16,
    "scale_factor": SCALE,
    "shift_factor": SHIFT,
}


def autoencoder_parameters(vae: AutoencoderKL) -> dict[str, Any]:
    """The authors' words for the shape of an autoencoder."""
    channels, groups = vae.config.block_out_channels, vae.config.norm_num_groups
    # The published one has 32, which its authors do not say; a smaller one may not.
    extra = {} if groups == _PUBLISHED_GROUPS else {"norm_num_groups": groups}
    return (
        PUBLISHED_AUTOENCODER
        | extra
        | {
            "in_channels": vae.config.in_channels,
            "downsample": 2 ** (len(channels) - 1),
            "ch": channels[0],
            "out_ch": vae.config.out_channels,
            "ch_mult": [count // channels[0] for count in channels],
            "num_res_blocks": vae.config.layers_per_block,
            "z_channels": vae.config.latent_channels,
            "scale_factor": vae.config.scaling_factor,
            "shift_factor": vae.config.shift_factor,
        }
    )


def load_autoencoder(folder: Path, dtype: torch.dtype = torch.float32) -> AutoencoderKL:
    """Load `ae.safetensors` into diffusers' class; its shape is read from the tensors.

    Raises:
        CheckpointError: the file is damaged or its tensors do not fit together.
    """
    path = folder / AUTOENCODER_FILE
    with refusing_nonsense(folder):
        vae = _empty_autoencoder(path, _constants(folder))
    expected = {
        ours: _authors_shape(ours, tuple(vae.get_parameter(theirs).shape))
        for ours, theirs in autoencoder_names(vae).items()
    }
    check_tensors(read_header(path), expected, path)
    stored = load_file(path, backend="pread")
    shapes = {name: parameter.shape for name, parameter in vae.named_parameters()}
    state = {
        theirs: stored[ours].reshape(shapes[theirs]).to(dtype)
        for ours, theirs in autoencoder_names(vae).items()
    }
    vae.load_state_dict(state, assign=True)
    return vae.eval()


def _constants(folder: Path) -> dict[str, Any]:
    """What is to be known of an autoencoder besides its tensors."""
    file = folder / AUTOENCODER_PARAMETERS_FILE
    given = read_json(file)["ae_params"] if file.is_file() else {}
    found: dict[str, Any] = PUBLISHED_AUTOENCODER | {"norm_num_groups": _PUBLISHED_GROUPS} | given
    for name in ("scale_factor", "shift_factor", "norm_num_groups", "downsample"):
        if not isinstance(found[name], int | float):
            raise CheckpointError(f"{file}: `{name}` must be a number, got {found[name]!r}")
    return found


def _empty_autoencoder(path: Path, constants: Mapping[str, Any]) -> AutoencoderKL:
    facts = read_header(path)
    levels = len({name.split(".")[2] for name in facts if name.startswith("encoder.down.")})
    blocks = len({n.split(".")[4] for n in facts if n.startswith("encoder.down.0.block.")})
    if not levels or not blocks or "decoder.conv_in.weight" not in facts:
        raise CheckpointError(f"{path} is no FLUX autoencoder: it has no tensors encoder.down.*")
    channels = [
        facts[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(levels)
    ]
    with torch.device("meta"):
        return AutoencoderKL(
            block_out_channels=channels,
            down_block_types=["DownEncoderBlock2D"] * levels,
            up_block_types=["UpDecoderBlock2D"] * levels,
            layers_per_block=blocks,
            latent_channels=facts["decoder.conv_in.weight"].shape[1],
            norm_num_groups=constants["norm_num_groups"],
            scaling_factor=constants["scale_factor"],
            shift_factor=constants["shift_factor"],
            use_quant_conv=False,
            use_post_quant_conv=False,
            mid_block_add_attention=True,
        )


def save_autoencoder(folder: Path, vae: AutoencoderKL) -> None:
    """Write `ae.safetensors`."""
    state = vae.state_dict()
    authors: dict[str, Tensor] = {}
    for ours, theirs in autoencoder_names(vae).items():
        tensor = state[theirs]
        shaped = tensor.reshape(_authors_shape(ours, tuple(tensor.shape)))
        authors[ours] = shaped.contiguous().cpu()
    save_file(authors, folder / AUTOENCODER_FILE, metadata={"format": "pt"})


def autoencoder_names(vae: AutoencoderKL) -> dict[str, str]:
    """Every parameter of an autoencoder: the authors' name -> diffusers' name."""
    levels, layers = len(vae.config.block_out_channels), vae.config.layers_per_block
    theirs = {name for name, _ in vae.named_parameters()}
    return {
        f"{ours}.{kind}": f"{module}.{kind}"
        for ours, module in _module_names(levels, layers)
        for kind in ("weight", "bias")
        if f"{module}.{kind}" in theirs
    }


def _module_names(levels: int, layers: int) -> Iterator[tuple[str, str]]:
    for side in ("encoder", "decoder"):
        for name, theirs in (("conv_in",) * 2, ("conv_out",) * 2, ("norm_out", "conv_norm_out")):
            yield f"{side}.{name}", f"{side}.{theirs}"
        for block, resnet in (("block_1", 0), ("block_2", 1)):
            yield from _resnet(f"{side}.mid.{block}", f"{side}.mid_block.resnets.{resnet}")
        attention = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v"}
        for name, theirs in (attention | {"proj_out": "to_out.0"}).items():
            yield f"{side}.mid.attn_1.{name}", f"{side}.mid_block.attentions.0.{theirs}"
    for level in range(levels):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{levels - 1 - level}"
        for layer in range(layers):
            yield from _resnet(f"encoder.down.{level}.block.{layer}", f"{down}.resnets.{layer}")
        for layer in range(layers + 1):
            yield from _resnet(f"decoder.up.{level}.block.{layer}", f"{up}.resnets.{layer}")
        yield f"encoder.down.{level}.downsample.conv", f"{down}.downsamplers.0.conv"
        yield f"decoder.up.{level}.upsample.conv", f"{up}.upsamplers.0.conv"


def _resnet(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for name in ("norm1", "conv1", "norm2", "conv2"):
        yield f"{ours}.{name}", f"{theirs}.{name}"
    yield f"{ours}.nin_shortcut", f"{theirs}.conv_shortcut"


def _authors_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The authors store the attention's linear layers as 1 x 1 convolutions."""
    return (*shape, 1, 1) if ".attn_1." in name and len(shape) == 2 else shape


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True) + "\n")
