"""Cards: golden renderings, all facts present and all absent, and values that try to break out."""

import dataclasses
import os
from pathlib import Path

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard, RepoCard

from echo4o.model_cards import (
    DatasetFacts,
    MetricFacts,
    ModelFacts,
    Part,
    ScoreFact,
    SpaceFacts,
    render_dataset_card,
    render_metric_card,
    render_model_card,
    render_space_card,
)
from echo4o.model_cards.check import check_card
from echo4o.records import Input, RunRecord

GOLDEN = Path(__file__).parent / "golden"
RECORD = RunRecord(
    name="echo-4o-image",
    command="echo4o data build work",
    inputs=(Input(kind="plan", id="plan.jsonl", sha256="ab" * 32),),
    parameters={"rows": 9000},
    seed=7,
    environment={"python": "3.11.7", "echo4o": "0.1.0"},
    metrics={"steps": 2250, "first_loss": 1.25, "last_loss": 0.125},
    started="2026-01-02T03:04:05Z",
    seconds=61.4,
)
DATASET = DatasetFacts(
    name="echo-4o-image",
    repo_id="acme/echo-4o-image",
    origin="Scenes painted by the sandbox for a rehearsal.",
    license="cc-by-4.0",
    rows=9000,
    about={"surreal_fantasy": "things with one property that is not theirs"},
    row_format=1,
    checks=("- A vision model compared 9,000 pictures with their texts.",),
    versions=("- Version 2, 2026-01-05: 3 rows removed: asked for",),
    by_subset={"surreal_fantasy": 3000, "instruction_following": 6000},
    by_category={"surreal_fantasy": {"attribute_shift": 3000}},
    by_split={"train": 8800, "validation": 200},
    configs=({"config_name": "all", "default": True, "data_files": []},),
    generators={"sandbox-image": 9000},
    cost_usd=12.5,
    signed=("- Made with sandbox-image (account: business).",),
    pictures=("samples/one.png",),
    limits=("Shapes on a plain background, no photographs.",),
    contact="rights at acme",
    record=RECORD,
)
MODEL = ModelFacts(
    name="echo-4o-tiny",
    repo_id="acme/echo-4o-tiny",
    license="apache-2.0",
    base_model=Input(kind="model", id="acme/base", revision="0" * 40),
    datasets=(Input(kind="dataset", id="acme/echo-4o-image", revision="1" * 40),),
    parts=(Part(name="acme/ae", role="image autoencoder", license="apache-2.0", sha256="cd" * 32),),
    parameters=3_800_000,
    picture_side=64,
    scores=(
        ScoreFact(
            task="geneval_plus_plus",
            tag="overall",
            score=0.679,
            low=0.61,
            high=0.74,
            items=210,
            judge="sandbox-judge",
            protocol="kit",
        ),
    ),
    pictures=("samples/one.png",),
    limits=("Knows eight shapes.",),
    contact="rights at acme",
    record=RECORD,
)
SPACE = SpaceFacts(
    title="Echo-4o",
    sdk_version="6.31.0",
    python_version="3.12",
    hardware="zero-a10g",
    license="apache-2.0",
    summary="Make pictures",
    tags=("text-to-image",),
    model="acme/echo-4o-tiny",
    model_revision="v1",
)
METRIC = MetricFacts(
    name="geneval_plus_plus",
    repo_id="acme/geneval_plus_plus",
    title="GenEval++",
    sdk_version="6.31.0",
    python_version="3.12",
    license="apache-2.0",
    summary="All that was asked for?",
    about="Share of pictures that hold everything.",
    example='import evaluate\n\nmetric = evaluate.load("acme/geneval_plus_plus")',
    asks="judge",
    is_local_possible=True,
    sections=(("Limits", "Scores belong to their judge."),),
    citation="@article{ye2025echo4o,\n  year = {2025}\n}",
)
CARDS = {
    "dataset_full": render_dataset_card(DATASET),
    "dataset_empty": render_dataset_card(DatasetFacts(name="unnamed")),
    "model_full": render_model_card(MODEL),
    "model_empty": render_model_card(ModelFacts(name="unnamed")),
    "model_adapter_full": render_model_card(dataclasses.replace(MODEL, is_adapter=True)),
    "model_adapter_empty": render_model_card(ModelFacts(name="unnamed", is_adapter=True)),
    "model_omnigen2_full": render_model_card(dataclasses.replace(MODEL, family="omnigen2")),
    "model_blip3o_full": render_model_card(dataclasses.replace(MODEL, family="blip3o")),
    "model_omnigen2_empty": render_model_card(ModelFacts(name="unnamed", family="omnigen2")),
    "metric_full": render_metric_card(METRIC),
    "metric_detector_full": render_metric_card(dataclasses.replace(METRIC, asks="detector")),
    "metric_empty": render_metric_card(
        MetricFacts(name="m", title="unnamed", sdk_version="6.31.0", python_version="3.12")
    ),
    "space_full": render_space_card(SPACE),
    "space_empty": render_space_card(
        SpaceFacts(title="unnamed", sdk_version="6.31.0", python_version="3.12")
    ),
}
HOSTILE = (
    "x\n---\nlicense: mit\n# Owned <script>alert(1)</script> ![p](https://evil/p.png) "
    "`code` ``` | cell | [click](javascript:1) https://evil.example {{ 7 * 7 }} {% if %}"
)


@pytest.mark.parametrize("name", CARDS)
def test_golden(name):
    """Set ECHO4O_WRITE_GOLDEN=1 to accept a change, then read the diff."""
    file = GOLDEN / f"{name}.md"
    if os.environ.get("ECHO4O_WRITE_GOLDEN"):
        file.write_text(CARDS[name])
    assert CARDS[name] == file.read_text()


@pytest.mark.parametrize("name", CARDS)
def test_no_card_has_placeholders_broken_snippets_or_unreadable_metadata(name):
    kind = name.split("_")[0].replace("metric", "space")
    problems = check_card(CARDS[name], repo_type=kind)
    absent = [] if name.endswith("full") else ["declares no `license`"]
    assert len(problems) == len(absent), problems
    assert all(words in problem for words, problem in zip(absent, problems, strict=True))


def test_metadata_is_what_the_hub_reads():
    dataset, model = DatasetCard(CARDS["dataset_full"]).data, ModelCard(CARDS["model_full"]).data
    assert dataset.license == "cc-by-4.0"
    assert dataset.size_categories == ["1K<n<10K"]
    assert dataset.configs[0]["config_name"] == "all"
    assert (model.base_model, model.datasets) == ("acme/base", ["acme/echo-4o-image"])
    assert model.eval_results[0].metric_value == 0.679
    assert "arxiv:2508.09987" in model.tags


def hostile_cards():
    record = RunRecord(
        name=HOSTILE,
        command=HOSTILE,
        inputs=(Input(kind=HOSTILE, id=HOSTILE, revision=HOSTILE, sha256=HOSTILE),),
        environment={HOSTILE: HOSTILE},
        started=HOSTILE,
    )
    common = {"name": HOSTILE, "repo_id": HOSTILE, "limits": (HOSTILE,), "contact": HOSTILE}
    common |= {"record": record, "pictures": (HOSTILE, "../../etc/passwd")}
    score = ScoreFact(
        task=HOSTILE,
        tag=HOSTILE,
        score=0.5,
        low=0.4,
        high=0.6,
        items=9,
        judge=HOSTILE,
        protocol="|",
    )
    one = Input(kind="dataset", id=HOSTILE, revision=HOSTILE)
    part = Part(name=HOSTILE, role=HOSTILE, license=HOSTILE, sha256=HOSTILE)
    return {
        "dataset": render_dataset_card(
            DatasetFacts(
                **common,
                tags=(HOSTILE,),
                origin=HOSTILE,
                generators={HOSTILE: 1},
                by_subset={HOSTILE: 1},
                by_category={HOSTILE: {HOSTILE: 1}},
                by_split={HOSTILE: 1},
                rows=1,
                versions=("- Version 2",),
            )
        ),
        "model": render_model_card(
            ModelFacts(**common, base_model=one, datasets=(one,), parts=(part,), scores=(score,))
        ),
    }


@pytest.mark.parametrize("kind", ["dataset", "model"])
def test_values_cannot_break_out(kind):
    card, calm = hostile_cards()[kind], CARDS[f"{kind}_full"]
    body = card.split("---\n", 2)[2]
    assert yaml.safe_load(card.split("---\n", 2)[1]).get("license") is None
    code = ("rows = ", "pipe = ", "```")
    prose = [line for line in body.splitlines() if not line.startswith(code)]
    outside_code = "\n".join("".join(strip_code(line)) for line in prose)
    assert "<script" not in outside_code
    assert "](https://evil" not in outside_code
    assert "https://evil" not in outside_code
    assert "{{" not in outside_code
    # Same headings, same fences and same columns as a calm card: nothing was added or closed.
    assert [line for line in body.splitlines() if line.startswith("## ")] == [
        line for line in calm.splitlines() if line.startswith("## ")
    ]
    assert body.count("\n```") == calm.count("\n```")
    widths = {line.count("|") - line.count("\\|") for line in prose if line.startswith("| ")}
    assert widths <= {line.count("|") for line in calm.splitlines() if line.startswith("| ")}
    assert not any("../" in line for line in prose if line.startswith("!["))


def strip_code(line):
    """The parts of a line outside `code spans`, following CommonMark's rule of equal runs."""
    rest = line
    while "`" in rest:
        before, _, after = rest.partition("`")
        if before.endswith("\\"):
            yield before + "`"
            rest = after
            continue
        run = 1 + len(after) - len(after.lstrip("`"))
        yield before
        rest = after[run - 1 :]
        closing = find_run(rest, run)
        assert closing >= 0, f"a code span is left open in {line!r}"
        rest = rest[closing + run :]
    yield rest


def find_run(text, run):
    place = 0
    while (place := text.find("`", place)) >= 0:
        length = len(text[place:]) - len(text[place:].lstrip("`"))
        if length == run:
            return place
        place += length
    return -1


def test_scores_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="0 <= low <= score"):
        ScoreFact(
            task="t", tag="overall", score=0.5, low=0.6, high=0.7, items=1, judge="j", protocol="k"
        )


def test_points_are_told_as_points_of_their_scale():
    points = {"score": 8.613, "low": 8.4, "high": 8.83, "scale": 10.0}
    common = {"task": "imagine_bench", "tag": "overall", "items": 270, "judge": "j"}
    score = ScoreFact(**common, **points, protocol="paper")
    card = render_model_card(dataclasses.replace(MODEL, scores=(score,)))
    assert "| 8.613 [8.40, 8.83] of 10 |" in card
    assert "861" not in card.replace("8.613", "")
    (result,) = ModelCard(card).data.eval_results
    assert (result.metric_type, result.metric_value) == ("mean points of 10", 8.613)
    with pytest.raises(ValueError, match="-1 <= low <= score <= high <= 10"):
        ScoreFact(**common, **points | {"high": 11.0}, protocol="paper")


def test_rendering_is_stable():
    assert render_model_card(MODEL) == CARDS["model_full"]
    assert RepoCard(CARDS["space_full"]).data.models == ["acme/echo-4o-tiny"]
