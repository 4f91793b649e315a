"""Objects in a picture for GenEval from a detector of boxes: DETR, RT-DETR, YOLOS and the like.

What goes in and how the output is read is the model's own image processor's business. A box is all
that is known of an object, so its colour is looked for in the whole of it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from .geneval_detector import Detections, Pixels


class BoxDetector:
    """A detector with the names of its classes."""

    def __init__(
        self,
        model: PreTrainedModel,
        processor: Any,
        names: Mapping[int, str],
        *,
        source: str,
        revision: str | None = None,
        least_score: float = 0.3,
    ) -> None:
        """Wrap a model.

        Args:
            model: For object detection.
            processor: Its image processor.
            names: By the model's number; what has another number is not looked at.
            source: Folder or Hub id, part of every result.
            revision: Commit on the Hub.
            least_score: What is not above it is left out.
        """
        self.source, self.revision = source, revision
        self._model, self._processor = model.eval(), processor
        self._names, self._least = dict(names), least_score

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        names: Mapping[int, str],
        *,
        revision: str | None = None,
        device: str = "cpu",
        least_score: float = 0.3,
    ) -> "BoxDetector":
        """Load a model of transformers from a folder or Hub id; no code of it is run."""
        from transformers import AutoImageProcessor, AutoModelForObjectDetection

        # Pillow's, whatever else is installed: the same picture is the same everywhere.
        processor = AutoImageProcessor.from_pretrained(
            name, revision=revision, trust_remote_code=False, backend="pil"
        )
        model = AutoModelForObjectDetection.from_pretrained(
            name, revision=revision, use_safetensors=True, trust_remote_code=False
        )
        commit = getattr(model.config, "_commit_hash", None) or revision
        return cls(
            model.to(device),
            processor,
            names,
            source=str(name),
            revision=commit,
            least_score=least_score,
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
