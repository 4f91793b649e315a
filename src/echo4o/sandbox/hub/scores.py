"""Evaluation results as the Hub shows them: `.eval_results/*.yaml` of models, and leaderboards."""

import math
from fnmatch import fnmatchcase

import yaml

from echo4o.sandbox.hub import history, repos
from echo4o.sandbox.hub.access import Caller, Repo
from echo4o.sandbox.hub.errors import HubRefusal
from echo4o.sandbox.hub.store import Store

Json = dict[str, object]
_PATTERN, _BENCHMARK = ".eval_results/*.yaml", "eval.yaml"
_LARGEST = 1 << 20


def results_of(store: Store, repo: Repo, commit: str) -> list[Json]:
    """Every entry of a model's result files; a file that is none appears with its error."""
    found: list[Json] = []
    for name, entry in history.files_at(store, repo, commit).items():
        if fnmatchcase(name, _PATTERN):
            try:
                rows = _read(store.blobs.read(entry.sha256) if entry.size <= _LARGEST else b"[")
            except (ValueError, yaml.YAMLError) as error:
                found.append({"filename": name, "error": str(error)[:200]})
                continue
            found += [{"filename": name, "verified": False, "data": row} for row in rows]
    return found


def leaderboard(store: Store, caller: Caller, repo: Repo, *, derived: bool) -> list[Json]:
    """Models by their score on a dataset's first task; the best result of each counts.

    Args:
        store: Everything.
        caller: Sees the models that it may read.
        repo: The benchmark: a dataset with an `eval.yaml`.
        derived: Whether models that name a `base_model` are shown as well.
    """
    task = _first_task(store, repo)
    best: dict[str, Json] = {}
    for model in repos.find_all(store, caller, "model", None, None):
        commit = history.resolve(store, model, "main")
        card = repos.describe(store, model, commit).get("cardData")
        if not derived and isinstance(card, dict) and card.get("base_model"):
            continue
        for result in results_of(store, model, commit):
            row = result.get("data")
            if not isinstance(row, dict) or (row["dataset"]["id"], row["dataset"]["task_id"]) != (
                repo.id,
                task,
            ):
                continue
            entry = _entry(store, model, row, str(result["filename"]))
            if model.id not in best or _value(entry) > _value(best[model.id]):
                best[model.id] = entry
    ordered = sorted(best.values(), key=lambda entry: (-_value(entry), str(entry["modelId"])))
    return [{"rank": place, **entry} for place, entry in enumerate(ordered, 1)]


def _entry(store: Store, model: Repo, row: Json, filename: str) -> Json:
    owner = store.one("SELECT kind FROM accounts WHERE name = ?", model.namespace)
    source = row.get("source")
    return {
        "modelId": model.id,
        "value": row["value"],
        "filename": filename,
        "verified": False,
        "source": source if isinstance(source, dict) else None,
        "notes": row.get("notes"),
        "author": {"name": model.namespace, "fullname": model.namespace, "type": owner["kind"]},
    }


def _value(entry: Json) -> float:
    return float(str(entry["value"]))


def _read(data: bytes) -> list[Json]:
    """The rows of a result file; ValueError when one is not what the Hub takes."""
    rows = yaml.safe_load(data)
    if not isinstance(rows, list):
        raise ValueError("a result file is a list")
    for row in rows:
        dataset = row.get("dataset") if isinstance(row, dict) else None
        if not isinstance(dataset, dict) or not {"id", "task_id"} <= dataset.keys():
            raise ValueError("a result needs `dataset` with `id` and `task_id`")
        value = row.get("value")
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise ValueError("`value` must be a finite number")
    return rows


def _first_task(store: Store, repo: Repo) -> str:
    files = history.files_at(store, repo, history.resolve(store, repo, "main"))
    entry = files.get(_BENCHMARK)
    if entry is None or entry.size > _LARGEST:
        raise HubRefusal(404, f"The dataset {repo.id} has no leaderboard.")
    try:
        return str(yaml.safe_load(store.blobs.read(entry.sha256))["tasks"][0]["id"])
    except (yaml.YAMLError, KeyError, TypeError, IndexError):
        raise HubRefusal(404, f"{_BENCHMARK} of {repo.id} names no task.") from None
