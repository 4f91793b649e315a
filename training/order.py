"""The order of samples and how they are grouped into packs; owned by the main process.

Works on row numbers and token counts only, never on pictures. Packs have global numbers, and
every process computes the same sequence, so ranks and resumes need no exchange of state.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from echo4o.errors import Echo4oError

from . import draws
from .remote import BLOCKS_TOGETHER


class Visit(NamedTuple):
    """One use of a row."""

    row: int
    """Number of the row over all sources."""
    visit: int
    """How often this row came before; part of the key of all its random draws."""


class Source(NamedTuple):
    """Rows of one config of the dataset."""

    rows: Sequence[int]
    """Row numbers over all sources."""
    weight: float
    """How often an epoch shows each row."""
    blocks: Sequence[range] | None = None
    """Where rows lie together and are fetched together: the order then stays within a few of these
    at a time."""


class Order:
    """The endless sequence of visits, cut into epochs.

    Each source runs through its rows in one permutation after another; an epoch takes the next
    `weight * rows` of each and shuffles them together. Nothing is repeated before everything of
    its source was shown.
    """

    def __init__(self, sources: Sequence[Source], *, seed: int) -> None:
        self._sources = [np.asarray(source.rows, dtype=np.int64) for source in sources]
        self._blocks = [source.blocks for source in sources]
        self._shares = [round(s.weight * len(s.rows)) for s in sources]
        self._seed = seed
        if not sum(self._shares):
            raise Echo4oError("the mixture holds no row; check `mixture` and the dataset")
        self._epoch: tuple[int, list[Visit]] = (-1, [])

    def __len__(self) -> int:
        """Visits in one epoch."""
        return sum(self._shares)

    def epoch(self, epoch: int) -> list[Visit]:
        """All visits of one epoch, in order."""
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._shuffled(epoch))
        return self._epoch[1]

    def _shuffled(self, epoch: int) -> list[Visit]:
        taken = [
            list(self._take(source, epoch * share, share))
            for source, share in enumerate(self._shares)
        ]
        places = draws.generator(self._seed, "epoch", epoch).permutation(len(self))
        if any(self._blocks):
            return _interleaved(taken, places)
        visits = [visit for visits in taken for visit in visits]
        return [visits[place] for place in places]

    def _take(self, source: int, start: int, count: int) -> Iterator[Visit]:
        """Visits `start` to `start + count` of a source's endless run of permutations."""
        rows, done = self._sources[source], start
        while done < start + count:
            turn, offset = divmod(done, len(rows))
            places = self._permutation(source, turn)
            part = rows[places[offset : offset + start + count - done]]
            yield from (Visit(int(row), turn) for row in part)
            done += len(part)

    def _permutation(self, source: int, turn: int) -> np.ndarray:
        """Places of a source's rows in one of its turns."""
        rows, blocks = self._sources[source], self._blocks[source]
        generator = draws.generator(self._seed, "source", source, turn)
        if blocks is None:
            return generator.permutation(len(rows))
        starts = [block.start for block in blocks]
        block_of = np.searchsorted(starts, rows, side="right") - 1
        rank = np.empty(len(blocks), dtype=np.int64)
        rank[generator.permutation(len(blocks))] = np.arange(len(blocks))
        window = rank[block_of] // BLOCKS_TOGETHER
        return np.lexsort((generator.permutation(len(rows)), window))


def _interleaved(taken: Sequence[Sequence[Visit]], places: np.ndarray) -> list[Visit]:
    """The visits of all sources in a random mixture; each source's own keep their order."""
    labels = np.repeat(np.arange(len(taken)), [len(visits) for visits in taken])[places]
    sources = [iter(visits) for visits in taken]
    return [next(sources[label]) for label in labels]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """Samples that go through the model together."""

    number: int
    """Global number, from 0; rank r of W takes r, r + W, ..."""
    visits: tuple[Visit, ...]
    """Its samples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """Where the packer stands; all there is to save for a resume."""

    packs: int = 0
    """Packs made so far."""
    epoch: int = 0
    """Epoch of the next visit."""
    offset: int = 0
    """Place of the next visit in its epoch."""
    waiting: tuple[Visit, ...] = ()
    """Visits drawn from the order that found no room yet, oldest first."""
    skipped: int = 0
    """Visits without a place: longer than the budget, or of unusable rows."""
    placed: int = 0
    """Tokens put into packs, where these have a budget."""


class Packer:
    """Groups visits into packs of a fixed number of samples, or of a token budget.

    With a budget, a visit without room waits (at most `lookahead` of them) and is the first to be
    put into the next packs: nothing is lost but visits of unusable rows and of rows longer than the
    whole budget, which are counted.

    Args:
        order: The endless sequence of visits.
        length_of: Row number -> tokens with markers, None for a row that cannot be used; only
            called with a budget.
        samples: Samples of a pack.
        budget: Tokens of a pack; exclusive with `samples`.
        lookahead: Visits that may wait.
        position: Where to go on.
    """

    def __init__(
        self,
        order: Order,
        length_of: Callable[[int], int | None],
        *,
        samples: int | None = None,
        budget: int | None = None,
        lookahead: int = 32,
        position: Position | None = None,
    ) -> None:
        if (samples is None) == (budget is None):
            raise ValueError(f"give one of `samples` and `budget`, got {samples} and {budget}")
        self._order, self._length_of = order, length_of
        self._samples, self._budget, self._lookahead = samples, budget, lookahead
        self.position = position or Position()

    def epochs(self, position: Position) -> float:
        """Epochs drawn up to a position."""
        return position.epoch + position.offset / len(self._order)

    def fill_rate(self, position: Position) -> float | None:
        """Share of the budget of all packs that was used; None without a budget or a pack."""
        if self._budget is None or not position.packs:
            return None
        return position.placed / (self._budget * position.packs)

    def next(self) -> Pack:
        """Make the next pack and move on."""
        visits = self._fixed() if self._budget is None else self._budgeted(self._budget)
        number = self.position.packs
        self.position = dataclasses.replace(self.position, packs=number + 1)
        return Pack(number=number, visits=tuple(visits))

    def _fixed(self) -> list[Visit]:
        return [self._draw() for _ in range(self._samples or 0)]

    def _budgeted(self, budget: int) -> list[Visit]:
        taken: list[Visit] = []
        waiting: list[Visit] = []
        room, skipped = budget, 0
        for visit in self.position.waiting:
            room = self._place(visit, room, taken, waiting)
        while len(waiting) <= self._lookahead and room > 0:
            visit = self._draw()
            length = self._length_of(visit.row)
            if length is None or length > budget:
                skipped += 1
                self._refuse_all_skipped(skipped, bool(taken or waiting), budget)
            else:
                room = self._place(visit, room, taken, waiting)
        before = self.position
        self.position = dataclasses.replace(
            before,
            waiting=tuple(waiting),
            skipped=before.skipped + skipped,
            placed=before.placed + budget - room,
        )
        return taken

    def _place(self, visit: Visit, room: int, taken: list[Visit], waiting: list[Visit]) -> int:
        """Put a visit into the pack if there is room, else let it wait; returns the room left."""
        length = self._length_of(visit.row) or 0
        (taken if length <= room else waiting).append(visit)
        return room - length if length <= room else room

    def _refuse_all_skipped(self, skipped: int, any_fit: bool, budget: int) -> None:
        if not any_fit and skipped >= len(self._order):
            raise Echo4oError(
                f"no row fits into `tokens_per_pack` = {budget}: all are longer or unreadable; "
                f"raise it or make the pictures smaller (`vae_sizes`, `vit_sizes`)"
            )

    def _draw(self) -> Visit:
        here = self.position
        visit = self._order.epoch(here.epoch)[here.offset]
        last = here.offset + 1 == len(self._order)
        self.position = dataclasses.replace(
            here,
            epoch=here.epoch + last,
            offset=0 if last else here.offset + 1,
        )
        return visit
