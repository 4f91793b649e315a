"""The explorer on a dataset and results that lie on the sandbox's Hub, and its files as modules."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from demo import running
from explore_data import write_dataset, write_runs

SPACE = Path(__file__).parents[3] / "spaces" / "explore"
UPLOAD = """
import sys
from huggingface_hub import HfApi
api = HfApi()
for repo, folder in zip(sys.argv[1::2], sys.argv[2::2]):
    api.create_repo(repo, repo_type="dataset", exist_ok=True)
    api.upload_folder(repo_id=repo, folder_path=folder, repo_type="dataset")
"""
DATASET, RESULTS = "echo4o-sandbox/explored", "echo4o-sandbox/explored-results"


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 40 rows, some of them hostile."""
    return write_dataset(tmp_path_factory.mktemp("explored") / "echo-4o-image")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two run folders."""
    return write_runs(tmp_path_factory.mktemp("explored-runs"))


@pytest.fixture(scope="session")
def results(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same two runs as a results dataset, pictures included."""
    from echo4o.eval.results_repo import _stage
    from echo4o.eval.runs import load_run

    folder = tmp_path_factory.mktemp("explored-results")
    for name in ("good", "bad"):
        _stage(load_run(runs / name), folder, pictures=True, has_texts=True)
    return folder


@pytest.fixture(scope="session")
def published(sandbox, dataset: Path, results: Path, tmp_path_factory) -> tuple[str, str]:
    """Dataset and results on the sandbox's Hub."""
    environment = sandbox.environment(tmp_path_factory.mktemp("published"))
    # Where to write is settled when huggingface_hub is imported: so in a process of its own.
    places = [DATASET, str(dataset), RESULTS, str(results)]
    command = [sys.executable, "-c", UPLOAD, *places]
    subprocess.run(command, env={**os.environ, **environment}, check=True, timeout=60)
    return DATASET, RESULTS


@pytest.fixture(scope="session")
def explorer(sandbox, published: tuple[str, str], tmp_path_factory) -> Iterator[str]:
    """Address of the explorer, which reads both from the sandbox's Hub."""
    home = tmp_path_factory.mktemp("explorer")
    environment = sandbox.environment(home / "hub")
    told = ("--dataset", published[0], "--results", published[1])
    with running(home, *told, name="explore", environment=environment) as (url, _):
        yield url


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a file of spaces/explore; another Space may have a file of the same name."""
    names = {path.stem for path in SPACE.glob("*.py")}

    def forget() -> None:
        for name in names:
            sys.modules.pop(name, None)

    forget()
    monkeypatch.syspath_prepend(str(SPACE))
    yield importlib.import_module
    forget()
