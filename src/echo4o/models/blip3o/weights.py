"""Reads BLIP3-o's released layout; the only file that knows the authors' names.

As specified (benchmarks and transfer, section 2.1): the root folder has one checkpoint of language
model, queries and transformer, with its configuration and tokenizer; `diffusion-decoder` has the
UNet, its scheduler and an autoencoder.

UNVERIFIED: nobody could compare the names with the files on the Hub. Only ends of names are taken
from the specification - those of transformers and diffusers, and "latent_queries" - and whatever
stands in front of them is found out, each part by a tensor that it alone has. What does not fit is
an error, never a guess. The prompt's prefix is open, too (`Blip3oTransformer`).
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DConditionModel,
)
from safetensors import safe_open
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from ..checkpoint import (
    CheckpointError,
    TensorFacts,
    check_tensors,
    load_checked,
    read_header,
    read_headers,
    read_json,
)
from .transformer import Blip3oTransformer

logger = logging.getLogger(__name__)

DECODER_FOLDER = "diffusion-decoder"
_CAUTION = (
    "the names in BLIP3-o's released files could not be checked against the Hub when this was "
    "written"
)


class Names(NamedTuple):
    """What stands in front of the parts' own names in a released checkpoint."""

    queries: str
    """The whole name of the queries."""
    projection: str
    dit: str
    language: str
    vision: str
    head: str | None
    """The whole name of the language model's last layer; None when it shares the embedding."""


def find_names(tensors: Mapping[str, TensorFacts]) -> Names:
    """Find each part by a tensor that it alone has.

    Raises:
        CheckpointError: a part is missing, or is there more than once.
    """

    def one(end: str, what: str, fits: Callable[[tuple[int, ...]], bool] = lambda _: True) -> str:
        found = [
            name for name, facts in tensors.items() if name.endswith(end) and fits(facts.shape)
        ]
        if len(found) != 1:
            raise CheckpointError(
                f"{what} should be one tensor whose name ends in {end}, found {len(found)} among "
                f"{len(tensors)}; {_CAUTION}: compare them with the files and report the names"
            )
        return found[0].removesuffix(end)

    queries = one("latent_queries", "the queries") + "latent_queries"
    dit = one("time_caption_embed.timestep_embedder.linear_1.weight", "the transformer's time")
    block = f"{dit}layers.0.ffn_norm1.weight"
    one(block, "the transformer's first block")
    hidden = tensors[block].shape[0]
    wanted = (hidden, tensors[queries].shape[-1])
    heads = [name for name in tensors if name.endswith("lm_head.weight")]
    return Names(
        queries=queries,
        projection=one("linear_1.weight", "the projection", lambda shape: shape == wanted),
        dit=dit,
        language=one("embed_tokens.weight", "the language model's embedding"),
        vision=one("merger.ln_q.weight", "the language model's own vision tower"),
        head=heads[0] if heads else None,
    )


def transformer_names(tensors: Mapping[str, TensorFacts], names: Names) -> dict[str, str]:
    """Our names of queries, projection and transformer -> the released ones."""
    own = {"latent_queries": names.queries}
    for ours, theirs in (("projection.", names.projection), ("dit.", names.dit)):
        for name in tensors:
            rest = name.removeprefix(theirs)
            # The projection may stand inside the transformer's prefix, or the reverse.
            inside = ours == "projection." and rest.partition(".")[0] in ("linear_1", "linear_2")
            part = ours == "dit." and rest.partition(".")[0] in _DIT_PARTS
            if name.startswith(theirs) and (inside or part):
                own[ours + rest] = name
    return own


_DIT_PARTS = ("patch_embedder", "time_caption_embed", "layers", "norm_out")
_TELLING = ("dit.layers.0.gate", "dit.norm_out.linear_2.weight")
_LANGUAGE_PARTS = ("embed_tokens", "layers", "norm")


def language_names(tensors: Mapping[str, TensorFacts], names: Names) -> dict[str, str]:
    """Transformers' names of the language model -> the released ones."""
    own = {}
    for name in tensors:
        rest = name.removeprefix(names.language)
        if name.startswith(names.language) and rest.partition(".")[0] in _LANGUAGE_PARTS:
            own[f"model.language_model.{rest}"] = name
        elif name.startswith(names.vision):
            own[f"model.visual.{name.removeprefix(names.vision)}"] = name
    return own | ({"lm_head.weight": names.head} if names.head else {})


def transformer_sizes(tensors: Mapping[str, TensorFacts], names: Names) -> dict[str, Any]:
    """The configuration that the tensors' shapes tell; the rest is the released one's.

    Raises:
        CheckpointError: a tensor that tells it is missing.
    """
    shape = {ours: tensors[name].shape for ours, name in transformer_names(tensors, names).items()}
    missing = [name for name in _TELLING if name not in shape]
    if missing:
        raise CheckpointError(f"there is no tensor {missing[0]} behind {names.dit!r}; {_CAUTION}")
    queries, text_size = shape["latent_queries"][1:]
    layers = {int(name.split(".")[2]) for name in shape if name.startswith("dit.layers.")}
    hidden = shape["dit.layers.0.ffn_norm1.weight"][0]
    return {
        "text_size": text_size,
        "num_queries": queries,
        "feature_channels": shape["dit.norm_out.linear_2.weight"][0],
        "grid": isqrt(queries),  # no tensor tells it: one query a feature token, as specified
        "hidden_size": hidden,
        "num_layers": len(layers),
        "num_attention_heads": shape["dit.layers.0.gate"][0],
    }


def read_parts(folder: Path) -> dict[str, dict[str, TensorFacts]]:
    """What the headers say about each part, under our names.

    Raises:
        CheckpointError: files or tensors are missing, damaged or do not fit.
    """
    tensors = read_headers(folder)
    names = find_names(tensors)
    found = {}
    for part, mapping, wanted in (
        ("transformer", transformer_names(tensors, names), _empty_transformer(tensors, names)),
        ("mllm", language_names(tensors, names), _empty_language(folder, tensors, names)),
    ):
        found[part] = {ours: tensors[name] for ours, name in mapping.items()}
        _check(wanted, found[part], folder)
    for part in ("vae", "unet"):
        found[part] = _decoder_headers(folder / DECODER_FOLDER / part)[1]
    return found


def load_parts(folder: Path, *, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Everything that a pipeline is made of, by the names of its arguments.

    Raises:
        CheckpointError: files or tensors are missing, damaged or do not fit.
    """
    logger.warning(
        "%s, nor the words in front of its prompts: if you know them, set them with "
        "`pipe.transformer.register_to_config(prompt_prefix=...)`",
        _CAUTION,
    )
    tensors = read_headers(folder)
    names = find_names(tensors)
    decoder = folder / DECODER_FOLDER
    vae = _decoder_part(AutoencoderKL, decoder / "vae", torch.float32)
    unet = _decoder_part(UNet2DConditionModel, decoder / "unet", dtype)
    return {
        "transformer": _transformer(folder, tensors, names, dtype),
        "mllm": _language_model(folder, tensors, names, dtype),
        "processor": Qwen2Tokenizer.from_pretrained(folder),
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "vae": vae,
        "unet": unet,
        "decoder_scheduler": EulerDiscreteScheduler.from_pretrained(decoder / "scheduler"),
        "picture_side": unet.config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1),
    }


def _empty_transformer(tensors: Mapping[str, TensorFacts], names: Names) -> Blip3oTransformer:
    with torch.device("meta"):
        return Blip3oTransformer(**transformer_sizes(tensors, names))


def _transformer(
    folder: Path,
    tensors: Mapping[str, TensorFacts],
    names: Names,
    dtype: torch.dtype | None,
) -> Blip3oTransformer:
    model = _empty_transformer(tensors, names)
    state = _checked(model, tensors, transformer_names(tensors, names), folder, dtype)
    model.load_state_dict(state, assign=True)
    loaded: Blip3oTransformer = model.eval()
    return loaded


def _empty_language(
    folder: Path, tensors: Mapping[str, TensorFacts], names: Names
) -> Qwen2_5_VLForConditionalGeneration:
    values = read_json(folder / "config.json") | {"model_type": "qwen2_5_vl"}
    config = Qwen2_5_VLConfig.from_dict(values)
    config.text_config.vocab_size = tensors[f"{names.language}embed_tokens.weight"].shape[0]
    with torch.device("meta"):
        return Qwen2_5_VLForConditionalGeneration(config)


def _language_model(
    folder: Path,
    tensors: Mapping[str, TensorFacts],
    names: Names,
    dtype: torch.dtype | None,
) -> Qwen2_5_VLForConditionalGeneration:
    empty = _empty_language(folder, tensors, names)
    state = _checked(empty, tensors, language_names(tensors, names), folder, dtype)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        None, config=empty.config, state_dict=state, dtype=next(iter(state.values())).dtype
    )
    return model.eval()


def _check(wanted: nn.Module, found: Mapping[str, TensorFacts], folder: Path) -> None:
    shapes = {name: tuple(value.shape) for name, value in wanted.state_dict().items()}
    if "lm_head.weight" not in found:  # it shares the embedding
        shapes.pop("lm_head.weight", None)
    check_tensors(found, shapes, folder, f"{_CAUTION}: compare them and report the names")


def _checked(
    wanted: nn.Module,
    tensors: Mapping[str, TensorFacts],
    mapping: Mapping[str, str],
    folder: Path,
    dtype: torch.dtype | None,
) -> dict[str, Tensor]:
    """The tensors of one part under our names, when they are those that are wanted."""
    found = {ours: tensors[name] for ours, name in mapping.items()}
    _check(wanted, found, folder)
    by_file: dict[Path, list[str]] = defaultdict(list)
    for ours, facts in found.items():
        by_file[facts.file].append(ours)
    state = {}
    for file, own in by_file.items():
        with safe_open(file, "pt") as opened:
            for ours in own:
                state[ours] = opened.get_tensor(mapping[ours]).to(dtype)
    return state


def _decoder_headers(folder: Path) -> tuple[str | None, dict[str, TensorFacts]]:
    """The variant of a decoder's part, and what its headers say; the UNet's is bf16, as specified.

    Raises:
        CheckpointError: files are missing or damaged.
    """
    files = sorted(folder.glob("*.safetensors"))
    chosen = [file for file in files if "bf16" in file.name] or files
    if not chosen:
        raise CheckpointError(f"{folder} holds no safetensors; the checkpoint is incomplete")
    tensors = {name: facts for file in chosen for name, facts in read_header(file).items()}
    return "bf16" if "bf16" in chosen[0].name else None, tensors


def _decoder_part(kind: Any, folder: Path, dtype: torch.dtype | None) -> Any:
    """A part of the decoder.

    Raises:
        CheckpointError: files or tensors are missing, damaged or do not fit.
    """
    variant, _ = _decoder_headers(folder)
    own = torch.bfloat16 if variant else torch.float32
    return load_checked(kind, folder, variant=variant, torch_dtype=dtype or own)
