"""A whole rehearsal with faults and known credentials, then a search for them in all that it left.

The image API and the Hub answer 429 and 5xx and cut connections; the rehearsal is interrupted once
and killed once on the way, with `--debug`, so that tracebacks are printed; at the end commands are
made to fail on purpose. Searched are the folder of the run (working folders, caches, logs and the
database of the sandbox, every commit of its Hub, the fresh environment), temporary files, the home,
all that was printed, and while it runs the command line of every process.

Run: python benchmarks/bench_secrets.py [--quick] [--out FOLDER]
"""

import argparse
import json
import os
import random
import shutil
import signal
import string
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from machine import describe

from echo4o.release.leaks import forms, search

FAULTS = "429=0.05,500=0.03,503=0.02,cut=0.02,retry_after=20ms"
RESULT = Path(__file__).parent / "results/secrets.json"
_KEY, _TOKEN = "ECHO4O_SANDBOX_KEY", "ECHO4O_SANDBOX_TOKEN"
ECHO4O = [sys.executable, "-m", "echo4o.cli", "--debug"]


class Watch(threading.Thread):
    """Looks at every command line of the machine, which others may read."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        super().__init__(daemon=True)
        self.seen, self.leaks, self._done = 0, set[str](), threading.Event()
        self._patterns = [one for value in secrets.values() for one in forms(value).values()]

    def run(self) -> None:
        """Look until `stop`."""
        while not self._done.wait(0.5):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    words = file.read_bytes()
                except OSError:  # it has just ended
                    continue
                self.seen += 1
                if any(pattern in words for pattern in self._patterns):
                    self.leaks.add(words.split(b"\0")[0].decode(errors="replace"))

    def stop(self) -> None:
        """End looking."""
        self._done.set()
        self.join()


def credentials() -> dict[str, str]:
    """Those of the environment, so that a run can go on, or new ones in the form of real ones."""
    if _KEY in os.environ and _TOKEN in os.environ:
        return {name: os.environ[name] for name in (_KEY, _TOKEN)}
    draw = random.SystemRandom()
    token = "".join(draw.choice(string.ascii_letters) for _ in range(34))
    return {_KEY: "sk-proj-" + draw.randbytes(24).hex(), _TOKEN: f"hf_{token}"}


def rehearse(out: Path, secrets: dict[str, str], *options: str) -> dict[str, object]:
    """Run it all below `out`; returns what was searched and found.

    Raises:
        RuntimeError: the rehearsal does not come to its end.
    """
    for name in ("home", "tmp"):
        (out / name).mkdir(parents=True, exist_ok=True)
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True, check=True
    )
    environment = {
        **os.environ,
        **secrets,
        "HOME": str(out / "home"),
        "TMPDIR": str(out / "tmp"),
        "PIP_CACHE_DIR": pip.stdout.strip(),
    }
    command = [*ECHO4O, "release", "rehearse", "--out", str(out / "run"), "--faults", FAULTS]
    command += options
    watch = Watch(secrets)
    watch.start()
    with (out / "printed.log").open("ab") as log:
        begun = (out / "run/state.json").exists()
        for number, seconds in () if begun else ((signal.SIGINT, 20), (signal.SIGKILL, 30)):
            child = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            time.sleep(seconds)
            child.send_signal(number)
            child.wait()
            time.sleep(2)
        done = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False)
        if done.returncode:
            raise RuntimeError(f"the rehearsal ended with {done.returncode}; see {log.name}")
        failed = _fail(out, environment, secrets, log)
    watch.stop()
    found = search([out], secrets)
    return {
        "files": found.files,
        "bytes": found.size,
        "leaks": [f"{one.path.relative_to(out)}: {one.form}" for one in found.leaks],
        "command lines looked at": watch.seen,
        "command lines with a secret": sorted(watch.leaks),
        "commands that failed on purpose": failed,
        "faults": FAULTS,
    }


def _fail(
    out: Path, environment: dict[str, str], secrets: Mapping[str, str], log: IO[bytes]
) -> int:
    """Commands that fail or are refused while the credentials are in their environment.

    They talk to another sandbox, which does not know these credentials.
    """
    ready = out / "tmp/other.json"
    serve = ["sandbox", "serve", "--root", str(out / "other"), "--openai-port", "0"]
    plain = {name: value for name, value in environment.items() if name not in secrets}
    server = subprocess.Popen(
        [*ECHO4O, *serve, "--hub-port", "0", "--ready-file", str(ready)],
        stdout=log, stderr=log, env=plain,
    )  # fmt: skip
    while not ready.exists():
        time.sleep(0.1)
    facts = json.loads(ready.read_text())
    wrong = {
        **plain,
        "OPENAI_API_KEY": secrets[_KEY],
        "OPENAI_BASE_URL": facts["openai"],
        "HF_TOKEN": secrets[_TOKEN],
        "HF_ENDPOINT": facts["hub"],
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(out / "home/hf"),
    }
    (out / "told").mkdir()
    (out / "told/README.md").write_text(f"token: {secrets[_TOKEN]}\n")
    publish = "import sys; from pathlib import Path; from echo4o.hub import publish_folder as p; "
    publish += "p(Path(sys.argv[1]), 'rehearsal/name', repo_type='model', message='m')"
    dataset, rights = str(out / "run/dataset/echo-4o-image"), str(out / "run/RELEASE.toml")
    commands = [
        [*ECHO4O, "data", "push", dataset, "rehearsal/name", "--rights", rights],
        [*ECHO4O, "data", "plan", "shapes", "--out", str(out / "w"), "--rows", "20"],
        [*ECHO4O, "data", "generate", str(out / "w"), "--model", "sandbox-image"],
        [*ECHO4O, "eval", "job", "rehearsal/m", "--items", "hub:o/i", "--judge", "j"],
        [*ECHO4O, "release", "verify", "spaces/rehearsal/name@v1", "--here"],
        [*ECHO4O, "model", "generate", "rehearsal/m", "a ring", "--out", str(out / "made")],
        [*ECHO4O, "doctor"],
        [sys.executable, "-c", publish, str(out / "told")],  # a token in a file is not published
    ]
    statuses = [
        subprocess.run(one, stdout=log, stderr=log, env=wrong, check=False).returncode
        for one in commands
    ]
    server.terminate()
    server.wait()
    shutil.rmtree(out / "told")
    return sum(status != 0 for status in statuses)


def main() -> None:
    """Run, print and note."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the small rehearsal")
    parser.add_argument("--out", type=Path, help="new folder; a temporary one if absent")
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="echo4o-secrets-") as scratch:
        out = (given.out or Path(scratch) / "all").resolve()
        found = rehearse(out, credentials(), *(["--quick"] if given.quick else []))
    found |= {"scale": "quick" if given.quick else "full", "machine": describe()}
    found["seconds"] = round(time.monotonic() - began)
    print(json.dumps(found, indent=1))
    if not given.quick:
        RESULT.write_text(json.dumps(found, indent=1) + "\n")
    if found["leaks"] or found["command lines with a secret"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
