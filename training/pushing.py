"""Publishes a run while it goes on: copies of its state, sent to the Hub by a process of their own.

The step only writes the copy; sending happens beside it, one copy at a time. What a kill
interrupted is sent by the next call.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from echo4o.children import DIE_WITH_PARENT
from echo4o.errors import Echo4oError
from echo4o.launch import is_first_rank
from echo4o.records import RECORD_NAME, RunRecord, write_atomic

from .config import TrainConfig
from .processes import gather_objects
from .streaming import together

logger = logging.getLogger(__name__)

_LOG, _DONE = "push.log", "pushed.json"
_BESIDE = ("config.json", "loss.jsonl", "samples")
"""What is sent with the weights, besides card and record."""


class _Sending(NamedTuple):
    step: int
    folder: Path
    process: subprocess.Popen[bytes]


class Pusher:
    """Sends copies of a run to `config.push`; does nothing without it.

    Args:
        config: The run.
        out: Its folder; copies lie in `out/push` until they are sent.
    """

    def __init__(self, config: TrainConfig, out: Path) -> None:
        self._config, self._out, self._home = config, out, out / "push"
        self._sending: _Sending | None = None
        if config.push and is_first_rank():
            for folder in self._waiting()[:-1]:
                shutil.rmtree(folder)  # a newer one is whole, too
            for folder in self._waiting():
                self._send(folder, int(folder.name.removeprefix("step-")))

    def is_due(self, step: int) -> bool:
        """Whether a copy of this step is to be sent, now that nothing else is being sent."""
        every = self._config.push_every
        if not every or step % every or step == self._config.steps:
            return False
        busy = self._sending is not None and self._sending.process.poll() is None
        if busy and self._sending is not None:
            logger.info("step %d is not pushed: step %d is still sent", step, self._sending.step)
        return not gather_objects(busy)[0]

    def offer(self, step: int, save: Callable[[Path], RunRecord]) -> None:
        """Write a copy and begin to send it; every process calls this.

        Args:
            step: Steps that are done.
            save: Writes the weights into a folder, in all processes, and returns their record.
        """
        self._report()
        aside, folder = self._home / ".copy.tmp", self._home / f"step-{step:07d}"

        def clear() -> None:
            if is_first_rank():
                shutil.rmtree(aside, ignore_errors=True)

        together(clear)
        record = save(aside)
        if is_first_rank():
            self._complete(aside, record)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(aside, folder)
            self._send(folder, step)

    def finish(self) -> None:
        """Send the finished result from the files on disk, and wait until it is there.

        Raises:
            Echo4oError: the Hub did not take it; the same command tries again.
        """
        if not self._config.push or not is_first_rank():
            return
        if self._sending is not None:
            self._sending.process.wait()
            self._report()
        step = self._config.steps
        if self._sent() == step:
            return
        aside, folder = self._home / ".copy.tmp", self._home / f"step-{step:07d}"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(self._out / self._config.artefacts[0], aside, copy_function=_link)
        self._complete(aside, RunRecord.load(self._out))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(aside, folder)
        self._send(folder, step)
        assert self._sending is not None
        self._sending.process.wait()
        failure = self._report()
        if failure is not None:
            raise Echo4oError(
                f"the result is in {self._out} but not on the Hub ({failure}); run the same "
                f"command again to send it"
            )

    def _complete(self, folder: Path, record: RunRecord) -> None:
        """Add record, trace and samples to the weights of a copy; the sender adds the card."""
        for name in _BESIDE:
            source = self._out / name
            if source.is_dir():
                shutil.copytree(source, folder / name)
            elif source.is_file():
                shutil.copyfile(source, folder / name)
        record.save(folder / RECORD_NAME)

    def _send(self, folder: Path, step: int) -> None:
        repo = self._config.push or ""
        words = [str(folder), repo, f"Step {step} of {self._config.steps}"]
        with (self._home / _LOG).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "echo4o.training.sending", *words],
                stdout=log,
                stderr=log,
                preexec_fn=DIE_WITH_PARENT,
            )
        self._sending = _Sending(step, folder, process)

    def _report(self) -> str | None:
        """Say how the last sending ended; returns what went wrong."""
        if self._sending is None:
            return None
        step, folder, process = self._sending
        self._sending = None
        if process.returncode == 0:
            sent = {"step": step, "repo": self._config.push}
            write_atomic(self._home / _DONE, json.dumps(sent))
            shutil.rmtree(folder)
            logger.info("step %d is on the Hub: %s", step, self._config.push)
            return None
        lines = (self._home / _LOG).read_text(errors="replace").strip().splitlines()
        failure = lines[-1] if lines else f"status {process.returncode}"
        logger.warning("step %d was not pushed: %s", step, failure)
        return failure

    def _sent(self) -> int | None:
        done = self._home / _DONE
        if not done.is_file():
            return None
        sent = json.loads(done.read_text())
        return int(sent["step"]) if sent["repo"] == self._config.push else None

    def _waiting(self) -> list[Path]:
        """Copies that a kill left, oldest first."""
        return sorted(path for path in self._home.glob("step-*") if path.is_dir())


def _link(source: str, target: str) -> str:
    """A second name for a file; a copy where the disk knows no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target
