"""GenEval's judge: a detector and a CLIP model of this machine, asked as an API is.

A question is an item's row, an answer what was found in the picture: boxes, scores, and colours
where the item asks for one. What that means for the item is the protocol's business, so a run can
be read again without a model. Answers are kept in the ledger like bought ones, at no cost.
"""

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from echo4o.client import ChatRequest
from echo4o.errors import Echo4oError
from echo4o.ledger import Ledger

from .geneval_classes import NAMES, check_classes
from .geneval_colours import ColourClassifier
from .geneval_detector import Detections, InstanceDetector
from .geneval_rules import DetectionRule, keep
from .local_judge import DETECTOR, LocalJudge, pinned, split_revision
from .painters import identify

_AT_ONCE = 4
"""Pictures handed to the models' thread at a time; each is looked at on its own."""


class DetectorJudge(LocalJudge):
    """Answers what is in a picture.

    Args:
        name: `detector:` and the Hub id (with @REVISION) or folder of an instance detector.
        colours: The same of a CLIP model, without a prefix.
        ledger: Where answers are kept.

    Raises:
        Echo4oError: there is no such model.
    """

    def __init__(self, name: str, colours: str, *, ledger: Ledger) -> None:
        _check(*split_revision(name.removeprefix(DETECTOR)))
        super().__init__(name.removeprefix(DETECTOR), ledger=ledger, batch_size=_AT_ONCE)
        self._clip, revision = split_revision(colours)
        clip = identify(self._clip, revision)
        self._clip_revision = clip.revision
        detector = identify(self._source, self._revision)
        self.model = f"{DETECTOR}{pinned(detector)}, colours {pinned(clip)}"
        self._models: tuple[InstanceDetector, ColourClassifier] | None = None

    def _answer(self, requests: list[ChatRequest]) -> list[str]:
        return [self._look(request) for request in requests]

    def _look(self, request: ChatRequest) -> str:
        row, picture = request.user
        assert isinstance(row, str)
        assert isinstance(picture, bytes)
        detector, colours = self._both()
        image = Image.open(io.BytesIO(picture)).convert("RGB")
        return json.dumps({"objects": seen(image, json.loads(row), detector, colours)})

    def _both(self) -> tuple[InstanceDetector, ColourClassifier]:
        if self._models is None:
            import torch

            device = "cuda" if torch.cuda.is_available() else "cpu"
            detector = _loaded(self._source, self._revision, device)
            try:
                clip = ColourClassifier.from_pretrained(
                    self._clip, revision=self._clip_revision, device=device
                )
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                raise Echo4oError(
                    f"{self._clip} is no CLIP model that transformers can load "
                    f"({str(error).splitlines()[0]})"
                ) from error
            self._models = (detector, clip)
        return self._models


def _check(source: str, revision: str | None) -> None:
    """Refuse a model of other classes from its configuration alone, before any picture is made."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES as KNOWN,
    )

    try:
        config = AutoConfig.from_pretrained(source, revision=revision)
        labels = {int(number): str(name) for number, name in config.id2label.items()}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise _no_detector(source, error) from error
    if config.model_type not in KNOWN:
        raise Echo4oError(
            f"{source} is a {config.model_type}, which finds no instances with masks; name a "
            "Mask2Former or MaskFormer that was trained on COCO instances"
        )
    check_classes(labels, source)


def _loaded(source: str, revision: str | None, device: str) -> InstanceDetector:
    try:
        return InstanceDetector.from_pretrained(source, NAMES, revision=revision, device=device)
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise _no_detector(source, error) from error


def _no_detector(source: str, error: Exception) -> Echo4oError:
    said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return Echo4oError(f"{source} is no instance detector that transformers can load ({said})")


def seen(
    image: Image.Image,
    row: Mapping[str, Any],
    detector: InstanceDetector,
    colours: ColourClassifier,
) -> dict[str, Any]:
    """Return what a picture shows, by class: boxes with scores, colours of those asked about.

    Args:
        image: RGB.
        row: The item; its colours are looked for.
        detector: Finds the objects.
        colours: Names their colours.
    """
    rule = DetectionRule()
    found = {
        name: kept
        for name, all_of in detector(image).items()
        if len((kept := _above(all_of, rule.threshold)).boxes)
    }
    named: dict[str, dict[int, str]] = {}
    for wanted in row["include"]:
        name = wanted["class"]
        if not wanted.get("color") or name not in found:
            continue
        boxes, masks = found[name]
        numbers = keep(boxes, row["tag"], rule)[: wanted["count"]]
        if len(numbers) < wanted["count"]:
            continue  # too few: the rule does not ask for their colours
        said = colours(image, name, boxes[numbers], masks[numbers])
        named.setdefault(name, {}).update(zip(map(int, numbers), said, strict=True))
    return {
        name: {
            "boxes": objects.boxes.tolist(),
            "colours": {str(number): word for number, word in named.get(name, {}).items()},
        }
        for name, objects in found.items()
    }


def _above(found: Detections, threshold: float) -> Detections:
    chosen = found.boxes[:, 4] > np.float32(threshold)
    return Detections(found.boxes[chosen], found.masks[chosen])
