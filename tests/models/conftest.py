"""Tiny real pipelines, made once."""

from pathlib import Path

import pytest
from tiny_pipeline import make_pipeline

from echo4o import Echo4oPipeline


@pytest.fixture(scope="session")
def pipe() -> Echo4oPipeline:
    return make_pipeline()


@pytest.fixture(scope="session")
def ours(pipe: Echo4oPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline in our layout."""
    folder = tmp_path_factory.mktemp("models") / "ours"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def authors(pipe: Echo4oPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline in the authors' layout."""
    folder = tmp_path_factory.mktemp("models") / "authors"
    pipe.save_pretrained(folder, layout="bagel")
    return folder
