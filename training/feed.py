"""Brings packs to the loop: read and decoded here or by worker processes, in the packer's order.

Workers only read: mixture, order and packing stay in this process, so that any number of workers
gives the same packs, and a resume knows exactly which of them were used.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

from torch.utils.data import DataLoader, Dataset

from .order import Pack, Packer, Position, Visit

E = TypeVar("E")


class Loaded(NamedTuple, Generic[E]):
    """A row that was read for one visit."""

    visit: Visit
    example: E | None
    """None when the row cannot be used."""
    reason: str
    """Why it cannot."""


class Feed(Generic[E]):
    """The packs of this process, step after step.

    Args:
        packer: Makes all packs of the run, in every process.
        load: Reads a row; called in the workers.
        packs_per_step: Packs of a step over all processes.
        rank: Of this process; it takes the packs rank, rank + world, ...
        world: Number of processes.
        workers: Processes that read ahead; 0 reads here, when it is needed.
    """

    def __init__(
        self,
        packer: Packer,
        load: Callable[[Visit], Loaded[E]],
        *,
        packs_per_step: int,
        rank: int,
        world: int,
        workers: int,
    ) -> None:
        self._packer, self._rank, self._world = packer, rank, world
        self._packs_per_step = packs_per_step
        self._position = packer.position
        self._ahead: deque[Position] = deque()
        loader: DataLoader[list[Loaded[E]]] = DataLoader(
            _Reader(load),
            batch_size=None,
            sampler=self._visits(),
            num_workers=workers,
            collate_fn=_as_it_is,
        )
        self._loader = loader
        self._packs: Iterator[list[Loaded[E]]] | None = None

    @property
    def position(self) -> Position:
        """Where the order stands behind the last step that was taken; set it to resume there."""
        return self._position

    @position.setter
    def position(self, position: Position) -> None:
        self._position = self._packer.position = position

    @property
    def epochs(self) -> float:
        """Epochs taken so far."""
        return self._packer.epochs(self._position)

    @property
    def fill_rate(self) -> float | None:
        """Share of the token budget of all packs so far that was used; None without a budget."""
        return self._packer.fill_rate(self._position)

    def next(self) -> list[list[Loaded[E]]]:
        """The packs of this process in the next step."""
        if self._packs is None:
            self._packs = iter(self._loader)
        packs = [next(self._packs) for _ in range(self._packs_per_step // self._world)]
        self._position = self._ahead.popleft()
        return packs

    def _visits(self) -> Iterator[tuple[Visit, ...]]:
        """This process's packs, without end; workers are ahead of the loop."""
        while True:
            packs = [self._packer.next() for _ in range(self._packs_per_step)]
            self._ahead.append(self._packer.position)
            yield from (pack.visits for pack in packs if self._is_mine(pack))

    def _is_mine(self, pack: Pack) -> bool:
        return pack.number % self._world == self._rank


class _Reader(Dataset[list[Loaded[E]]]):
    """Reads the rows of a pack."""

    def __init__(self, load: Callable[[Visit], Loaded[E]]) -> None:
        self._load = load

    def __getitem__(self, visits: tuple[Visit, ...]) -> list[Loaded[E]]:
        return [self._load(visit) for visit in visits]


def _as_it_is(pack: list[Loaded[E]]) -> list[Loaded[E]]:
    return pack
