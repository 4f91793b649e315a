"""Objects in a picture for GenEval: any instance model of transformers with queries and masks.

The reading of the model's output is that of the benchmark's detector (mmdet's Mask2Former), not
that of transformers, which resamples masks to 384 x 384 pixels and cuts by another score.

Shape letters: Q queries, K classes, H and W pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import PreTrainedModel

from echo4o.errors import Echo4oError

from .geneval_rules import Boxes

_SHORTEST, _LONGEST, _STRIDE = 800, 1333, 32
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MOST = 100
"""Best pairs of query and class that are looked at."""
_EPSILON = 1e-6
_CAREFUL = 0.999
"""Share of the least score from which on a pair is looked at: rounding loses none."""


class Detections(NamedTuple):
    """Objects of one class."""

    boxes: Boxes
    """(objects, 5): x0, y0, x1, y1 with exclusive ends, score."""
    masks: NDArray[np.bool_]
    """(objects, H, W)."""


class Geometry(NamedTuple):
    """Heights and widths of a picture on its way into the model."""

    original: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]

    @classmethod
    def of(cls, width: int, height: int) -> "Geometry":
        """Shortest side 800 unless the longest would pass 1,333; padded to multiples of 32."""
        scale = min(_SHORTEST / min(width, height), _LONGEST / max(width, height))
        resized = (int(height * scale + 0.5), int(width * scale + 0.5))
        padded = (-(-resized[0] // _STRIDE) * _STRIDE, -(-resized[1] // _STRIDE) * _STRIDE)
        return cls((height, width), resized, padded)


class InstanceDetector:
    """A detector with the names of its classes."""

    def __init__(
        self,
        model: PreTrainedModel,
        names: Sequence[str],
        *,
        source: str,
        revision: str | None = None,
        least_score: float = 0.3,
    ) -> None:
        """Wrap a model.

        Args:
            model: gives `class_queries_logits` and `masks_queries_logits`.
            names: one per class of the model, in the order of its numbers.
            source: folder or Hub id, part of every result.
            revision: commit on the Hub.
            least_score: objects that cannot reach it are not looked at further.

        Raises:
            Echo4oError: the model has another number of classes.
        """
        labels = model.config.num_labels
        if labels != len(names):
            raise Echo4oError(
                f"the detector {source} knows {labels} classes but {len(names)} names are given; "
                "use a detector that was trained on COCO's 80 things, or give its own names"
            )
        self.source, self.revision = source, revision
        self._model, self._names, self._least = model.eval(), list(names), least_score

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        names: Sequence[str],
        *,
        revision: str | None = None,
        device: str = "cpu",
        least_score: float = 0.3,
    ) -> "InstanceDetector":
        """Load a model of transformers from a folder or Hub id; no code of it is run."""
        from transformers import AutoModelForUniversalSegmentation

        model = AutoModelForUniversalSegmentation.from_pretrained(
            name, revision=revision, use_safetensors=True, trust_remote_code=False
        )
        commit = getattr(model.config, "_commit_hash", None) or revision
        return cls(
            model.to(device), names, source=str(name), revision=commit, least_score=least_score
        )

    @torch.no_grad()
    def __call__(self, image: Image.Image) -> dict[str, Detections]:
        """Objects of an RGB picture by class, in no order; classes without any are left out."""
        geometry = Geometry.of(*image.size)
        pixels = prepared(image, geometry).to(self._model.device, self._model.dtype)
        found = self._model(pixel_values=pixels[None])
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


def prepared(image: Image.Image, geometry: Geometry) -> Tensor:
    """RGB picture -> (3, H, W), resized, normalised as for ImageNet, padded with zeros."""
    height, width = geometry.resized
    # As Pillow's bilinear resize, a level apart at most, in a third of its time.
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    small = interpolate(pixels, size=(height, width), mode="bilinear", antialias=True)[0]
    padded = torch.zeros(3, *geometry.padded)
    for channel, mean, deviation in zip(range(3), _MEAN, _STD, strict=True):
        inside = padded[channel, :height, :width]
        inside.copy_(small[channel]).mul_(1 / (255 * deviation)).sub_(mean / deviation)
    return padded


def by_class(
    class_logits: Tensor,
    mask_logits: Tensor,
    geometry: Geometry,
    names: Sequence[str],
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
        names: of the K classes.
        least_score: 0 looks at every pair.
    """
    chances = class_logits.softmax(dim=-1)[:, :-1].flatten()
    best, places = chances.topk(min(_MOST, len(chances)))
    # Resizing mixes cells: no pixel of a mask is surer than its best cell.
    surest = mask_logits.amax(dim=(1, 2)).sigmoid()[places // len(names)]
    places = places[best * surest >= least_score * _CAREFUL]
    found: dict[str, tuple[list[list[float]], list[NDArray[np.bool_]]]] = {}
    for place in places.tolist():
        query, label = divmod(place, len(names))
        logits = _to_picture(mask_logits[query], geometry)
        mask = (logits > 0).numpy()
        pixels = np.count_nonzero(mask)
        if not pixels:
            continue
        rows = np.flatnonzero(mask.any(axis=1))
        top, bottom = rows[0], rows[-1] + 1
        columns = np.flatnonzero(mask[top:bottom].any(axis=0))
        left, right = columns[0], columns[-1] + 1
        inside = logits[top:bottom, left:right]
        certainty = float((inside.sigmoid() * (inside > 0)).sum()) / (pixels + _EPSILON)
        corners = (left, top, right, bottom)
        boxes, masks = found.setdefault(names[label], ([], []))
        boxes.append([*map(float, corners), float(chances[place]) * certainty])
        masks.append(mask)
    return {
        name: Detections(np.array(boxes, dtype=np.float32), np.stack(masks))
        for name, (boxes, masks) in found.items()
    }


def _to_picture(logits: Tensor, geometry: Geometry) -> Tensor:
    """Mask logits (rows, columns) -> (H, W) of the original picture."""

    def resize(values: Tensor, size: tuple[int, int]) -> Tensor:
        return interpolate(values, size=size, mode="bilinear", align_corners=False)

    height, width = geometry.resized
    inside = resize(logits[None, None], geometry.padded)[..., :height, :width]
    return resize(inside, geometry.original)[0, 0]
