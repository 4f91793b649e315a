"""GenEval as an `evaluate` module; the work is done by the installed package `echo4o`."""

import json
from pathlib import Path
from typing import Any

import datasets
import evaluate

_DESCRIPTION = """\
Whether the objects, numbers, colours and places of a short prompt are in a picture. A detector of
COCO's 80 things and a CLIP model look at it on this machine; a picture is right only if all of its
item is. Pictures of one item count as one.
"""
_INPUTS = """\
Args:
    predictions: pictures, as paths or PIL images.
    references: items, one per picture, the same again for several pictures of one prompt:
        {"tag", "include", "exclude"?, "prompt"}.
    detector: Hub id (with @REVISION) or folder of an instance detector with COCO's classes.
    colours: the same of a CLIP model.
    ledger: file that keeps every answer, so that no picture is looked at twice; a file in the
        cache folder of `evaluate` if absent.
Returns:
    overall, by_group, by_tag: each {score, low, high, items}, 0 to 1 with 95 % intervals.
    coverage, outcomes: how many items have a readable verdict, and what became of the others.
    smallest_clear: difference that two runs of so many items show with 80 % power.
    verdicts: every verdict with the boxes and what was wrong.
    calls: pictures looked at now.
Example:
    >>> metric = evaluate.load("geneval")
    >>> item = {"tag": "colors", "prompt": "a red bench",
    ...         "include": [{"class": "bench", "count": 1, "color": "red"}]}
    >>> metric.compute(predictions=["1.png"], references=[item])  # doctest: +SKIP
"""
_CITATION = """\
@article{ghosh2023geneval,
  title = {GenEval: An Object-Focused Framework for Evaluating Text-to-Image Alignment},
  author = {Ghosh, Dhruba and Hajishirzi, Hannaneh and Schmidt, Ludwig},
  journal = {arXiv preprint arXiv:2310.11513},
  year = {2023}
}
"""


class GenEval(evaluate.Metric):
    """The metric; `compute` takes `predictions` and `references`."""

    def add_batch(self, *, predictions: list[Any], references: list[Any], **inputs: Any) -> None:
        """Add pictures and their items; items travel as JSON."""
        texts = [_as_json(item) for item in references]
        super().add_batch(predictions=predictions, references=texts, **inputs)

    def add(self, *, prediction: Any, reference: Any, **inputs: Any) -> None:
        """Add one picture and its item."""
        super().add(prediction=prediction, reference=_as_json(reference), **inputs)

    def _info(self) -> evaluate.MetricInfo:
        picture, text = datasets.Image(decode=False), datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": picture, "references": text}),
        )

    def _compute(
        self,
        predictions: list[dict[str, Any]],
        references: list[str],
        detector: str = "facebook/mask2former-swin-small-coco-instance",
        colours: str = "openai/clip-vit-large-patch14",
        ledger: str | None = None,
    ) -> dict[str, Any]:
        # Imported here so that the module loads, and describes itself, without the package.
        from echo4o.eval.judging import JudgeConfig
        from echo4o.eval.metric import compute

        return compute(
            "geneval",
            predictions,
            [json.loads(item) for item in references],
            config=JudgeConfig(model=f"detector:{detector}", colours=colours),
            ledger=Path(ledger) if ledger else Path(self.data_dir) / "judge" / "ledger.sqlite",
            protocol="kit",
        )


def _as_json(item: Any) -> str:
    return item if isinstance(item, str) else json.dumps(item)
