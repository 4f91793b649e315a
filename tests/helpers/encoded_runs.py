"""Families whose pictures a frozen network encodes, as tests run them: milliseconds a step."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from echo4o.models.blip3o import Blip3oPipeline
from echo4o.models.omnigen2 import OmniGen2Pipeline
from echo4o.models.parts import PartsPipeline
from echo4o.training.config import TrainConfig
from echo4o.training.data import load_rows
from echo4o.training.encoded_family import EncodedFamily
from echo4o.training.families import open_family
from echo4o.training.order import Visit
from echo4o.training.recipes import tiny_blip3o, tiny_omnigen2

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
_EVERY = (
    *("tiny.hidden_size=48", "tiny.layers=2", "tiny.heads=4"),
    *("tiny.text_hidden_size=32", "tiny.vocab_size=400"),
    *("samples_per_pack=4", "packs_per_step=1", "steps=6", "checkpoint_every=3", "ema_decay=0"),
    *("sample_steps=2", "warmup_steps=1", "sample_every=0", "sample_prompts=[]", "log_every=1000"),
)


class Tried(NamedTuple):
    """A family as it is tried."""

    recipe: Callable[[], TrainConfig]
    words: tuple[str, ...]
    """`--set` values of a small run."""
    pipeline: type[PartsPipeline]
    drawing: dict[str, Any]
    """Arguments of a small picture."""


TRIED = {
    "omnigen2": Tried(
        tiny_omnigen2,
        (*_EVERY, "tiny.kv_heads=2", "omnigen2.max_side=32"),
        OmniGen2Pipeline,
        {"height": 32, "width": 32},
    ),
    "blip3o": Tried(
        tiny_blip3o,
        (
            *(*_EVERY, "tiny.queries=6", "tiny.text_layers=1", "tiny.text_steps=2"),
            *("tiny.feature_channels=16", "tiny.tower_layers=1", "tiny.decoder_steps=2"),
            *("tiny.picture_side=32", "blip3o.tower_side=32", "mixture=all:1", "noise_draws=2"),
            "timestep_shift=1",
        ),
        Blip3oPipeline,
        {},
    ),
}


def family_of(config: TrainConfig, base: Path, out: Path) -> Any:
    """The family on a copy of a base model, with its pictures encoded."""
    shutil.copytree(base, out / "base", dirs_exist_ok=True)
    family = open_family(config, load_rows(config), out, device=torch.device("cpu"))
    assert isinstance(family, EncodedFamily)
    family.prepare()
    return family


def batch_of(family: Any, *rows: int, visit: int = 0) -> Any:
    """Those rows at one visit."""
    batch = family.collate([family.load(Visit(row, visit)) for row in rows])
    assert batch is not None
    return batch


def losses(run: Path) -> list[float]:
    """Of every step."""
    return [json.loads(line)["loss"] for line in (run / "loss.jsonl").open()]


def same_run(one: Path, other: Path) -> bool:
    """Whether two runs agree to the last bit, in every loss and in the model."""
    files = ("loss.jsonl", f"model/{WEIGHTS}")
    return all((one / file).read_bytes() == (other / file).read_bytes() for file in files)


def pixels(pipe: PartsPipeline, **arguments: Any) -> np.ndarray:
    """A picture (height, width, 3) in [0, 1]."""
    pipe.set_progress_bar_config(disable=True)
    made = pipe(
        "A photo of a red circle",
        num_inference_steps=2,
        output_type="np",
        generator=torch.Generator().manual_seed(0),
        **arguments,
    )
    return np.asarray(made.images[0])
