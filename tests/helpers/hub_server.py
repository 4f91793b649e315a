"""A sandbox Hub in a child process, for tests that restart it, kill it or bring their own user."""

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

TOKEN = "hf_sandbox_rehearsal"
READER_TOKEN = "hf_sandbox_reader"
OTHER_TOKEN = "hf_sandbox_other"

PRELUDE = f"""
import json, os, sys, warnings
from pathlib import Path
import huggingface_hub as h
from huggingface_hub import CommitOperationAdd as Add, CommitOperationDelete as Delete, HfApi
from huggingface_hub.errors import *
api, nobody = HfApi(), HfApi(token=False)
reader, other = HfApi(token="{READER_TOKEN}"), HfApi(token="{OTHER_TOKEN}")
folder = Path(sys.argv[1])

def refused(kind, status, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except kind as error:
        assert status is None or error.response.status_code == status, error
        return str(error)
    raise AssertionError((call, arguments, named))
"""
"""What scripts of tests begin with; their first argument is a folder."""

_SERVE = """
import socket, sys, uvicorn
from pathlib import Path
from echo4o.sandbox.hub import create_app
root, port = Path(sys.argv[1]), int(sys.argv[2])
app = create_app(root)
app.state.store.add_user("other", sys.argv[3], "write")
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", port))
listener.listen(128)
(root / "port.tmp").write_text(str(listener.getsockname()[1]))
(root / "port.tmp").rename(root / "port")
config = uvicorn.Config(app, log_level="warning", access_log=False)
uvicorn.Server(config).run(sockets=[listener])
"""


class HubServer:
    """A running Hub; `start` again after `kill` serves the same folder at the same address."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        root.mkdir(parents=True, exist_ok=True)
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        (self.root / "port").unlink(missing_ok=True)
        command = [sys.executable, "-c", _SERVE, str(self.root), str(self.port), OTHER_TOKEN]
        with (self.root / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not (self.root / "port").exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.root / "server.log").read_text())
            time.sleep(0.02)
        self.port = int((self.root / "port").read_text())
        urllib.request.urlopen(f"{self.url}/healthz", timeout=30).close()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(timeout=30)

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        variables = {
            **os.environ,
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "OMP_NUM_THREADS": "1",
        }
        variables.pop("HF_TOKEN", None)
        return variables if token is None else {**variables, "HF_TOKEN": token}

    def run(
        self, script: str, home: Path, *arguments: str, token: str | None = TOKEN, **extra: str
    ) -> str:
        """Run Python code against the Hub in a fresh process; its standard output."""
        found = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            env={**self.environment(home, token), **extra},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert found.returncode == 0, found.stdout + found.stderr
        return found.stdout
