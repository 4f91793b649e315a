"""Rights and disclosure: what a release team has to know and sign before anything is published.

Read from the table `[rights]` of a RELEASE.toml; publishing is refused while anything is missing,
and the card prints it.
"""

import fnmatch
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import date, datetime
from pathlib import Path
from typing import Any

from .errors import Echo4oError
from .records import JsonValue

FILE_NAME = "RELEASE.toml"
_ANSWERS = ("yes", "no", "unclear")
_LONGEST = 500
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_TEMPLATE = re.compile(r"(^|/)(\.\.\.|…)$|\b(TODO|TBD|FIXME)\b|^(NAME|ADDRESS|MODEL of PROVIDER)$")
"""What stands in an example in place of an answer."""
_ON_THE_HUB = re.compile(
    r"apache-2\.0|mit|unlicense|bsd-[23]-clause|cc0-1\.0|cc-by(-nc)?(-nd|-sa)?-(2\.0|2\.5|3\.0|4\.0)"
    r"|cdla-(sharing-1|permissive-[12])\.0|odc-by|odbl|pddl|openrail"
)
"""Licences for data that the Hub has an identifier for."""
_HINT = f"fill it in {FILE_NAME} (table [rights])"


class RightsError(Echo4oError):
    """The rights of a release are not settled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Licences:
    """Who may use what; each part of a dataset has its own."""

    outputs: str
    """Of the generated pictures."""
    instructions: str
    """Of the texts."""
    references: str
    """Of the reference pictures; "none" where there are none."""
    items: str
    """Of benchmark items that the release uses; "none" where there are none."""
    declared: str = ""
    """What the authors of imported parts declare."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    """References that the dataset itself does not vouch for, by the pattern of their source."""

    match: str
    """Shell pattern of the source that the rows name, for example `human/*`."""
    licence: str
    source: str = ""
    attribution: str = ""
    depicts_person: bool | None = None
    consent: str = ""
    """Release or licence that allows a picture of a person."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rights:
    """The answers; every one is needed before anything is published."""

    generator: str
    """Model or service that made the pictures."""
    terms: str
    """URL of its terms; "none" where there are none."""
    terms_read: date
    """Day on which somebody read them."""
    account: str
    """Kind of account: personal, business, ..."""
    may_train_competing_model: str
    """yes, no or unclear, by those terms."""
    signed_off: str
    """Who answers for it."""
    take_down: str
    """Where somebody asks for the removal of a picture."""
    licences: Licences
    references: tuple[Registered, ...] = field(default=())

    @classmethod
    def load(cls, path: Path) -> "Rights":
        """Read a RELEASE.toml.

        Raises:
            RightsError: there is none, or an answer is missing, empty or nonsense.
        """
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            raise RightsError(
                f"there is no {path}, so nobody has signed for the rights; write one with the "
                f"table [rights]: {', '.join(_names(cls))}"
            ) from None
        except (OSError, ValueError) as error:
            raise RightsError(f"{path} cannot be read: {error}") from None
        return cls.from_dict(table.get("rights"), str(path))

    @classmethod
    def from_dict(cls, given: object, where: str) -> "Rights":
        """The answers of a table.

        Raises:
            RightsError: an answer is missing, empty or nonsense.
        """
        table = _table(given, where, "[rights]", cls)
        licences = _table(table["licences"], where, "[rights.licences]", Licences)
        register = table.get("references", [])
        if not isinstance(register, list):
            raise RightsError(f"{where}: [[rights.references]] must be a list of tables")
        rows = [_table(one, where, "[[rights.references]]", Registered) for one in register]
        read = table["terms_read"]
        try:
            # TOML also knows moments, which are dates in Python.
            day = date.fromisoformat(str(read)[:10] if isinstance(read, datetime) else str(read))
        except ValueError:
            raise RightsError(f"{where}: terms_read must be a date, got {read!r}") from None
        if table["may_train_competing_model"] not in _ANSWERS:
            raise RightsError(
                f"{where}: may_train_competing_model must be one of {', '.join(_ANSWERS)}, got "
                f"{table['may_train_competing_model']!r}"
            )
        parts = {
            "terms_read": day,
            "licences": Licences(**licences),
            "references": tuple(Registered(**one) for one in rows),
        }
        return cls(**{**table, **parts})

    def to_dict(self) -> dict[str, JsonValue]:
        """JSON for a record; `from_dict` reads it back."""
        plain = {name: getattr(self, name) for name in _names(type(self))}
        return {
            **plain,
            "terms_read": self.terms_read.isoformat(),
            "licences": {item.name: getattr(self.licences, item.name) for item in fields(Licences)},
            "references": [
                {item.name: getattr(one, item.name) for item in fields(Registered)}
                for one in self.references
            ],
        }

    @property
    def license_id(self) -> str | None:
        """The Hub's identifier of the pictures' licence; None when they are under none it knows."""
        name = re.sub(r"[\s_]+", "-", self.licences.outputs.strip().lower())
        return name if _ON_THE_HUB.fullmatch(name) else None

    def lines(self) -> Iterator[str]:
        """What the card says, in Markdown."""
        yield (
            f"- Made with {self.generator} (account: {self.account}); terms: {self.terms}, read "
            f"{self.terms_read}."
        )
        yield (
            "- May a competing model be trained on it, by these terms: "
            f"**{self.may_train_competing_model}**."
        )
        licences = self.licences
        yield (
            f"- Licences: pictures {licences.outputs}; instructions {licences.instructions}; "
            f"references {licences.references}; benchmark items {licences.items}."
        )
        if licences.declared:
            yield f"- The authors of imported parts declare: {licences.declared}."
        for one in self.references:
            told = [one.source or one.match, f"licence {one.licence}", one.attribution, one.consent]
            yield f"- References {'; '.join(part for part in told if part)}."
        yield f"- Signed off by {self.signed_off}. Ask for a removal at {self.take_down}."

    def check_reference(self, entry: Mapping[str, JsonValue], row_id: str) -> None:
        """Refuse a reference that nobody vouches for.

        Raises:
            RightsError: it is in no register, or shows a person without a release.
        """
        source = str(entry.get("source") or "")
        if source.startswith("generated by "):
            return  # made like the outputs, under their terms
        known = next((one for one in self.references if fnmatch.fnmatch(source, one.match)), None)
        licence = entry.get("licence") or (known and known.licence)
        person = entry.get("depicts_person")
        if known is not None and known.depicts_person is not None:
            person = known.depicts_person
        consent = entry.get("consent") or (known and known.consent)
        name = f"reference {source or str(entry.get('sha256'))[:12]!r} of row {row_id}"
        if not licence:
            raise RightsError(
                f"{name} is not in the register (no licence); plan it with a licence, or describe "
                f"its source in [[rights.references]] of {FILE_NAME}"
            )
        if person and not consent:
            raise RightsError(
                f"{name} shows a person without a release; name it as `consent` in "
                f"[[rights.references]] of {FILE_NAME}, or remove the row"
            )


def _names(cls: type) -> list[str]:
    return [item.name for item in fields(cls)]


def _table(given: object, where: str, name: str, cls: type) -> dict[str, Any]:
    """A table with all fields that `cls` has and none besides; texts are single lines."""
    if not isinstance(given, Mapping):
        raise RightsError(f"{where} has no table {name}, so nobody has signed for the rights")
    known = {item.name: item for item in fields(cls)}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise RightsError(f"{where}: {name} has unknown {unknown[0]!r}; known: {', '.join(known)}")
    for item in fields(cls):
        value = given.get(item.name)
        is_needed = item.name not in ("references", "declared", *_OPTIONAL.get(cls, ()))
        if is_needed and (value is None or value == ""):
            raise RightsError(f"{where}: {name} has no `{item.name}`; {_HINT}")
        if isinstance(value, str) and _TEMPLATE.search(value):
            raise RightsError(f"{where}: `{item.name}` of {name} is still {value!r}; {_HINT}")
        if isinstance(value, str) and (len(value) > _LONGEST or _CONTROL.search(value)):
            raise RightsError(f"{where}: `{item.name}` of {name} must be one line of text")
        if value is not None and item.type is str and not isinstance(value, str):
            raise RightsError(f"{where}: `{item.name}` of {name} must be a text, got {value!r}")
        if item.name == "depicts_person" and not isinstance(value, bool | None):
            raise RightsError(f"{where}: `{item.name}` of {name} must be true or false")
    return dict(given)


_OPTIONAL: dict[type, tuple[str, ...]] = {
    Registered: ("source", "attribution", "depicts_person", "consent")
}
