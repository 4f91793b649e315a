"""Chooses validation rows so that no object combination and no reference is in both splits."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from echo4o.errors import Echo4oError

USUAL_ROWS = 2_000
"""Validation rows of a dataset as large as the paper's."""
_LARGEST_SHARE = 10
"""A small dataset gives a tenth at most: it is there to be trained on."""


class Candidate(NamedTuple):
    """A row and everything it may share with another: constraint key, reference hashes."""

    id: str
    shared: tuple[str, ...]


def choose_validation(rows: Sequence[Candidate], count: int, seed: int = 0) -> frozenset[str]:
    """Ids of up to `count` rows for validation; rows tied by anything shared stay together.

    Groups larger than a quarter of `count` stay in train, so that one crowd does not become the
    whole validation set; fewer than `count` rows come back when the groups do not fit.

    Raises:
        Echo4oError: `count` is negative or more than half of the rows.
    """
    if not 0 <= count <= len(rows) // 2:
        raise Echo4oError(
            f"--validation {count} does not fit: there are {len(rows)} rows, "
            f"so give 0 to {len(rows) // 2}"
        )
    chosen: list[str] = []
    groups = sorted(_groups(rows), key=lambda group: _rank(min(group), seed))
    for group in groups:
        if len(group) <= max(1, count // 4) and len(chosen) + len(group) <= count:
            chosen += group
    return frozenset(chosen)


def usual_validation(rows: int) -> int:
    """How many of `rows` rows are for validation when nobody says."""
    return min(USUAL_ROWS, rows // _LARGEST_SHARE)


def ranked(ids: Sequence[str], count: int, seed: int = 0) -> frozenset[str]:
    """`count` of the ids, chosen by hash: the same ones whatever the order."""
    return frozenset(sorted(ids, key=lambda name: _rank(name, seed))[:count])


def _rank(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}|{name}".encode()).digest()


def _groups(rows: Sequence[Candidate]) -> list[list[str]]:
    """Connected components (union-find with path halving)."""
    parent = list(range(len(rows)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    first: dict[str, int] = {}
    for index, row in enumerate(rows):
        for name in row.shared:
            parent[root(index)] = root(first.setdefault(name, index))
    members: dict[int, list[str]] = defaultdict(list)
    for index, row in enumerate(rows):
        members[root(index)].append(row.id)
    return list(members.values())
