"""Objects in a picture for GenEval from a detector of boxes: DETR, RT-DETR, YOLOS and the like.

What goes in and how the output is read is the model's own image processor's business. A box is all
that is known of an object, so its colour is looked for in the whole of it.
"""

from collections.abc import Mapping

import numpy as np
import torch
from transformers import AutoImageProcessor, AutoModelForObjectDetection, PreTrainedModel

from .geneval_detector import Detections, Detector, Pixels


class BoxDetector(Detector):
    """A model for object detection with its image processor."""

    _auto = AutoModelForObjectDetection

    def __init__(
        self,
        model: PreTrainedModel,
        names: Mapping[int, str],
        *,
        source: str,
        revision: str | None = None,
        least_score: float = 0.3,
    ) -> None:
        """Wrap a model; its image processor is read from `source`, the rest is as for any."""
        super().__init__(model, names, source=source, revision=revision, least_score=least_score)
        # Pillow's, whatever else is installed: the same picture is the same everywhere.
        self._processor = AutoImageProcessor.from_pretrained(
            source, revision=revision, trust_remote_code=False, backend="pil"
        )

    @torch.no_grad()
    def __call__(self, pixels: Pixels) -> dict[str, Detections]:
        """Objects of a picture by class; classes without any are left out."""
        size = pixels.shape[:2]
        inputs = self._processor(
            images=pixels, return_tensors="pt", input_data_format="channels_last"
        )
        outputs = self._model(**inputs.to(self._model.device, self._model.dtype))
        found = self._processor.post_process_object_detection(
            outputs, threshold=self._least, target_sizes=[size]
        )[0]
        corners = found["boxes"].float().cpu().numpy()
        # Corners may lie a little outside; what rounds to nothing is no object.
        corners = np.clip(corners, 0, np.array([size[1], size[0]] * 2, dtype=np.float32))
        sides = np.round(corners[:, 2:]) - np.round(corners[:, :2])
        groups: dict[str, list[list[float]]] = {}
        for label, score, box, is_there in zip(
            found["labels"].tolist(),
            found["scores"].tolist(),
            corners.tolist(),
            (sides > 0).all(axis=1),
            strict=True,
        ):
            if is_there and label in self._names:
                groups.setdefault(self._names[label], []).append([*box, score])
        return {
            name: Detections(
                np.array(boxes, dtype=np.float32), np.broadcast_to(np.True_, (len(boxes), *size))
            )
            for name, boxes in groups.items()
        }
