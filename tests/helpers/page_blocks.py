"""The fenced blocks of our pages, changed as `page_table.py` says, and the world they run in."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from hub_server import HubServer
from page_table import CANNOT, CHANGES, NAMES

from echo4o.sandbox.hub.store import USER, Store

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_SHELL = ("sh", "bash")
# Starts a server, waits until it says that it is ready, and ends it as Ctrl-C would.
_SERVE = """
READY="Ctrl-C stops it|you may write to|waiting for webhooks"
serve() {
  "$@" > server.log 2>&1 &
  child=$!
  for _ in $(seq 600); do
    grep -qE "$READY" server.log && break
    kill -0 $child || break
    sleep 0.1
  done
  grep -E "$READY" server.log || { cat server.log >&2; return 1; }
  kill -TERM $child; wait $child || [ $? -eq 143 ]
}
"""


class Block(NamedTuple):
    """One fenced block."""

    page: str
    """Path from the root."""
    line: int
    language: str
    text: str

    @property
    def first(self) -> str:
        """Its first line, by which the table and the tests know it."""
        return self.text.splitlines()[0].split(" #")[0].strip()


def pages() -> list[str]:
    """Every page that a reader copies from, by its path from the root."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("spaces/*/README.md")]
    found += ROOT.glob("eval/metrics/*/README.md")
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def blocks(page: str, text: str | None = None) -> list[Block]:
    """The blocks of a page, or of a card given as text."""
    text = (ROOT / page).read_text(encoding="utf-8") if text is None else text
    return [
        Block(page, text[: found.start()].count("\n") + 1, found[1], found[2])
        for found in _FENCE.finditer(text)
    ]


def block(page: str, first: str) -> Block:
    """The block of a page that begins with these words."""
    (found,) = [one for one in blocks(page) if one.first.startswith(first)]
    return found


def commands(one: Block) -> list[str]:
    """The commands of a shell block, without comments and line ends inside."""
    if one.language not in _SHELL:
        return []
    lines = one.text.replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for text in lines if (line := re.sub(r"(^|\s)#.*", "", text))]


def reason(command: str) -> str | None:
    """Why a command cannot run here; None when it runs."""
    return next((why for words, why in CANNOT.items() if re.match(words, command)), None)


def changed(page: str, text: str) -> str:
    """A command or snippet as it runs here."""
    for old, new in CHANGES.get(page, {}).items():
        text = text.replace(old, new)
    for old, new in NAMES.items():
        text = re.sub(rf"(?<![\w/]){old}(?![\w/])", new, text)
    return text


class World:
    """A folder, a Hub on which the pages' organisations exist, and the image API."""

    def __init__(self, folder: Path, openai: str, api_key: str) -> None:
        self.folder = folder / "here"
        self.folder.mkdir(parents=True)
        store = Store(folder / "hub")
        for name in ("ORG", "Yejy53", "OmniGen2"):
            store.add_organisation(name, {USER: "admin"})
        store.close()
        self.hub = HubServer(folder / "hub")
        path = f"{Path(sys.executable).parent}:{self.hub.environment(folder)['PATH']}"
        self.variables = {
            **self.hub.environment(folder / "home"),
            "OPENAI_BASE_URL": openai,
            "OPENAI_API_KEY": api_key,
            "PATH": path,
            "GRADIO_ANALYTICS_ENABLED": "False",
            "ACCELERATE_USE_CPU": "true",
            "XDG_CACHE_HOME": str(folder / "cache"),
        }

    def shell(self, *lines: str) -> str:
        """Run commands in the world's folder; what they print."""
        told = [f"echo + {shlex.quote(line)}\n{line}" for line in lines]
        script = "\n".join(["set -euo pipefail", _SERVE, *told])
        return self._run(["bash", "-c", script])

    def python(self, text: str) -> str:
        """Run a snippet in a new process; what it prints."""
        return self._run([sys.executable, "-c", text])

    def run(self, one: Block, before: str = "") -> str:
        """Run a block as the table says; `before` comes first and is not on the page."""
        if one.language == "python":
            return self.python(before + "\n" + changed(one.page, one.text))
        lines = [line for line in commands(one) if reason(line) is None]
        return self.shell(*([before] if before else []), *(changed(one.page, x) for x in lines))

    def push(self, folder: Path, repo: str, kind: str = "model") -> None:
        """Publish a folder without asking for rights or records."""
        code = "import sys; from pathlib import Path; from echo4o.hub import publish_folder as p;"
        code += "p(Path(sys.argv[1]), sys.argv[2], repo_type=sys.argv[3], message='for a page')"
        self._run([sys.executable, "-c", code, str(folder), repo, kind])

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(
            command,
            env=self.variables,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=280,
        )
        said = done.stdout[-4000:] + done.stderr[-4000:]
        assert done.returncode == 0, f"{command[-1][-1500:]}\n{said}"
        assert "Traceback" not in done.stderr, said
        return done.stdout
