"""What `data check` decided for every bought row: check.jsonl, which `data build` follows.

A header line, then a line for each row in plan order. A verdict holds for one picture, by its hash;
a row that was bought anew since counts as unchecked.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Literal, cast, get_args

from echo4o.errors import Echo4oError
from echo4o.records import JsonValue, sha256_file
from echo4o.schema import check_constraints, check_instruction, dump_json

from .credentials import Credentials
from .perceptual import VIEW_BYTES
from .plan import PLAN_NAME, Entry

CHECK_NAME = "check.jsonl"
CHECK_FORMAT = 1

Decision = Literal["keep", "rewrite", "drop", "undecided"]


class VerdictError(Echo4oError):
    """A check file that is damaged or of another version."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What was found about one row and what follows from it."""

    id: str
    sha256: str
    """Of the picture that was looked at."""
    decision: Decision
    """`undecided` rows stay as they are; the next check asks for them again."""
    reason: str = ""
    """Why it was dropped, or why nothing could be decided."""
    aligned: bool | None = None
    """Whether the picture follows the asked instruction; None: nobody could say."""
    aligned_after: bool | None = None
    """The same for the rewritten instruction, by a second look."""
    instruction: str | None = None
    """The rewritten text."""
    constraints: Mapping[str, JsonValue] | None = None
    """Facts that the rewritten text states."""
    findings: tuple[str, ...] = ()
    """Reasons for the lines that were not satisfied."""
    unsafe: str | None = None
    possible_minor: bool = False
    trademark: str | None = None
    moderation: tuple[str, ...] = ()
    """Categories that the moderation service flagged."""
    credentials: Mapping[str, JsonValue] | None = None
    duplicate_of: str | None = None
    """An earlier row that asks for the same and shows nearly the same."""
    model: str | None = None
    """Who judged, as the service names it."""
    request_id: str | None = None
    views: str = ""
    """Perceptual hashes, base64; they stay in this file."""

    def to_line(self) -> str:
        """The verdict's line in the file; what is empty is left out."""
        empty = {item.name: item.default for item in fields(self)}
        given = {n: v for n, v in asdict(self).items() if n == "id" or v != empty[n]}
        return dump_json(cast(JsonValue, given)) + "\n"

    def view_hashes(self) -> bytes | None:
        """The perceptual hashes, None for a picture that does not decode."""
        return base64.b64decode(self.views) or None

    def provenance(self) -> dict[str, JsonValue]:
        """What the dataset row says of the check: `check` and `content_credentials`."""
        told: dict[str, JsonValue] = {
            "aligned": self.aligned,
            "aligned_after": self.aligned_after,
            "decision": self.decision,
            "duplicate_of": self.duplicate_of,
            "model": self.model,
            "request_id": self.request_id,
        }
        safety: dict[str, JsonValue] = {
            "unsafe": self.unsafe,
            "possible_minor": self.possible_minor,
            "trademark": self.trademark,
            "moderation": list(self.moderation),
        }
        if found := {name: value for name, value in safety.items() if value}:
            told["safety"] = cast(JsonValue, found)
        credentials = self.credentials or Credentials(present=False).to_dict()
        return {"check": told, "content_credentials": dict(credentials)}


@dataclass(slots=True)
class Verdicts:
    """The verdicts of a folder, by row."""

    header: Mapping[str, JsonValue] = field(default_factory=dict)
    """What was checked and how; empty when nothing was."""
    by_id: dict[str, Verdict] = field(default_factory=dict)
    """Without their perceptual hashes."""

    @classmethod
    def load(cls, folder: Path) -> "Verdicts":
        """The verdicts of a plan's folder; none when it was never checked.

        Raises:
            VerdictError: the file is damaged, of another version, or of another plan.
        """
        path = folder / CHECK_NAME
        if not path.is_file():
            return cls()
        header, lines = read_verdicts(path)
        if header.get("plan_sha256") != sha256_file(folder / PLAN_NAME):
            raise VerdictError(
                f"{path} is of another plan than {PLAN_NAME}; move it away and run `echo4o data "
                "check` again (paid answers are kept)"
            )
        return cls(header, {one.id: replace(one, views="") for one in lines})

    def find(self, entry: Entry, sha256: str | None) -> Verdict | None:
        """The verdict on a row that holds for this picture."""
        found = self.by_id.get(entry.id)
        return found if found is not None and found.sha256 == sha256 else None


def paired(rows: Iterable[Entry], verdicts: Iterable[Verdict]) -> Iterator[tuple[Entry, Verdict]]:
    """Verdicts with their rows; both are in plan order, and not every row has one.

    Raises:
        VerdictError: a verdict is on no row of the plan.
    """
    source = iter(rows)
    for verdict in verdicts:
        row = next((one for one in source if one.id == verdict.id), None)
        if row is None:
            raise VerdictError(
                f"there is a verdict on {verdict.id!r}, which is not in the plan, or not in this "
                "place; run `echo4o data check` in a fresh copy of the folder"
            )
        yield row, verdict


def applied(entry: Entry, verdict: Verdict | None) -> Entry:
    """The row as it goes into the dataset; its prompt stays what the generator was asked."""
    if verdict is None or verdict.decision != "rewrite":
        return entry
    assert verdict.instruction is not None
    constraints = verdict.constraints or {}
    return replace(entry, instruction=verdict.instruction, constraints=constraints)


def header_line(header: Mapping[str, JsonValue]) -> str:
    """The first line of the file."""
    return dump_json({"kind": "check", "format": CHECK_FORMAT, **header}) + "\n"


def read_verdicts(
    path: Path, *, may_end_early: bool = False
) -> tuple[Mapping[str, JsonValue], Iterator[Verdict]]:
    """The header, and the verdicts one at a time.

    `may_end_early` takes a last line that a kill cut off for the end.

    Raises:
        VerdictError: the file is damaged or of another version.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        header = _object(path, 1, file.readline())
    if header.get("kind") != "check" or header.get("format") != CHECK_FORMAT:
        raise VerdictError(
            f"{path} has check format {header.get('format')!r}, this echo4o reads {CHECK_FORMAT}; "
            "move it away and run `echo4o data check` again (paid answers are kept)"
        )
    told = {name: value for name, value in header.items() if name not in ("kind", "format")}
    return told, _verdicts(path, may_end_early)


def _verdicts(path: Path, may_end_early: bool) -> Iterator[Verdict]:
    with path.open(encoding="utf-8", errors="replace") as file:
        file.readline()
        for number, line in enumerate(file, 2):
            if may_end_early and not line.endswith("\n"):
                return
            yield _verdict(path, number, line)


def _object(path: Path, number: int, line: str) -> dict[str, JsonValue]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise _damaged(path, number, str(error)) from None
    if not isinstance(value, dict):
        raise _damaged(path, number, "no object")
    return value


def _verdict(path: Path, number: int, line: str) -> Verdict:
    value = _object(path, number, line)
    for name in ("findings", "moderation"):
        if isinstance(given := value.get(name), list):
            value[name] = tuple(given)
    try:
        verdict = Verdict(**value)  # type: ignore[arg-type]
        _check(verdict)
    except (TypeError, ValueError, binascii.Error, Echo4oError) as error:
        raise _damaged(path, number, str(error)) from None
    return verdict


def _check(verdict: Verdict) -> None:
    if verdict.decision not in get_args(Decision):
        raise ValueError(f"decision is {verdict.decision!r}")
    if verdict.decision == "rewrite":
        check_instruction(verdict.instruction or "", verdict.id)
        check_constraints(verdict.constraints or {}, verdict.id)
    if len(verdict.view_hashes() or b"") not in (0, VIEW_BYTES):
        raise ValueError("its perceptual hashes have another length")


def _damaged(path: Path, number: int, what: str) -> VerdictError:
    return VerdictError(
        f"{path} line {number} is no verdict ({what}); move the file away and run `echo4o data "
        "check` again (paid answers are kept)"
    )
