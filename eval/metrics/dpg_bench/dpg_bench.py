"""DPG-Bench as an `evaluate` module; the work is done by the installed package `echo4o`."""

import json
from pathlib import Path
from typing import Any

import datasets
import evaluate

_DESCRIPTION = """\
How much of a long prompt a picture shows. A judge model answers the prompt's questions about each
picture with yes or no; a question that depends on a failed one fails, too. A picture's points are
its share of questions, 0 to 100; pictures of one item count as one.
"""
_INPUTS = """\
Args:
    predictions: pictures, as paths or PIL images.
    references: items, one per picture, the same again for several pictures of one prompt:
        {"item_id", "text", "questions": [{"id", "question", "needs", "of"}]}.
    judge: name of the judge model, or local:NAME for a vision-language model of this machine.
    base_url: address of an OpenAI-compatible API; OPENAI_BASE_URL if absent. The key is read from
        OPENAI_API_KEY.
    protocol: how the judge is asked: all questions in one call ("kit"), or each on its own in the
        benchmark's words ("paper"; "released" counts only the bare word yes).
    concurrency: most calls in flight.
    budget_usd: most that the ledger of this metric may ever hold.
    ledger: file that keeps every reply, so that nothing is paid twice; a file in the cache folder
        of `evaluate` if absent.
Returns:
    overall, by_group (categories, by both conventions), by_tag: each {score, low, high, items}, 0
        to 100 with 95 % intervals.
    coverage, outcomes: how many items have a readable verdict, and what became of the others.
    smallest_clear: difference that two runs of so many items show with 80 % power.
    verdicts: every verdict with the judge's answers and raw reply.
    calls, cost_usd: requests made now, and what the verdicts cost.
Example:
    >>> metric = evaluate.load("dpg_bench")
    >>> item = {"item_id": "pot", "text": "A red pot.", "questions": [
    ...         {"id": 1, "question": "Is there a pot?", "needs": [], "of": "entity - whole"}]}
    >>> metric.compute(predictions=["1.png"], references=[item], judge="gpt-4.1")  # doctest: +SKIP
"""
_CITATION = """\
@article{hu2024ella,
  title = {ELLA: Equip Diffusion Models with LLM for Enhanced Semantic Alignment},
  author = {Hu, Xiwei and others},
  journal = {arXiv preprint arXiv:2403.05135},
  year = {2024}
}
"""


class DpgBench(evaluate.Metric):
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
            "dpg_bench",
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
