"""What was checked, found and expected: rows of the table that a verification prints."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..errors import printable
from ..manifest import Difference

_HASH = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{28,52}\b")


class Row(NamedTuple):
    """One check of one repo."""

    where: str
    """Repo, as addresses spell it."""
    check: str
    """What was looked at, and where in the repo."""
    found: str
    expected: str
    is_good: bool


class Table:
    """The rows, in the order they were checked."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(self, where: str, check: str, found: object, expected: object) -> bool:
        """Add a row that is good when both are equal; returns whether it is."""
        is_good = found == expected
        self.rows.append(Row(where, check, str(found), str(expected), is_good))
        return is_good

    def good(self, where: str, check: str, found: str, expected: str) -> None:
        """Add a row that is as it should be."""
        self.rows.append(Row(where, check, found, expected, True))

    def bad(self, where: str, check: str, found: str, expected: str) -> None:
        """Add a row that is not as it should be."""
        self.rows.append(Row(where, check, found, expected, False))

    def differ(
        self, where: str, check: str, differences: Iterable[Difference], *, fine: str
    ) -> bool:
        """Add one row for each difference, or one that says `fine`; returns whether it is."""
        found = list(differences)
        for one in found:
            self.bad(where, f"{check}: {one.place}", one.found, one.expected)
        if not found:
            self.good(where, check, fine, "no difference")
        return not found

    @property
    def bad_rows(self) -> list[Row]:
        """What is not as it should be."""
        return [row for row in self.rows if not row.is_good]

    def lines(self) -> list[str]:
        """The table as text; bad rows are marked and last."""
        ordered = [_shortened(row) for row in self.rows if row.is_good] + self.bad_rows
        cells: list[Sequence[str]] = [("", "repo", "checked", "found", "expected")]
        cells += [("ok" if row.is_good else "BAD", *map(_one_line, row[:4])) for row in ordered]
        widths = [min(max(len(row[i]) for row in cells), 60) for i in range(4)]
        return [
            "  ".join(
                [*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]
            )
            for row in cells
        ]


def _shortened(row: Row) -> Row:
    """Equal hashes need not be read to the end."""
    found, expected = (_HASH.sub(r"\1..", text) for text in (row.found, row.expected))
    return row._replace(found=found, expected=expected)


def _one_line(text: str) -> str:
    """Foreign text without line ends and control characters."""
    return printable(text)[:300]
