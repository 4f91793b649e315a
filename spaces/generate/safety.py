"""Checks of prompts and pictures on a hosted page (DESIGN: rights and disclosure).

Prompts pass a plain list of words, pictures a small classifier from the Hub. Neither is complete;
a hosted page without its classifier makes nothing.
"""

import json
import logging
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from checks import Refusal
from loads import LOADS

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

CLASSIFIER = "Falconsai/nsfw_image_detection"
UNSAFE_LABELS = {"nsfw", "porn", "hentai", "unsafe", "sexual", "explicit", "gore"}
THRESHOLD = 0.5
_SIDE = 224
_SEXUAL = r"nudes?|nudity|naked|porn\w*|nsfw|hentai|erotic\w*|genitals?|sex(?:ual|y)?|lingerie"
_MINOR = r"child(?:ren)?|kids?|minors?|toddlers?|bab(?:y|ies)|teen\w*|school ?(?:girl|boy)s?|lolis?"
_RULES = (
    (re.compile(rf"(?=.*\b(?:{_SEXUAL})\b)(?=.*\b(?:{_MINOR})\b)", re.S), "sexualises minors"),
    (re.compile(rf"\b(?:{_SEXUAL})\b"), "is about nudity or sex"),
    (re.compile(r"\b(?:gore|gory|behead\w*|dismember\w*|disembowel\w*)\b"), "asks for gore"),
)


def check_words(words: str) -> None:
    """Refuse a prompt that asks for what is not made here.

    Raises:
        Refusal: says which rule it met.
    """
    for rule, what in _RULES:
        if rule.search(words.lower()):
            raise Refusal(f"This prompt {what}; such pictures are not made here.")


class PictureCheck:
    """The classifier, loaded beside the page's start."""

    def __init__(self, source: str | None = None) -> None:
        named = source or os.environ.get("ECHO4O_SAFETY_MODEL") or CLASSIFIER
        self.source = str(Path(named).resolve()) if Path(named).is_dir() else named
        self._loaded = threading.Event()
        self._model: PreTrainedModel | None = None
        self._mean, self._std = [0.5] * 3, [0.5] * 3

    def start(self) -> None:
        """Begin loading."""
        LOADS.start(self._load)

    def passes(self, picture: "Image.Image") -> bool:
        """Whether a picture may be shown.

        Raises:
            Refusal: the classifier could not be loaded.
        """
        import torch

        LOADS.wait()
        self._loaded.wait()
        if self._model is None:
            raise Refusal("The check of pictures could not be loaded, so nothing is made here.")
        with torch.inference_mode():
            shares = self._model(self._pixels(picture)).logits.softmax(-1)[0].tolist()
        labels = self._model.config.id2label
        unsafe = sum(
            share for place, share in enumerate(shares) if labels[place].lower() in UNSAFE_LABELS
        )
        return unsafe < THRESHOLD

    def _pixels(self, picture: "Image.Image") -> "Tensor":
        import numpy as np
        import torch
        from PIL import Image

        small = picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
        values = torch.from_numpy(np.asarray(small).copy()).float() / 255
        return ((values - torch.tensor(self._mean)) / torch.tensor(self._std)).permute(2, 0, 1)[
            None
        ]

    def _load(self) -> None:
        try:
            from huggingface_hub import snapshot_download
            from transformers import AutoModelForImageClassification

            folder = Path(self.source)
            if not folder.is_dir():
                patterns = ["*.json", "*.safetensors"]
                folder = Path(snapshot_download(self.source, allow_patterns=patterns))
            facts = json.loads((folder / "preprocessor_config.json").read_text())
            model = AutoModelForImageClassification.from_pretrained(folder)
            if not {label.lower() for label in model.config.id2label.values()} & UNSAFE_LABELS:
                raise ValueError(f"{self.source} has none of the labels {sorted(UNSAFE_LABELS)}")
            self._mean, self._std = facts["image_mean"], facts["image_std"]
            self._model = model.eval()
        finally:
            # The reason is in the log (threading prints it); visitors see that nothing is made.
            self._loaded.set()
