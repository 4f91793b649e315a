"""Makes the base model of a tiny recipe: random weights from a seed.

Its tokenizer is trained on the dataset's instructions; its autoencoder is the one we ship. Only of
a BLIP3-o, whose frozen parts cannot be random, are some parts trained here (blip3o_tiny.py).
"""

import contextlib
import dataclasses
import os
import shutil
from importlib import resources
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from torch import nn

from echo4o.errors import Echo4oError
from echo4o.models.bagel.configuration import BagelConfig
from echo4o.models.bagel.modeling import BagelForUnifiedGeneration
from echo4o.models.bagel.pipeline import Echo4oPipeline
from echo4o.models.bagel.weights import special_token_ids
from echo4o.records import RECORD_NAME, JsonValue, RunRecord, sync_folder

from .blip3o_rows import TOWER_FOLDER
from .blip3o_tiny import build_blip3o
from .config import TrainConfig
from .data import Rows
from .omnigen2_tiny import build_omnigen2
from .parts import TinyOmniGen2, TinySizes
from .tokenizer import train_tokenizer


def make_base(config: TrainConfig, rows: Rows, folder: Path) -> Path:
    """Write the base model, unless the folder already holds the one of this configuration.

    Raises:
        Echo4oError: the package lacks the autoencoder, or there are no instructions.
    """
    sizes = config.tiny
    if sizes is None:
        raise Echo4oError("this recipe has neither `base_model` nor the sizes of a tiny one")
    parameters: dict[str, JsonValue] = {**dataclasses.asdict(sizes), "data": rows.digest}
    parameters["autoencoder"] = config.to_dict()["autoencoder"]
    if _holds(folder, parameters, config.seed):
        return folder
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    vae = load_autoencoder(config.autoencoder)
    if isinstance(sizes, TinySizes):
        build_pipeline(sizes, vae, rows.instructions(), config.seed).save_pretrained(aside)
    elif isinstance(sizes, TinyOmniGen2):
        build_omnigen2(sizes, vae, rows.instructions(), config.seed).save_pretrained(aside)
    else:
        made = build_blip3o(sizes, vae, rows, config.seed)
        made.pipeline.save_pretrained(aside)
        made.tower.save_pretrained(aside / TOWER_FOLDER)
    RunRecord(
        name="base",
        command=f"echo4o train run {config.recipe}",
        inputs=(rows.source,),
        parameters=parameters,
        seed=config.seed,
    ).save(aside)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(aside, folder)
    sync_folder(folder.parent)
    return folder


def build_pipeline(
    sizes: TinySizes, vae: AutoencoderKL, instructions: list[str], seed: int
) -> Echo4oPipeline:
    """The pipeline in memory; the same arguments give the same weights."""
    tokenizer = train_tokenizer(instructions, sizes.vocab_size)
    config = model_config(sizes, len(tokenizer))
    for field, number in special_token_ids(tokenizer).items():
        setattr(config, field, number)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BagelForUnifiedGeneration(config)
        scale_to_width(model, sizes.layers)
    return Echo4oPipeline(model, vae, FlowMatchEulerDiscreteScheduler(), tokenizer)


def model_config(sizes: TinySizes, vocab_size: int) -> BagelConfig:
    """The model's configuration, but for the ids of the special tokens."""
    return BagelConfig.tiny(
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        vocab_size=vocab_size,
        vision_hidden_size=sizes.vit_hidden_size,
        vision_intermediate_size=sizes.vit_intermediate_size,
        vision_num_hidden_layers=sizes.vit_layers,
        vision_num_attention_heads=sizes.vit_heads,
        max_latent_size=sizes.picture_side // 16,
        vit_max_num_patch_per_side=sizes.vit_side // 14,
        vae_transform=(sizes.picture_side, 16, 16),
        vit_transform=(sizes.vit_side, 14, 14),
    )


@torch.no_grad()
def scale_to_width(model: BagelForUnifiedGeneration, layers: int) -> None:
    """Draw the decoder's weights with a spread that fits their width.

    The published spread of 0.02 is meant for wide layers. At 192 the inputs then drown in the
    position table (whose values are near 1), and the first hundreds of steps are spent on growing
    weights. (Tried once, together with another time shift; its own share was not measured.)
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "llm2vae":
            branch = name.endswith(("o_proj", "o_proj_moe_gen", "down_proj"))
            depth = (2 * layers) ** -0.5 if branch else 1.0
            nn.init.normal_(module.weight, std=depth * module.in_features**-0.5)
        elif isinstance(module, nn.Embedding) and name.endswith("embed_tokens"):
            nn.init.normal_(module.weight)


def load_autoencoder(folder: str | None) -> AutoencoderKL:
    """The autoencoder in `folder`, else the one of the package.

    Raises:
        Echo4oError: there is none.
    """
    with contextlib.ExitStack() as stack:
        shipped = resources.files("echo4o.models") / "tiny_autoencoder"
        path = Path(folder) if folder else stack.enter_context(resources.as_file(shipped))
        if not (path / "config.json").is_file():
            raise Echo4oError(
                f"there is no autoencoder at {path}; make one with "
                f"`python -m echo4o.training.autoencoder` and set `autoencoder` to its folder"
            )
        return AutoencoderKL.from_pretrained(path)


def _holds(folder: Path, parameters: dict[str, JsonValue], seed: int) -> bool:
    if not (folder / RECORD_NAME).exists():
        return False
    record = RunRecord.load(folder)
    return record.parameters == parameters and record.seed == seed
