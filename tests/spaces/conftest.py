"""The demo with the small model of the package, and its files as modules."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
from browsing import DESKTOP, find_browser
from demo import TINY, running
from demo_page import READY
from fresh import build_wheel

ROOT = Path(__file__).parents[2]
SPACES = ROOT / "spaces"


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, psutil.Process]]:
    """Address and server process of the demo with the tiny model."""
    with running(tmp_path_factory.mktemp("space"), environment=TINY) as (url, command):
        (server,) = psutil.Process(command.pid).children()
        yield url, server


@pytest.fixture(scope="session")
def app(demo: tuple[str, psutil.Process]) -> str:
    """Address of the demo with the tiny model."""
    return demo[0]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel of this checkout."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a file of spaces/generate; two Spaces may have files of one name."""
    folder = SPACES / "generate"
    names = {path.stem for path in folder.glob("*.py")}

    def forget() -> None:
        for name in names:
            sys.modules.pop(name, None)

    forget()
    monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module
    forget()


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Where screenshots go."""
    path = Path(os.environ.get("ECHO4O_SCREENSHOTS") or ROOT / "screenshots")
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator[object]:
    """A headless browser."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = find_browser()
    if found is None:
        pytest.skip("there is no Chromium here; run: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visitors(chromium: Any, screenshots: Path, request: Any) -> Iterator[Callable[..., Any]]:
    """Open an address as a new visitor; fails on any script error or foreign request."""
    opened: list[Any] = []
    faults: list[str] = []

    def open_page(address: str, size: tuple[int, int] = DESKTOP) -> Any:
        home = "/".join(address.split("/")[:3]).partition("?")[0]
        viewport = {"width": size[0], "height": size[1]}
        context = chromium.new_context(viewport=viewport)
        opened.append(context)
        page = context.new_page()
        # Never the subject of a test: a machine can be busy.
        page.set_default_timeout(90_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((home, "data:", "blob:"))
                else faults.append(request.url)
            ),
        )
        page.goto(address)
        return page

    yield open_page
    for number, context in enumerate(opened):
        # What was on the page at the end says more than a timeout.
        context.pages[0].screenshot(path=screenshots / f"end-{request.node.name}-{number}.png")
        context.close()
    assert faults == []


@pytest.fixture
def visit(visitors: Callable[..., Any], app: str) -> Callable[..., Any]:
    """Open the demo, when its model is loaded."""

    def open_page(size: tuple[int, int] = DESKTOP, address: str = "") -> Any:
        page = visitors(app + address, size)
        page.get_by_text(READY).wait_for()
        page.locator("button.start:enabled").first.wait_for()
        return page

    return open_page


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real classifier of pictures, small, which finds none of them unsafe."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTConfig(**sizes, intermediate_size=8, id2label={0: "normal", 1: "nsfw"})
    model = ViTForImageClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.classifier.bias[0] = 1.0
    folder = tmp_path_factory.mktemp("classifier")
    model.save_pretrained(folder)
    ViTImageProcessor().save_pretrained(folder)
    return folder
