"""GenEval++ as an `evaluate` module; the work is done by the installed package `echo4o`."""

import json
from pathlib import Path
from typing import Any

import datasets
import evaluate

_DESCRIPTION = """\
Share of pictures that hold everything their prompt asks for: every object, in number, color, place
and size, and nothing besides. A judge model looks at each picture and answers a checklist; a
picture is right only if every line of it is satisfied.
"""
_INPUTS = """\
Args:
    predictions: pictures, as paths or PIL images.
    references: items, one per picture: {"tag", "prompt", "include": [{"class", "count", "color",
        "region", "size"}], "exclude": [...]}; absent keys may be left out.
    judge: name of the judge model.
    base_url: address of an OpenAI-compatible API; OPENAI_BASE_URL if absent. The key is read from
        OPENAI_API_KEY.
    protocol: how the judge is asked; "kit" is the wording of echo4o, not the benchmark's. "paper",
        "released" and "strict" need `echo4o eval fetch` once.
    concurrency: most calls in flight.
    budget_usd: most that the ledger of this metric may ever hold.
    ledger: file that keeps every reply, so that nothing is paid twice; a file in the cache folder
        of `evaluate` if absent.
Returns:
    overall, one_or_two_objects, by_tag: each {score, low, high, items}, with 95 % intervals.
    coverage, outcomes: how many items have a readable verdict, and what became of the others.
    verdicts: every verdict with the judge's reasons and raw reply.
    calls, cost_usd: requests made now, and what the verdicts cost.
Example:
    >>> metric = evaluate.load("geneval_plus_plus")
    >>> item = {"tag": "counting", "prompt": "A photo of three rings",
    ...         "include": [{"class": "ring", "count": 3}]}
    >>> metric.compute(predictions=["1.png"], references=[item], judge="gpt-4.1")  # doctest: +SKIP
"""
_CITATION = """\
@article{ye2025echo4o,
  title = {Echo-4o: Harnessing the Power of GPT-4o Synthetic Images for Improved Image Generation},
  author = {Ye, Junyan and others},
  journal = {arXiv preprint arXiv:2508.09987},
  year = {2025}
}
"""


class GenevalPlusPlus(evaluate.Metric):
    """The metric; `compute` takes `predictions`, `references` and `judge`."""

    def add_batch(self, *, predictions: list[Any], references: list[Any], **inputs: Any) -> None:
        """Add pictures and their items; items travel as JSON, since their keys may be absent."""
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
            "geneval_plus_plus",
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
