"""Objects in a picture for GenEval: any instance model of transformers with queries and masks.

The reading of the model's output is that of the benchmark's detector (mmdet's Mask2Former), not
that of transformers, which resamples masks to 384 x 384 pixels and cuts by another score.

Shape letters: Q queries, K classes, H and W pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import AutoModelForUniversalSegmentation, PreTrainedModel

from echo4o.errors import Echo4oError

from .geneval_masks import Found, Geometry, in_picture
from .geneval_rules import Boxes

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MOST = 100
"""Best pairs of query and class that are looked at."""
_CAREFUL = 0.999
"""Share of the least score from which on a pair is looked at: rounding loses none."""


Pixels: TypeAlias = NDArray[np.uint8]
"""(H, W, 3): an RGB picture."""


class Detections(NamedTuple):
    """Objects of one class."""

    boxes: Boxes
    """(objects, 5): x0, y0, x1, y1 with exclusive ends, score."""
    masks: NDArray[np.bool_]
    """(objects, H, W)."""


class Detector(ABC):
    """A model of transformers with the names of its classes."""

    _auto: ClassVar[Any]
    """The class that loads its model."""

    def __init__(
        self,
        model: PreTrainedModel,
        names: Mapping[int, str],
        *,
        source: str,
        revision: str | None = None,
        least_score: float = 0.3,
    ) -> None:
        """Wrap a model.

        Args:
            model: what `from_pretrained` of the kind's Auto class returns.
            names: by the model's number; what has another number is not looked at.
            source: folder or Hub id, part of every result.
            revision: commit on the Hub.
            least_score: objects that cannot reach it are left out.

        Raises:
            Echo4oError: the model has no class of such a number.
        """
        labels = model.config.num_labels
        if max(names) >= labels:
            raise Echo4oError(
                f"the detector {source} knows {labels} classes, none of which has the number "
                f"{max(names)} ({names[max(names)]}); give names by its own numbers"
            )
        self.source, self.revision = source, revision
        self._model, self._names, self._least = model.eval(), dict(names), least_score

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        names: Mapping[int, str],
        *,
        revision: str | None = None,
        device: str = "cpu",
        least_score: float = 0.3,
    ) -> Self:
        """Load a model of transformers from a folder or Hub id; no code of it is run."""
        model = cls._auto.from_pretrained(
            name, revision=revision, use_safetensors=True, trust_remote_code=False
        )
        commit = getattr(model.config, "_commit_hash", None) or revision
        return cls(
            model.to(device), names, source=str(name), revision=commit, least_score=least_score
        )

    @abstractmethod
    def __call__(self, pixels: Pixels) -> dict[str, Detections]:
        """Objects of a picture by class, in no order; classes without any are left out."""


class InstanceDetector(Detector):
    """A model that gives `class_queries_logits` and `masks_queries_logits`."""

    _auto = AutoModelForUniversalSegmentation

    @torch.no_grad()
    def __call__(self, pixels: Pixels) -> dict[str, Detections]:
        """Objects of a picture by class, in no order; classes without any are left out."""
        geometry = Geometry.of(pixels.shape[1], pixels.shape[0])
        inputs = prepared(pixels, geometry).to(self._model.device, self._model.dtype)
        found = self._model(pixel_values=inputs[None])
        if "masks_queries_logits" not in found:
            raise Echo4oError(
                f"the detector {self.source} gives no masks of its queries; name a Mask2Former "
                "or MaskFormer"
            )
        return by_class(
            found.class_queries_logits[0].float().cpu(),
            found.masks_queries_logits[0].float().cpu(),
            geometry,
            self._names,
            self._least,
        )


def prepared(pixels: Pixels, geometry: Geometry) -> Tensor:
    """Picture -> (3, H, W), resized, normalised as for ImageNet, padded with zeros."""
    height, width = geometry.resized
    # As Pillow's bilinear resize, a level apart at most, in a third of its time.
    image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None]
    small = interpolate(image, size=(height, width), mode="bilinear", antialias=True)[0]
    padded = torch.zeros(3, *geometry.padded)
    for channel, mean, deviation in zip(range(3), _MEAN, _STD, strict=True):
        inside = padded[channel, :height, :width]
        inside.copy_(small[channel]).mul_(1 / (255 * deviation)).sub_(mean / deviation)
    return padded


def by_class(
    class_logits: Tensor,
    mask_logits: Tensor,
    geometry: Geometry,
    names: Mapping[int, str],
    least_score: float,
) -> dict[str, Detections]:
    """Read a model's output for one picture.

    A score is the class's probability times the mean probability of the mask's own pixels. As it
    never exceeds the first factor times the probability of the mask's best cell, pairs that cannot
    reach `least_score` are left out before their masks are made; what is returned above it is the
    same as without that shortcut.

    Args:
        class_logits: (Q, K + 1), the last one for "no object".
        mask_logits: (Q, rows, columns) over the padded picture.
        geometry: the picture's sizes.
        names: of the K classes, by number; those without one are not looked at.
        least_score: 0 looks at every pair.
    """
    classes = class_logits.shape[1] - 1
    chances = class_logits.softmax(dim=-1)[:, :-1].flatten()
    best, places = chances.topk(min(_MOST, len(chances)))
    # Resizing mixes cells: no pixel of a mask is surer than its best cell.
    surest = mask_logits.amax(dim=(1, 2)).sigmoid()[places // classes]
    places = places[best * surest >= least_score * _CAREFUL]
    masks: dict[int, Found | None] = {}
    found: dict[str, list[tuple[Found, float]]] = {}
    for place in places.tolist():
        query, label = divmod(place, classes)
        if label not in names:
            continue
        if query not in masks:
            masks[query] = in_picture(mask_logits[query], geometry)
        one = masks[query]
        if one is not None:
            score = float(chances[place]) * one.certainty
            found.setdefault(names[label], []).append((one, score))
    return {name: _detections(group, geometry.original) for name, group in found.items()}


def _detections(group: Sequence[tuple[Found, float]], size: tuple[int, int]) -> Detections:
    boxes = np.array([(*one.box, score) for one, score in group], dtype=np.float32)
    masks = np.zeros((len(group), *size), dtype=np.bool_)
    for whole, (one, _) in zip(masks, group, strict=True):
        left, top, right, bottom = one.box
        whole[top:bottom, left:right] = one.mask
    return Detections(boxes, masks)
