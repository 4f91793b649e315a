"""OmniContext as an `evaluate` module; the work is done by the installed package `echo4o`."""

import json
from pathlib import Path
from typing import Any

import datasets
import evaluate

_DESCRIPTION = """\
How well pictures that were made from reference pictures follow the instruction and keep the
subjects. A judge model sees references and result and marks both from 0 to 10; a picture's points
are the geometric mean. Averages over the benchmark's eight types and over Echo-4o's six stand side
by side.
"""
_INPUTS = """\
Args:
    predictions: pictures, as paths or PIL images.
    references: items, one per picture: {"key", "task_type", "instruction", "input_images"},
        the last one a list of files.
    judge: name of the judge model.
    base_url: address of an OpenAI-compatible API; OPENAI_BASE_URL if absent. The key is read from
        OPENAI_API_KEY.
    protocol: how the judge is asked; "kit" is the wording of echo4o, not the benchmark's.
        "released", "fork" and "strict" need `echo4o eval fetch` once.
    concurrency: most calls in flight.
    budget_usd: most that the ledger of this metric may ever hold.
    ledger: file that keeps every reply, so that nothing is paid twice; a file in the cache folder
        of `evaluate` if absent.
Returns:
    overall, by_group (both averages, each mark alone), by_tag: each {score, low, high, items}, 0 to
        10 with 95 % intervals.
    coverage, outcomes: how many items have a readable verdict, and what became of the others.
    smallest_clear: difference that two runs of so many items show with 80 % power.
    verdicts: every verdict with the judge's marks, reasons and raw reply.
    calls, cost_usd: requests made now, and what the verdicts cost.
Example:
    >>> metric = evaluate.load("omnicontext")
    >>> item = {"key": "cup", "task_type": "single_object", "input_images": ["cup.png"],
    ...         "instruction": "Put the cup from image 1 on a table."}
    >>> metric.compute(predictions=["1.png"], references=[item], judge="gpt-4.1")  # doctest: +SKIP
"""
_CITATION = """\
@article{wu2025omnigen2,
  title = {OmniGen2: Exploration to Advanced Multimodal Generation},
  author = {Wu, Chenyuan and others},
  journal = {arXiv preprint arXiv:2506.18871},
  year = {2025}
}
"""


class OmniContext(evaluate.Metric):
    """The metric; `compute` takes `predictions`, `references` and `judge`."""

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
        judge: str,
        base_url: str | None = None,
        protocol: str = "kit",
        concurrency: int = 8,
        budget_usd: float | None = None,
        ledger: str | None = None,
    ) -> dict[str, Any]:
        # Imported here so that the module loads, and describes itself, without the package.
        from echo4o.eval.judging import JudgeConfig
        from echo4o.eval.metric import compute

        return compute(
            "omnicontext",
            predictions,
            [json.loads(item) for item in references],
            config=JudgeConfig(
                model=judge, base_url=base_url, concurrency=concurrency, budget_usd=budget_usd
            ),
            ledger=Path(ledger) if ledger else Path(self.data_dir) / "judge" / "ledger.sqlite",
            protocol=protocol,
        )


def _as_json(item: Any) -> str:
    return item if isinstance(item, str) else json.dumps(item)
