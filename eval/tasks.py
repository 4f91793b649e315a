"""The table of tasks: a task is items, protocols and a score. One short file per task.

To add one, write a module that defines `TASK` and name it here; nothing else changes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path

from echo4o.errors import Echo4oError

from .items import KIT, Item, ItemSet, read_items
from .layouts import Part
from .protocols import JudgeProtocol
from .scores import Comparison, Grading, Scores, compare, score_points, score_shares
from .sheets import Sheet
from .verdicts import Verdict
from .wording import authors_items

AUTHORS = "authors"
PAPER = "paper"

_MODULES = {
    "geneval_plus_plus": "echo4o.eval.geneval_plus_plus",
    "imagine_bench": "echo4o.eval.imagine_bench",
    "geneval": "echo4o.eval.geneval",
    "dpg_bench": "echo4o.eval.dpg_bench",
    "omnicontext": "echo4o.eval.omnicontext",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Hooks:
    """Where a task differs from most; each one is absent if not given."""

    read_file: Callable[[Path], ItemSet] | None = None
    """Reads an items file that is no JSONL."""
    label: Callable[[ItemSet], ItemSet] | None = None
    """Names a set of items by what is known of it."""
    locate: Callable[[Item, Path], Item] | None = None
    """Finds an item's files, which lie beside the items file in that folder."""
    score: Callable[[Sequence[Verdict], str], Scores] | None = None
    """All scores of verdicts under a protocol."""
    names: Callable[[Sequence[Item]], list[str]] | None = None
    """Names of those scores but the overall one, for the Hub."""
    layout: Callable[[Sequence[Item], Path], dict[str, Path | Part]] | None = None
    """Pictures of a folder in the benchmark's own layout, by the names that we give them."""
    fetch: Callable[[str | None], list[str]] | None = None
    """Gets items and wording from their origin, or from a folder; returns lines for people."""
    check: Callable[[Sequence[Item], Sequence[Mapping[int, Path]], str], None] | None = None
    """Refuses pictures (by sample, then number) that a protocol cannot judge."""
    write: Callable[[Sequence[Verdict], Path], None] | None = None
    """Writes the published script's result files under the authors' protocols."""
    sheet: Callable[[Item], Sheet] | None = None
    """What people are asked about an item's picture; of an item whose row is lost only number, tag
    and prompt are known."""


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
    about: str = ""
    """What an item counts, as reports say it; empty where right or wrong says all."""
    pictures: int = 1
    """Pictures of each prompt that the benchmark takes; other numbers are for `kit` only."""
    size: tuple[int, int] | None = None
    """Width and height that it prescribes, outside of `kit`."""
    usual: str = PAPER
    """Protocol of others' items when none is named."""
    more_items: Mapping[str, str] = field(default_factory=dict)
    """Other sources of fetched items, and what their file is called among the fetched ones."""
    hooks: Hooks = field(default_factory=Hooks)
    """What this task does in its own way."""

    def items(self, source: str) -> ItemSet:
        """Return the items of a source.

        Args:
            source: `kit`, `authors` (fetched), one of `more_items`, `hub:ORG/NAME[@REVISION]`, or
                a file's path.
        """
        if source.startswith("hub:"):
            from .item_repo import read_hub_items

            return read_hub_items(self, source.removeprefix("hub:"))
        if source == KIT:
            return self._read(self.kit_items, KIT)
        if source == AUTHORS or source in self.more_items:
            return self._read(authors_items(self.more_items.get(source, self.name)))
        return self._read(Path(source))

    def _read(self, path: Path, source: str | None = None) -> ItemSet:
        if self.hooks.read_file is not None and path.suffix != ".jsonl":
            return self.hooks.read_file(path)
        found = read_items(path, source=source, read_row=self.read_row)
        if self.hooks.label is not None:
            found = self.hooks.label(found)
        if self.hooks.locate is None:
            return found
        locate, folder = self.hooks.locate, path.resolve().parent
        return replace(found, items=tuple(locate(item, folder) for item in found.items))

    def protocol(self, name: str) -> JudgeProtocol:
        """Return a protocol; an error names the ones there are, or how to get the wording."""
        self.check_protocol(name)
        return self.protocols[name]()

    def check_protocol(self, name: str) -> None:
        """Refuse a protocol that the task does not have; its wording may be missing."""
        if name not in self.protocols:
            known = ", ".join(self.protocols)
            raise Echo4oError(f"task {self.name} has no protocol {name!r}; choose one of: {known}")

    def score(self, verdicts: Sequence[Verdict], protocol: str = PAPER) -> Scores:
        """Return all scores of a run, put together as `protocol` does it.

        Raises:
            Echo4oError: there are no verdicts.
        """
        if not verdicts:
            raise Echo4oError("there are no verdicts to score; give at least one item")
        if self.hooks.score is not None:
            return self.hooks.score(verdicts, protocol)
        if self.grading is None:
            return score_shares(verdicts, protocol)
        return score_points(verdicts, protocol, self.grading)

    def compare(
        self, first: Sequence[Verdict], second: Sequence[Verdict], protocol: str = PAPER
    ) -> Comparison:
        """Return how much better `second` is than `first`."""
        return compare(first, second, self.grading, protocol)


def default_protocol(items: str, task: Task | None = None) -> str:
    """Return what is used when no protocol is named: `kit` for our own items, else `paper`.

    A task may have another usual protocol than `paper`.
    """
    usual = PAPER if task is None else task.usual
    return KIT if items == KIT else usual


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
