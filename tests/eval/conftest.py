"""What tests of the evaluation run on: no fetched file, a small real pipeline, an image API."""

import pytest
from eval_tools import KIT
from tests_sandbox import image_api


@pytest.fixture(scope="session", autouse=True)
def nothing_fetched(tmp_path_factory):
    """Whatever this machine has fetched, a test has only what it names itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECHO4O_BENCHMARKS", str(tmp_path_factory.mktemp("empty") / "none"))
        patch.setenv("ECHO4O_CANARIES", str(tmp_path_factory.mktemp("canaries")))
        yield


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """Random weights; a folder that `Echo4oPipeline.from_pretrained` loads."""
    import torch

    from echo4o.training.autoencoder import tiny_autoencoder
    from echo4o.training.parts import TinySizes
    from echo4o.training.tiny import build_pipeline

    torch.manual_seed(0)
    prompts = [item.prompt for item in KIT.items]
    pipeline = build_pipeline(TinySizes(), tiny_autoencoder(), prompts, seed=0)
    folder = tmp_path_factory.mktemp("model") / "echo-4o-tiny"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def api(tmp_path, monkeypatch):
    """An image API of its own; the command line finds it by its environment."""
    with image_api(tmp_path / "sandbox") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai)
        monkeypatch.setenv("OPENAI_API_KEY", server.api_key)
        yield server
