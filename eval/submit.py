"""Brings a run's scores into the model's repo as `.eval_results/*.yaml`, by pull request.

Only whole runs, on items that the benchmark's dataset repo holds at a named commit, of pictures
whose model is known: everything else would be a number that nobody can check.
"""

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from echo4o.errors import Echo4oError
from echo4o.hub import Published, publish_folder
from echo4o.records import write_atomic

from .intervals import Score
from .item_repo import PREFIX, score_id, split_source
from .runs import Run, load_run
from .scores import Scores
from .tasks import get_task

if TYPE_CHECKING:
    from huggingface_hub import EvalResultEntry

FOLDER = ".eval_results"


def submit(
    run_folder: Path,
    model_repo: str,
    *,
    dataset: str | None = None,
    source_url: str | None = None,
    merge: bool = False,
    dry_run: bool = False,
    into: Path | None = None,
) -> tuple[str, Published | None]:
    """Open a pull request with a run's scores; return the file's text and what was published.

    Args:
        run_folder: The run.
        model_repo: `ORG/NAME` of the model.
        dataset: Dataset repo with the run's items, `ORG/NAME[@REVISION]`; needed where the run's
            items did not come from the Hub.
        source_url: Where the run can be looked up, such as its results dataset.
        merge: Merge it as well, in a repo of one's own.
        dry_run: Only compare and report.
        into: Folder of the model that is about to be published: only write the file there.

    Raises:
        Echo4oError: the run is partial, its pictures are of another or an unknown model, or its
            items are not those of the dataset repo.
    """
    run = load_run(run_folder)
    _refuse_partial(run)
    _refuse_other_model(run, model_repo)
    repo, commit = _benchmark(run, dataset)
    text = result_file(run, repo, commit, source_url)
    if into is not None:
        write_atomic(into / FOLDER / _file_name(run), text)
        return text, None
    with tempfile.TemporaryDirectory(prefix="echo4o-submit-") as name:
        write_atomic(Path(name) / FOLDER / _file_name(run), text)
        published = publish_folder(
            Path(name),
            model_repo,
            repo_type="model",
            message=f"{get_task(run.task).title}: {run.scores().overall.score:.3f}",
            keep=("*",),
            merge=merge,
            dry_run=dry_run,
        )
    return text, published


def result_file(run: Run, repo: str, commit: str, source_url: str | None = None) -> str:
    """Return the YAML of a run's scores: overall, then groups and tags."""
    import yaml
    from huggingface_hub import eval_result_entries_to_yaml

    entries = _entries(run, repo, commit, source_url)
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, width=1000)


def _entries(run: Run, repo: str, commit: str, source_url: str | None) -> "list[EvalResultEntry]":
    from huggingface_hub import EvalResultEntry

    scores = run.scores()
    named = {"overall": scores.overall, **scores.by_group, **scores.by_tag}
    # A group of one tag of the same name is one score.
    by_id = {score_id(name): score for name, score in reversed(named.items())}
    return [
        EvalResultEntry(
            dataset_id=repo,
            task_id=name,
            value=round(score.score, 4),
            dataset_revision=commit,
            date=run.started[:10],
            source_url=source_url,
            notes=_notes(run, scores, score),
        )
        for name, score in reversed(by_id.items())
    ]


def _notes(run: Run, scores: Scores, score: Score) -> str:
    assert run.generation is not None
    model = run.generation["model"]
    settings = run.generation["settings"]
    answered = [name for name in run.judge["answered_as"] if name != run.judge["model"]]
    parts = [
        f"95 % interval {score.low:.4f} to {score.high:.4f}, {score.items} items",
        f"judge {run.judge['model']}" + (f" (answered as {', '.join(answered)})" * bool(answered)),
        f"protocol {run.protocol['name']} {run.protocol['version']}",
        f"coverage {scores.coverage:.3f}",
        f"model {model['revision'] or model['sha256'] or model['id']}",
        *(f"{name} {value}" for name, value in settings.items() if value is not None),
        f"echo4o {run.versions.get('echo4o', '')}",
    ]
    return "; ".join(parts)


def _file_name(run: Run) -> str:
    """One file for each way to judge, so that none overwrites another."""
    parts = (run.task, run.protocol["name"], run.judge["model"])
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", part) for part in parts) + ".yaml"


def _refuse_partial(run: Run) -> None:
    judged, available = run.items["judged"], run.items["available"]
    if judged < available:
        raise Echo4oError(
            f"this run has {judged} of {available} items; only whole runs are submitted, so run "
            "it again without --limit"
        )


def _refuse_other_model(run: Run, model_repo: str) -> None:
    if run.generation is None:
        raise Echo4oError(
            "nobody knows what made this run's pictures; submit a run of `echo4o eval run`"
        )
    made_by: str = run.generation["model"]["id"]
    is_bought = made_by.startswith("api:")
    if run.generation["model"]["revision"] is None and not is_bought:
        raise Echo4oError(
            f"the pictures were made by the folder {made_by}, and nobody can tell whether "
            f"{model_repo} holds the same model; push it and run with --model {model_repo}"
        )
    if made_by != model_repo:
        raise Echo4oError(f"the pictures were made by {made_by}, not by {model_repo}")


def _benchmark(run: Run, dataset: str | None) -> tuple[str, str]:
    """Return repo and commit of the items, after holding them against the run's."""
    found = split_source(str(run.items["source"]))
    if dataset is None and found is not None:
        return found
    if dataset is None:
        raise Echo4oError(
            f"the items of this run came from {run.items['source']!r}; name the dataset repo that "
            "holds them with --dataset ORG/NAME (`echo4o eval push items` makes one)"
        )
    theirs = get_task(run.task).items(PREFIX + dataset.removeprefix(PREFIX))
    if theirs.sha256 != run.items["sha256"]:
        raise Echo4oError(f"{dataset} holds other items than this run was judged on")
    place = split_source(theirs.source)
    assert place is not None
    return place
