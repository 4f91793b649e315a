"""Fixtures: the recorded data, and one sandbox (image API and Hub) for the whole session."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from echo4o.release.rehearse import sheltered

SHARED = Path(os.environ.get("ECHO4O_SHARED") or Path(__file__).parents[1] / ".." / "shared")
# Several workers share two cores: threads of one model would wait for each other, spinning.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


class Sandbox(NamedTuple):
    """Addresses and credentials of running sandbox servers."""

    openai: str
    hub: str
    api_key: str
    token: str
    root: Path

    def environment(self, home: Path) -> dict[str, str]:
        """The variables with which any client library talks to these servers."""
        return {
            **sheltered(os.environ),
            "OPENAI_BASE_URL": self.openai,
            "OPENAI_API_KEY": self.api_key,
            "HF_ENDPOINT": self.hub,
            "HF_TOKEN": self.token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
        }


def start_sandbox(root: Path, *extra: str) -> tuple[subprocess.Popen[bytes], Sandbox]:
    """Start `echo4o sandbox serve` on free ports and wait until both servers answer."""
    ready = root / "ready.json"
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "echo4o.cli", "sandbox", "serve", "--root", str(root)]
    command += ["--openai-port", "0", "--hub-port", "0", "--ready-file", str(ready), *extra]
    log = (root / "server.log").open("ab")
    process = subprocess.Popen(command, stdout=log, stderr=log)
    deadline = time.monotonic() + 60
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"the sandbox did not start:\n{(root / 'server.log').read_text()}")
        time.sleep(0.05)
    facts = json.loads(ready.read_text())
    return process, Sandbox(facts["openai"], facts["hub"], facts["api_key"], facts["token"], root)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with recorded truth; tests that use it carry the marker `shared`."""
    if not SHARED.is_dir():
        if os.environ.get("ECHO4O_REQUIRE_SHARED"):
            pytest.fail(f"the recorded data is not at {SHARED}, and here it is required")
        pytest.skip(f"the recorded data is not at {SHARED}; set ECHO4O_SHARED")
    return SHARED.resolve()


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One sandbox without faults for the whole session."""
    process, facts = start_sandbox(tmp_path_factory.mktemp("sandbox"))
    yield facts
    process.terminate()
    process.wait(timeout=20)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest group begins first, so that no worker is left alone with it at the end."""
    items.sort(key=lambda item: "tests/release" not in item.nodeid)


def pytest_runtest_setup() -> None:
    """A test draws the same numbers, whatever ran before it in its worker."""
    random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Where the recorded data is required, a skipped test is a failure of the whole run."""
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped and os.environ.get("ECHO4O_REQUIRE_SHARED"):
        terminalreporter.write_line(f"{len(skipped)} tests were skipped where none may be")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Turn such a run's exit status into a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("ECHO4O_REQUIRE_SHARED") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
