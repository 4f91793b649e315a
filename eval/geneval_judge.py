"""GenEval's judge: a detector and a CLIP model of this machine, asked as an API is.

A question is an item's row, an answer what was found in the picture: boxes, scores, and colours
where the item asks for one. What that means for the item is the protocol's business, so a run can
be read again without a model. Answers are kept in the ledger like bought ones, at no cost.
"""

import json
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from echo4o.client import ChatRequest
from echo4o.errors import Echo4oError
from echo4o.ledger import Ledger

from .bare_pixels import read_pixels
from .geneval_box_detector import BoxDetector
from .geneval_classes import class_names
from .geneval_colours import ColourClassifier, refuse_open_clip
from .geneval_detector import Detections, Detector, InstanceDetector, Pixels
from .geneval_rules import DetectionRule, keep
from .local_judge import DETECTOR, LocalJudge, pinned, split_revision
from .painters import identify

_AT_ONCE = 4
"""Pictures handed to a thread at a time; each is looked at on its own."""
_MOST_WORKERS = 4
"""Pictures looked at side by side on a CPU; each needs memory of its own."""
_WITH_MASKS = ("mask2former", "maskformer")


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
        self._kind = _check(*split_revision(name.removeprefix(DETECTOR)))
        self._threads = torch.get_num_threads()
        on_gpu = torch.cuda.is_available()
        super().__init__(
            name.removeprefix(DETECTOR),
            ledger=ledger,
            batch_size=_AT_ONCE,
            workers=1 if on_gpu else min(_MOST_WORKERS, self._threads),
        )
        self._device = "cuda" if on_gpu else "cpu"
        self._clip, revision = split_revision(colours)
        refuse_open_clip(self._clip)
        clip = identify(self._clip, revision)
        self._clip_revision = clip.revision
        detector = identify(self._source, self._revision)
        self.model = f"{DETECTOR}{pinned(detector)}, colours {pinned(clip)}"
        self._lock = threading.Lock()
        self._models: tuple[Detector, ColourClassifier] | None = None

    async def __aenter__(self) -> Self:
        # Two pictures on a core each are done sooner than one after the other on both.
        torch.set_num_threads(max(1, self._threads // self._workers))
        return await super().__aenter__()

    async def __aexit__(self, *error: object) -> None:
        torch.set_num_threads(self._threads)
        await super().__aexit__(*error)

    def _answer(self, requests: list[ChatRequest]) -> list[str]:
        return [self._look(request) for request in requests]

    def _look(self, request: ChatRequest) -> str:
        row, picture = request.user
        assert isinstance(row, str)
        assert isinstance(picture, bytes)
        detector, colours = self._both()
        found = seen(read_pixels(picture), json.loads(row), detector, colours)
        return json.dumps({"objects": found})

    def _both(self) -> tuple[Detector, ColourClassifier]:
        with self._lock:
            if self._models is None:
                self._models = (self._detector(), self._colours())
            return self._models

    def _detector(self) -> Detector:
        kind = InstanceDetector if self._kind.has_masks else BoxDetector
        try:
            return kind.from_pretrained(
                self._source, self._kind.names, revision=self._revision, device=self._device
            )
        except _LOADING as error:
            raise _no_detector(self._source, error) from error

    def _colours(self) -> ColourClassifier:
        try:
            return ColourClassifier.from_pretrained(
                self._clip, revision=self._clip_revision, device=self._device
            )
        except _LOADING as error:
            raise Echo4oError(
                f"{self._clip} is no CLIP model that transformers can load ({_said(error)})"
            ) from error


class _Kind(NamedTuple):
    """What a detector is, by its configuration."""

    has_masks: bool
    names: dict[int, str]
    """By its numbers."""


_LOADING = (OSError, ValueError, KeyError, AttributeError, RuntimeError, ImportError)


def _check(source: str, revision: str | None) -> _Kind:
    """Refuse a model of other classes from its configuration alone, before any picture is made."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES as WITH_BOXES,
    )

    try:
        config = AutoConfig.from_pretrained(source, revision=revision)
        labels = {int(number): str(name) for number, name in config.id2label.items()}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise _no_detector(source, error) from error
    has_masks = config.model_type in _WITH_MASKS
    if not has_masks and config.model_type not in WITH_BOXES:
        raise Echo4oError(
            f"{source} is a {config.model_type}, none of the detectors that can be read here; name "
            "a Mask2Former or MaskFormer that was trained on COCO instances, or a detector of "
            "boxes such as DETR, RT-DETR or YOLOS"
        )
    return _Kind(has_masks, class_names(labels, source))


def _no_detector(source: str, error: Exception) -> Echo4oError:
    return Echo4oError(f"{source} is no detector that transformers can load ({_said(error)})")


def _said(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def seen(
    pixels: Pixels,
    row: Mapping[str, Any],
    detector: Detector,
    colours: ColourClassifier,
) -> dict[str, Any]:
    """Return what a picture shows, by class: boxes with scores, colours of those asked about.

    Args:
        pixels: The picture.
        row: The item; its colours are looked for.
        detector: Finds the objects.
        colours: Names their colours.
    """
    rule = DetectionRule()
    found = {
        name: kept
        for name, all_of in detector(pixels).items()
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
        said = colours(pixels, name, boxes[numbers], masks[numbers])
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
    if chosen.all():
        return found  # masks are large
    return Detections(found.boxes[chosen], found.masks[chosen])
