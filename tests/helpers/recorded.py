"""Recorded cases of the authors' model: reads them and builds our inputs from them."""

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from echo4o import Echo4oPipeline
from echo4o.models.bagel.packing import Sample, Segment, TextSegment, VaeSegment, VitSegment
from echo4o.models.bagel.processor import ResizeRule
from echo4o.models.pixels import to_pixels, to_rgb

SHARED = Path(os.environ.get("ECHO4O_SHARED") or Path(__file__).parents[2] / ".." / "shared")
FOLDER = Path(os.environ.get("ECHO4O_GOLDENS") or SHARED / "goldens" / "bagel" / "goldens_dev")
ARGUMENTS = {
    "num_timesteps": 50,
    "timestep_shift": 3.0,
    "cfg_text_scale": 3.0,
    "cfg_img_scale": 1.5,
    "cfg_interval": [0.4, 1.0],
    "cfg_renorm_min": 0.0,
    "cfg_renorm_type": "global",
    "image_shapes": [1024, 1024],
    "max_think_token_n": 1000,
    "think": False,
    "understanding_output": False,
}


class Tensors(dict[str, Tensor]):
    """The tensors of a case; remembers which ones were looked at."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__(values)
        self.seen: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.seen.add(name)
        return super().__getitem__(name)

    def below(self, prefix: str) -> dict[str, Tensor]:
        """All tensors whose name starts with a prefix, which is taken off."""
        return {name.removeprefix(prefix): self[name] for name in self if name.startswith(prefix)}

    def unseen(self) -> set[str]:
        """What no check has looked at."""
        return set(self) - self.seen


@dataclass(frozen=True)
class Case:
    """One recorded case: the request, integers and texts, tensors, and its model."""

    name: str
    request: dict[str, Any]
    result: dict[str, Any]
    tensors: Tensors
    pipe: Echo4oPipeline

    @property
    def vae_rule(self) -> ResizeRule:
        return ResizeRule(*self.request["vae_transform"])

    @property
    def vit_rule(self) -> ResizeRule:
        return ResizeRule(*self.request["vit_transform"])

    def picture(self, name: str) -> Image.Image:
        return Image.open(FOLDER / "images" / name)

    def stacked(self, pattern: str) -> list[Tensor]:
        """The tensors pattern.format(0), pattern.format(1), ... as far as they exist."""
        found: list[Tensor] = []
        while (name := pattern.format(len(found))) in self.tensors:
            found.append(self.tensors[name])
        return found


def names() -> list[str]:
    """All cases of the folder; a file that holds no case may lie beside them."""
    files = sorted(FOLDER.glob("*.json"))
    return [path.stem for path in files if "case" in json.loads(path.read_text())]


@functools.cache
def load_pipe(checkpoint: Path) -> Echo4oPipeline:
    """The tiny model, loaded once; cases are recorded in fp32, however weights are stored."""
    pipe = Echo4oPipeline.from_pretrained(checkpoint, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load(name: str) -> Case:
    """Read one case; its `checkpoint` is relative to the case file."""
    facts = json.loads((FOLDER / f"{name}.json").read_text())
    pipe = load_pipe((FOLDER / facts["checkpoint"]).resolve())
    # The model is shared between cases; each brings its own resize rules.
    pipe.model.config.vae_transform = tuple(facts["case"]["vae_transform"])
    pipe.model.config.vit_transform = tuple(facts["case"]["vit_transform"])
    tensors = Tensors(load_file(FOLDER / f"{name}.safetensors"))
    return Case(name, facts["case"], facts["result"], tensors, pipe)


@dataclass
class PlanItem:
    """One segment of a training sample, before pictures are encoded."""

    kind: str
    """text, vit or vae."""
    content: str
    """The text, or the name of the picture."""
    target: bool = False
    """Noised picture or supervised text."""
    droppable: bool = True


def plan(sample: dict[str, Any]) -> list[PlanItem]:
    """The segments of a recorded training sample in order (specification, section 9.4)."""
    if sample["type"] == "t2i":
        return [PlanItem("text", sample["text"]), PlanItem("vae", sample["image"], True, False)]
    if sample["type"] == "multi_ref":
        *references, target = sample["images"]
        items = [PlanItem(kind, name) for name in references for kind in ("vae", "vit")]
        return [*items, PlanItem("text", sample["text"]), PlanItem("vae", target, True, False)]
    if sample["type"] == "edit_chain":
        items = []
        for index, text in enumerate(sample["texts"]):
            items += [PlanItem(kind, sample["images"][index]) for kind in ("vae", "vit")]
            items += [PlanItem("text", text)]
            items += [PlanItem("vae", sample["images"][index + 1], True, False)]
        return items
    return [
        PlanItem("vit", part["image"], droppable=False)
        if "image" in part
        else PlanItem("text", part["text"], bool(part["loss"]), False)
        for part in sample["parts"]
    ]


def build_samples(case: Case) -> tuple[list[Sample], Tensor]:
    """Our samples of a training case, and the padded pictures its autoencoder batch is made of.

    The recorded run encodes all latent pictures as one zero-padded batch and crops it; so do we.
    """
    probability = dict(zip(("text", "vit", "vae"), case.request["drop"], strict=True))
    draws = iter(case.result["dropout_draws"])
    items = [plan(sample) for sample in case.request["samples"]]
    dropped = [[i.droppable and next(draws) < probability[i.kind] for i in own] for own in items]
    pixels = [
        to_pixels(case.vae_rule.resize(to_rgb(case.picture(item.content))))
        for own, gone in zip(items, dropped, strict=True)
        for item, is_gone in zip(own, gone, strict=True)
        if item.kind == "vae" and not is_gone
    ]
    height, width = (max(p.shape[axis] for p in pixels) for axis in (1, 2))
    padded = torch.zeros(len(pixels), 3, height, width)
    for target, own in zip(padded, pixels, strict=True):
        target[:, : own.shape[1], : own.shape[2]] = own
    latents = iter(zip(encode_padded(case, padded), pixels, strict=True))
    samples: list[Sample] = []
    for own, gone in zip(items, dropped, strict=True):
        pairs = zip(own, gone, strict=True)
        samples.append([_segment(case, item, is_gone, latents) for item, is_gone in pairs])
    return samples, padded


def encode_padded(case: Case, padded: Tensor) -> Tensor:
    """The scaled latents of a padded batch with the recorded noise."""
    vae = case.pipe.vae
    with torch.no_grad():
        moments = vae.encode(padded).latent_dist
    latent = moments.mean + moments.std * case.tensors["noise.0"]
    return vae.config.scaling_factor * (latent - vae.config.shift_factor)


def _segment(case: Case, item: PlanItem, dropped: bool, latents: Any) -> Segment:
    if item.kind == "text":
        ids = case.pipe.tokenizer(item.content, add_special_tokens=False)["input_ids"]
        return TextSegment(ids, loss=item.target, dropped=dropped)
    if item.kind == "vit":
        picture = case.vit_rule.resize(to_rgb(case.picture(item.content)))
        return VitSegment(to_pixels(picture), dropped=dropped)
    if dropped:
        return VaeSegment(torch.empty(0, 0, 0), noised=item.target, dropped=True)
    latent, pixels = next(latents)
    return VaeSegment(latent[:, : pixels.shape[1] // 8, : pixels.shape[2] // 8], item.target)
