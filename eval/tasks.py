"""The table of tasks: a task is items, protocols and a score. One short file per task.

To add one, write a module that defines `TASK` and name it here; nothing else changes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from echo4o.errors import Echo4oError

from .items import KIT, ItemSet, read_items
from .protocols import JudgeProtocol
from .scores import Scores
from .verdicts import Verdict

_MODULES = {"geneval_plus_plus": "echo4o.eval.geneval_plus_plus"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A benchmark."""

    name: str
    """What the command line and results call it."""
    title: str
    """What reports call it."""
    kit_items: Path
    """The project's own items of this form."""
    protocols: Mapping[str, Callable[[], JudgeProtocol]]
    """By name; a protocol whose wording is not here raises when made."""
    score: Callable[[Sequence[Verdict]], Scores]
    """All scores of a run."""

    def items(self, source: str) -> ItemSet:
        """Return the items of `source`: `kit`, or the path of a JSONL file."""
        if source == KIT:
            return read_items(self.kit_items, source=KIT)
        return read_items(Path(source))

    def protocol(self, name: str) -> JudgeProtocol:
        """Return a protocol; an error names the ones there are, or how to get the wording."""
        if name not in self.protocols:
            known = ", ".join(self.protocols)
            raise Echo4oError(f"task {self.name} has no protocol {name!r}; choose one of: {known}")
        return self.protocols[name]()


def task_names() -> list[str]:
    """Return the names of all tasks (imports none of them)."""
    return list(_MODULES)


def get_task(name: str) -> Task:
    """Return a task by name.

    Raises:
        Echo4oError: there is no such task.
    """
    if name not in _MODULES:
        raise Echo4oError(f"there is no task {name!r}; choose one of: {', '.join(_MODULES)}")
    task = import_module(_MODULES[name]).TASK
    assert isinstance(task, Task)
    return task
