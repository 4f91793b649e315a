"""The colour of an object for GenEval: CLIP on the cut-out object, the rest made grey."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from echo4o.errors import Echo4oError

from .geneval_detector import Pixels
from .geneval_rules import COLOURS, Boxes
from .local_judge import CLIP

_TEMPLATES = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}")
_ANY_OBJECT = "a photo of a {colour} object"
_GREY = 153
"""What surrounds the object: #999."""
_OPEN_CLIP = re.compile(r"hf-hub:|[^/]*\Z|(ViT|RN|EVA|convnext|coca|roberta|xlm|nllb)[-_\w]*/")
"""Names without an owner, and an architecture where a Hub id has its owner."""


def refuse_open_clip(name: str) -> None:
    """Refuse a name of open_clip's, such as ViT-L-14/openai.

    Raises:
        Echo4oError: it is neither a folder nor a Hub id.
    """
    if not Path(name).is_dir() and _OPEN_CLIP.match(name):
        raise Echo4oError(
            f"{name} is how open_clip names models, and colours are named through transformers "
            "here; give the Hub id or the folder of a CLIPModel (ViT-L-14/openai has the weights "
            f"of {CLIP})"
        )


class ColourClassifier:
    """Zero-shot classification into the ten colours of the benchmark."""

    def __init__(
        self, model: Any, tokenizer: Any, *, source: str, revision: str | None = None
    ) -> None:
        """Wrap a `CLIPModel` and its tokenizer."""
        self.source, self.revision = source, revision
        self._model, self._tokenizer = model.eval(), tokenizer
        self._by_name: dict[str, Tensor] = {}

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, revision: str | None = None, device: str = "cpu"
    ) -> "ColourClassifier":
        """Load a CLIP model of transformers from a folder or Hub id."""
        from transformers import AutoTokenizer, CLIPModel

        model = CLIPModel.from_pretrained(name, revision=revision, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        commit = getattr(model.config, "_commit_hash", None) or revision
        return cls(model.to(device), tokenizer, source=str(name), revision=commit)

    @torch.no_grad()
    def __call__(
        self, picture: Pixels, name: str, boxes: Boxes, masks: NDArray[np.bool_]
    ) -> list[str]:
        """One colour per object of a class; masks are (objects, H, W) of the picture."""
        if not len(boxes):
            return []
        crops = [cut_out(picture, box, mask) for box, mask in zip(boxes, masks, strict=True)]
        side = self._model.config.vision_config.image_size
        pixels = torch.stack([_prepared(crop, side) for crop in crops])
        found = self._model.get_image_features(pixel_values=pixels.to(self._model.device))
        similar = _unit(_features(found)) @ self._colours_of(name).T
        return [COLOURS[number] for number in similar.argmax(dim=-1).tolist()]

    def _colours_of(self, name: str) -> Tensor:
        """(10, features): per colour the mean direction of the templates."""
        if name not in self._by_name:
            texts = [
                template.format(colour=colour, name=name)
                for colour in COLOURS
                for template in (*_TEMPLATES, _ANY_OBJECT)
            ]
            inputs = self._tokenizer(texts, padding=True, return_tensors="pt")
            found = self._model.get_text_features(**inputs.to(self._model.device))
            directions = _unit(_features(found)).reshape(len(COLOURS), len(_TEMPLATES) + 1, -1)
            self._by_name[name] = _unit(directions.mean(dim=1))
        return self._by_name[name]


def cut_out(picture: Pixels, box: NDArray[np.float32], mask: NDArray[np.bool_]) -> Image.Image:
    """The box of an object, with what is not the object made grey."""
    left, top, right, bottom = (round(float(corner)) for corner in box[:4])
    place = slice(top, bottom), slice(left, right)
    return Image.fromarray(np.where(mask[place][..., None], picture[place], np.uint8(_GREY)))


def _prepared(image: Image.Image, side: int) -> Tensor:
    """CLIP's own preparation with Pillow: shortest side by bicubic, centre crop, normalised."""
    scale = side / min(image.size)
    width, height = (max(side, int(length * scale)) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - side) / 2), round((height - side) / 2)
    array = np.asarray(image.crop((left, top, left + side, top + side)), dtype=np.float32) / 255
    mean, deviation = (
        np.array(values, np.float32)
        for values in (
            (0.48145466, 0.4578275, 0.40821073),
            (0.26862954, 0.26130258, 0.27577711),
        )
    )
    return torch.from_numpy((array - mean) / deviation).permute(2, 0, 1)


def _features(found: Any) -> Tensor:
    """Newer transformers return an output object, older ones the tensor."""
    tensor: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return tensor.float()


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)
