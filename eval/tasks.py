"""The table of tasks: a task is items, protocols and a score. One short file per task.

To add one, write a module that defines `TASK` and name it here; nothing else changes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from echo4o.errors import Echo4oError

from .items import KIT, Item, ItemSet, read_items
from .protocols import JudgeProtocol
from .scores import Comparison, Grading, Scores, compare, score_points, score_shares
from .verdicts import Verdict
from .wording import authors_items

AUTHORS = "authors"
PAPER = "paper"

_MODULES = {
    "geneval_plus_plus": "echo4o.eval.geneval_plus_plus",
    "imagine_bench": "echo4o.eval.imagine_bench",
}


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
    readings: Mapping[str, JudgeProtocol]
    """The authors' protocol in each reading, without its wording: can read, cannot ask."""
    read_row: Callable[[object, int], Item] = Item.from_json
    """Makes an item of a row and its running index; ValueError says what is wrong."""
    grading: Grading | None = None
    """How points are put together; None where an item is right or wrong."""

    def items(self, source: str) -> ItemSet:
        """Return the items of a source.

        Args:
            source: `kit`, `authors` (fetched), `hub:ORG/NAME[@REVISION]`, or a JSONL file's path.
        """
        if source.startswith("hub:"):
            from .item_repo import read_hub_items

            return read_hub_items(self, source.removeprefix("hub:"))
        if source == KIT:
            return read_items(self.kit_items, source=KIT, read_row=self.read_row)
        path = authors_items(self.name) if source == AUTHORS else Path(source)
        return read_items(path, read_row=self.read_row)

    def protocol(self, name: str) -> JudgeProtocol:
        """Return a protocol; an error names the ones there are, or how to get the wording."""
        if name not in self.protocols:
            known = ", ".join(self.protocols)
            raise Echo4oError(f"task {self.name} has no protocol {name!r}; choose one of: {known}")
        return self.protocols[name]()

    def score(self, verdicts: Sequence[Verdict], protocol: str = PAPER) -> Scores:
        """Return all scores of a run, put together as `protocol` does it.

        Raises:
            Echo4oError: there are no verdicts.
        """
        if not verdicts:
            raise Echo4oError("there are no verdicts to score; give at least one item")
        if self.grading is None:
            return score_shares(verdicts, protocol)
        return score_points(verdicts, protocol, self.grading)

    def compare(
        self, first: Sequence[Verdict], second: Sequence[Verdict], protocol: str = PAPER
    ) -> Comparison:
        """Return how much better `second` is than `first`."""
        return compare(first, second, self.grading, protocol)


def default_protocol(items: str) -> str:
    """Return what is used when no protocol is named: `kit` for our own items, else `paper`."""
    return KIT if items == KIT else PAPER


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
