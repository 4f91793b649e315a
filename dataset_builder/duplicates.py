"""Finds near-duplicates: rows that ask for the same and show nearly the same.

Alike pictures alone prove nothing here: on plain backgrounds, scenes with different facts look
alike to any hash. So rows are compared only with rows of their own group (`group_of`): the same
facts and references, or where no facts are known the same words.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from echo4o.records import JsonValue
from echo4o.schema import constraint_key, dump_json

from .perceptual import Words, from_bytes

if TYPE_CHECKING:
    import pyarrow as pa

Indices = NDArray[np.int64]

NEAR = 22
"""Most differing bits, of 192, in the best pair of views (benchmarks/bench_duplicates.py)."""
_HOPELESS = 72
"""Whole pictures further apart than this are no crops of each other either."""
_BLOCK = 2_048
"""Pairs at a time: what they take stays in the processor's cache."""
_WORD = re.compile(r"\w+")


def group_of(
    subset: str,
    instruction: str,
    constraints: Mapping[str, JsonValue] | None,
    references: Sequence[str] = (),
) -> str:
    """What two rows must have in common to be compared; `references` are hashes of pictures."""
    facts = {name: value for name, value in (constraints or {}).items() if name not in _UNSAID}
    asked = constraint_key(facts) if "include" in facts else ""
    rest = {name: value for name, value in facts.items() if name not in ("include", "exclude")}
    words = "" if asked or rest else " ".join(_WORD.findall(instruction.lower()))
    return dump_json([subset, asked, rest, words, list(references)])


# What tells how a row was made, not what it asks for.
_UNSAID = ("tag", "regular", "object")


def find_duplicates(batches: Iterable["pa.RecordBatch"]) -> "pa.Table":
    """Rows that repeat an earlier row: `id`, `duplicate_of` and `distance` in bits.

    Keeps some 400 bytes for each row, nothing of the batches. Every `duplicate_of` is a row that is
    not marked itself.

    Args:
        batches: `id` (string), `group` (string), `views` (binary, see `perceptual.hash_batch`; rows
            without are passed over).
    """
    import pyarrow as pa

    ids: list[str] = []
    groups: list[bytes] = []
    views: list[bytes] = []
    for batch in batches:
        for row_id, group, view in zip(*(batch.column(n) for n in _COLUMNS), strict=True):
            if view.is_valid:
                ids.append(row_id.as_py())
                groups.append(hashlib.blake2b(group.as_py().encode(), digest_size=8).digest())
                views.append(view.as_py())
    marks = search(np.frombuffer(b"".join(groups), dtype=np.uint64), from_bytes(b"".join(views)))
    return pa.table(
        {
            "id": pa.array([ids[later] for later, _, _ in marks], pa.string()),
            "duplicate_of": pa.array([ids[first] for _, first, _ in marks], pa.string()),
            "distance": pa.array([bits for _, _, bits in marks], pa.int32()),
        }
    )


_COLUMNS = ("id", "group", "views")


def search(groups: NDArray[np.uint64], views: Words) -> list[tuple[int, int, int]]:
    """(later row, earlier row, distance) of `views` (n, VIEWS, CHANNELS), by rows of equal group.

    The work grows with the number of pairs within groups, not with the number of rows.
    """
    order = np.argsort(groups, kind="stable")
    groups = groups[order]
    whole = np.ascontiguousarray(views[:, 0])
    near: dict[int, list[tuple[int, int]]] = {}
    left: Indices = np.arange(len(groups))
    for step in range(1, len(groups)):
        # Rows and their `step`-th neighbour, as long as both are in one group.
        left = left[left + step < len(groups)]
        left = left[groups[left] == groups[left + step]]
        if not len(left):
            break
        for start in range(0, len(left), _BLOCK):
            part = left[start : start + _BLOCK]
            _compare(order[part], order[part + step], whole, views, near)
    return _resolve(near)


def _compare(
    earlier: Indices,
    later: Indices,
    whole: Words,
    views: Words,
    near: dict[int, list[tuple[int, int]]],
) -> None:
    """Note the pairs that are near."""
    hopeful = _bits(whole[earlier], whole[later]) <= _HOPELESS
    earlier, later = earlier[hopeful], later[hopeful]
    if not len(earlier):
        return
    apart = np.minimum(
        _bits(whole[earlier, None], views[later]).min(axis=1),
        _bits(whole[later, None], views[earlier]).min(axis=1),
    )
    for index in np.flatnonzero(apart <= NEAR):
        found = (int(earlier[index]), int(apart[index]))
        near.setdefault(int(later[index]), []).append(found)


def _bits(one: Words, other: Words) -> NDArray[np.uint8]:
    counts = np.bitwise_count(one ^ other)
    # Three words of 64 bits fit a byte; `sum` over so short an axis takes ten times as long.
    return counts[..., 0] + counts[..., 1] + counts[..., 2]


def _resolve(near: Mapping[int, list[tuple[int, int]]]) -> list[tuple[int, int, int]]:
    """The first unmarked row that each row repeats; a row near only to marked ones stays."""
    marks: dict[int, tuple[int, int]] = {}
    for later in sorted(near):
        first = min((pair for pair in near[later] if pair[0] not in marks), default=None)
        if first is not None:
            marks[later] = first
    return [(later, first, bits) for later, (first, bits) in marks.items()]
