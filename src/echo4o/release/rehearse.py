"""The rehearsal: the whole line, from a plan to a judged, published, demonstrable model.

Every stage is a verb of the command line run as a child process against the sandbox servers, so
that what is rehearsed is what a user runs. Finished stages are noted in state.json; unfinished
ones resume by themselves, since every verb does.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import string
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import Echo4oError
from ..owner import sole_owner
from ..records import write_atomic
from . import process
from .leaks import search
from .publish import PUBLISHED
from .sample import (
    CANDIDATE,
    DATASET,
    MODEL,
    RESULTS,
    SPACE,
    TAG,
    kit_items,
    make_keys,
    release_plan,
)
from .summary import write_summary

_NOTE_SECONDS = 10.0
# As the sandbox's own `keys.py` names them, which nothing outside of it imports.
_KEY, _TOKEN = "ECHO4O_SANDBOX_KEY", "ECHO4O_SANDBOX_TOKEN"
_GUIDANCE = 2.0
"""Between 1.5 and 7 the scores differ by less than their intervals."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How much of everything; the default is the full rehearsal."""

    rows: int = 12000
    """Rows of the dataset."""
    steps: int = 1300
    """Training steps; 0 leaves the model untrained."""
    items: int = 210
    """Benchmark items, spread evenly over the tags."""
    denoising_steps: int = 25
    """Steps for each benchmark picture."""
    processes: int = 2
    """Of training: on two idle cores no faster than one process with two threads, but those stall
    (seconds a step instead of tenths) as soon as the machine has other work."""
    metrics: bool = True
    """Publish the metric Spaces and their wheel, and verify in a fresh environment."""

    def __post_init__(self) -> None:
        for name, least in (("rows", 20), ("steps", 0), ("items", 7), ("denoising_steps", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}")

    @classmethod
    def quick(cls) -> "Scale":
        """Everything once, small enough for a test."""
        return cls(rows=160, steps=10, items=14, denoising_steps=8, processes=1, metrics=False)

    def changed(self, *, rows: int | None, steps: int | None) -> "Scale":
        """The same scale with what the user gave."""
        given: dict[str, Any] = {"rows": rows, "steps": steps}
        return replace(self, **{name: value for name, value in given.items() if value is not None})


@dataclass(kw_only=True)
class Rehearsal:
    """One rehearsal in its folder."""

    out: Path
    scale: Scale
    data: Path | None
    seed: int
    faults: str
    say: Callable[[str], None]
    memory: process.MemoryWatch = field(default_factory=process.MemoryWatch)
    credentials: "Credentials" = field(default_factory=lambda: Credentials.fresh(os.environ))

    def run(self) -> None:
        """Run what is left of the line; raises Echo4oError when a stage fails."""
        self.out = self.out.resolve()
        busy = f"another rehearsal is running in {self.out}; wait for it or choose another --out"
        with sole_owner(self.out, busy), self._sandbox() as environment:
            self._check_same_run()
            self.memory.start()
            try:
                self._stages(environment)
            finally:
                self.memory.stop()
        self._search()
        self.say(write_summary(self.out, self._state(), self._repos()))

    def _stages(self, environment: dict[str, str]) -> None:
        """The line, read downwards."""
        dataset, training = self.out / "dataset/echo-4o-image", self.out / "training"
        items = ["--items", "kit", "--limit", str(self.scale.items)]
        if self.data is None:
            work = self.out / "work"
            self._stage("plan", environment, *self._plan(work))
            self._stage(
                "generate", environment, "data", "generate", work, "--model", "sandbox-image",
                "--size", "64x64", "--concurrency", 16,
            )  # fmt: skip
            # No validation split: held out are the items that the models are judged by.
            self._stage(
                "build", environment, "data", "build", work, "--out", dataset, "--validation", 0,
            )  # fmt: skip
        else:
            self._stage("import", environment, "data", "import", self.data, "--out", dataset)
        plan = self.out / "RELEASE.toml"
        write_atomic(
            plan,
            release_plan(dataset, self.out, items=self.scale.items, metrics=self.scale.metrics),
        )
        self._stage(
            "publish dataset", environment, "data", "push", dataset, DATASET, "--tag", CANDIDATE,
            "--rights", plan,
        )  # fmt: skip
        self._stage(
            "train", environment, "train", "run", "tiny", "--data", DATASET,
            "--revision", CANDIDATE, "--out", training, "--set", f"steps={self.scale.steps}",
            "--set", f"seed={self.seed}", "--processes", self.scale.processes,
            result=training / "record.json",
        )  # fmt: skip
        self._stage(
            "publish model", environment, "model", "push", training / "model", MODEL,
            "--tag", CANDIDATE,
        )  # fmt: skip
        models: dict[str, list[object]] = {
            "untrained": [training / "base"],
            "trained": [MODEL, "--revision", CANDIDATE],
        }
        for name, model in models.items():
            self._stage(
                f"judge {name}", environment, "eval", "run", "geneval_plus_plus", *items,
                "--model", *model, "--steps", self.scale.denoising_steps,
                "--guidance", _GUIDANCE,
                "--judge", "sandbox-judge", "--no-canary", "--seed", self.seed,
                "--out", self.out / "eval" / name,
            )  # fmt: skip
        self._stage(
            "report", environment, "eval", "report", self.out / "eval/untrained",
            self.out / "eval/trained", "--out", self.out / "report.html",
            "--loss", training / "loss.jsonl", "--title", "Echo-4o rehearsal",
        )  # fmt: skip
        private, public = make_keys(self.out / "keys")
        self._stage(
            "publish release", environment, "release", "publish", plan, "--sign-key", private,
            "--work", self.out / "release",
        )  # fmt: skip
        self._stage(
            "verify release", environment, "release", "verify", self.out / "release" / PUBLISHED,
            "--key", public, "--out", self.out / "verified",
            *(["--full"] if self.scale.metrics else ["--here"]),
        )  # fmt: skip
        shutil.copyfile(
            self.out / "verified/repos" / f"spaces--{SPACE.replace('/', '--')}.png",
            self.out / "demo.png",
        )

    def _search(self) -> None:
        """Whether any file of the run holds what the environment alone should know."""
        private, _ = make_keys(self.out / "keys")
        # The secret number itself: what stands around it in the file is the same for every key.
        number = "".join(private.read_text().splitlines()[1:-1])[48:90]
        known = self.credentials.variables() | {"signing key": number}
        self.say("[search for secrets]")
        found = search([self.out], known, own=[private])
        if found.leaks:
            told = ", ".join(f"{one.secret} in {one.path} ({one.form})" for one in found.leaks[:5])
            raise Echo4oError(
                f"{len(found.leaks)} times a file of the rehearsal holds a secret: {told}; this is "
                "a mistake of echo4o, please report it without the file"
            )
        self._note(searched={"files": found.files, "bytes": found.size, "secrets found": 0})

    def _plan(self, work: Path) -> list[object]:
        options = ["--rows", self.scale.rows, "--seed", self.seed, "--against", kit_items()]
        return ["data", "plan", "shapes", "--out", work, *options]

    def _stage(
        self, name: str, environment: dict[str, str], *words: object, result: Path | None = None
    ) -> None:
        """Run one verb as a child process, unless it is finished already.

        A verb that was told to stop saves and ends well; only then is `result` missing.
        """

        def run() -> None:
            child = process.start([str(word) for word in words], environment)
            try:
                status = child.wait()
            except BaseException:
                child.terminate()
                child.wait()
                raise
            if status != 0:
                command = " ".join(["echo4o", *map(str, words)])
                raise Echo4oError(
                    f"the stage {name!r} failed (status {status}): {command}; what was finished "
                    "is kept, run the same command again to go on"
                )
            if result is not None and not result.exists():
                raise Echo4oError(f"{name} was stopped before its end; run the same command again")

        self._own_stage(name, run)

    def _own_stage(self, name: str, run: Callable[[], None]) -> None:
        finished = self._state().get("seconds", {})
        if name in finished:
            self.say(f"[done before] {name}")
            return
        self.say(f"[{name}]")
        with self._clock(name):
            run()
        spent = self._state().get("spent", {})
        self._note(seconds={**finished, name: spent[name]})

    @contextlib.contextmanager
    def _clock(self, name: str) -> Iterator[None]:
        """Note time and memory every few seconds, so that a kill loses nothing of either."""
        before = self._state().get("spent", {})
        start, done = time.monotonic(), threading.Event()

        def note() -> None:
            seconds = round(before.get(name, 0.0) + time.monotonic() - start, 1)
            peak = max(self.memory.peak_bytes, self._state().get("peak_rss_bytes", 0))
            self._note(spent={**before, name: seconds}, peak_rss_bytes=peak)

        def keep_noting() -> None:
            while not done.wait(_NOTE_SECONDS):
                note()

        noting = threading.Thread(target=keep_noting, daemon=True)
        noting.start()
        try:
            yield
        finally:
            done.set()
            noting.join()
            note()

    @contextlib.contextmanager
    def _sandbox(self) -> Iterator[dict[str, str]]:
        """Both servers, and the variables with which every child talks to them."""
        root = self.out / "sandbox"
        root.mkdir(parents=True, exist_ok=True)
        ready, log = root / "ready.json", root / "server.log"
        ready.unlink(missing_ok=True)
        words = ["sandbox", "serve", "--root", root, "--openai-port", 0, "--hub-port", 0]
        words += ["--ready-file", ready, *(["--faults", self.faults] if self.faults else [])]
        variables = {**os.environ, **self.credentials.variables()}
        server = process.start([str(word) for word in words], variables, log=log)
        try:
            process.wait_for(ready, server, seconds=60, log=log)
            yield self._environment(json.loads(ready.read_text()))
        finally:
            process.stop(server)

    def _environment(self, facts: dict[str, str]) -> dict[str, str]:
        return {
            **sheltered(os.environ),
            "OPENAI_BASE_URL": facts["openai"],
            "OPENAI_API_KEY": self.credentials.key,
            "HF_ENDPOINT": facts["hub"],
            "HF_TOKEN": self.credentials.token,
            "HF_HOME": str(self.out / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "GRADIO_ANALYTICS_ENABLED": "False",
            "ACCELERATE_USE_CPU": "true",
        }

    def _check_same_run(self) -> None:
        """A folder belongs to one rehearsal: going on with other settings would mix two."""
        asked = {
            "scale": asdict(self.scale),
            "data": str(self.data.resolve()) if self.data else None,
            "seed": self.seed,
        }
        before = self._state().get("settings")
        if before is None and self.data is not None and not self.data.is_dir():
            raise Echo4oError(f"--data: there is no folder {self.data}")
        if before is not None and before != asked:
            raise Echo4oError(
                f"{self.out} holds a rehearsal with other settings ({before}); give the same "
                "options again, or another --out"
            )
        self._note(settings=asked)

    def _repos(self) -> dict[str, str]:
        return {"dataset": DATASET, "model": MODEL, "results": RESULTS, "space": SPACE, "tag": TAG}

    def _state(self) -> dict[str, Any]:
        path = self.out / "state.json"
        try:
            return dict(json.loads(path.read_text())) if path.exists() else {}
        except ValueError:
            raise Echo4oError(f"{path} is damaged; choose another --out, or delete it") from None

    def _note(self, **facts: object) -> None:
        write_atomic(self.out / "state.json", json.dumps({**self._state(), **facts}, indent=1))


@dataclass(frozen=True, slots=True)
class Credentials:
    """Key and token that open this rehearsal's sandbox; kept in memory and environments only."""

    key: str
    token: str

    @classmethod
    def fresh(cls, given: Mapping[str, str]) -> "Credentials":
        """Those of the environment, or new ones in the form of real ones."""
        letters = (secrets.choice(string.ascii_letters) for _ in range(34))
        return cls(
            given.get(_KEY) or f"sk-proj-{secrets.token_hex(24)}",
            given.get(_TOKEN) or "hf_" + "".join(letters),
        )

    def variables(self) -> dict[str, str]:
        """What the sandbox reads."""
        return {_KEY: self.key, _TOKEN: self.token}


def sheltered(variables: Mapping[str, str]) -> dict[str, str]:
    """The caller's variables without those that lead away from servers on this machine.

    A proxy must not be asked for 127.0.0.1, offline modes would refuse the sandbox, and caches
    that were set one by one would mix the sandbox's repositories with real ones.
    """
    kept = {name: value for name, value in variables.items() if not _LEADS_AWAY.fullmatch(name)}
    return {**kept, "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}


_LEADS_AWAY = re.compile(
    r"(HF|TRANSFORMERS|DIFFUSERS|HUGGINGFACE)_.*|ECHO4O_(?!SHARED|DEBUG).*|OPENAI_.*"
)
