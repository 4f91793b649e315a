"""Finds what is wrong with a card before anybody else does; reads files, changes nothing.

Checked: front matter, placeholders, links to files, Python snippets, claims.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import yaml

from echo4o.errors import Echo4oError
from echo4o.records import JsonValue

from .render import CardError, front_matter

RepoType = Literal["model", "dataset", "space"]
Status = Literal["verified", "unverified", "unsupported"]

_PLACEHOLDERS = re.compile(
    r"(?i:\[more information needed\]|\blorem ipsum\b)|\bTODO\b|\bTBD\b|\bFIXME\b|\bXXX\b"
    r"|\{\{|\}\}|\{%|(?<![\w.])(?:None|nan|NaN|undefined)(?![\w.])"
)
_LINK = re.compile(r"!?\[[^\]]*\]\(\s*([^)\s]*)[^)]*\)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_CLAIM = re.compile(r"<!--\s*claim:\s*([\w.-]+)\s*-->")
_FIGURE = re.compile(
    r"\b\d[\d,.]*\s?(?:%|x (?:faster|smaller|less)|ms\b|GB/s|dB\b|(?:images|pictures|samples)/s)"
)
_REQUIRED: dict[str, tuple[str, ...]] = {
    "model": ("library_name", "pipeline_tag", "tags"),
    "dataset": ("pretty_name", "task_categories", "tags"),
    "space": ("title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "app_file"),
}


class ClaimsError(Echo4oError):
    """The file of claims is not what it should be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One thing the project says about itself, and how it is known."""

    id: str
    """Name by which cards refer to it."""
    text: str
    """The claim in one sentence."""
    command: str
    """What shows it."""
    commit: str | None
    """Commit at which it was shown."""
    machine: str | None
    """What it was shown on."""
    status: Status
    """`verified`, `unverified` (nobody ran it yet) or `unsupported` (known not to hold)."""

    def __post_init__(self) -> None:
        if self.status not in get_args(Status):
            raise ClaimsError(f"claim {self.id}: the status {self.status!r} is not one of ours")
        if self.status == "verified" and not (self.commit and self.machine):
            raise ClaimsError(f"claim {self.id} is verified, so it must name commit and machine")


def load_claims(path: Path) -> dict[str, Claim]:
    """The claims of a `claims.yaml` by id.

    Raises:
        ClaimsError: not a list of claims, a field is missing or unknown, an id stands twice.
    """
    try:
        entries = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ClaimsError(f"{path.name} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(entries, list):
        raise ClaimsError(f"{path.name} must be a list of claims")
    claims: dict[str, Claim] = {}
    for entry in entries:
        try:
            claim = Claim(**entry)
        except TypeError as error:
            raise ClaimsError(f"{path.name}: a claim has wrong fields ({error})") from None
        if claim.id in claims:
            raise ClaimsError(f"{path.name}: the claim {claim.id} stands there twice")
        claims[claim.id] = claim
    return claims


def check_card(
    text: str,
    *,
    folder: Path | None = None,
    repo_type: RepoType | None = None,
    claims: Mapping[str, Claim] | None = None,
) -> list[str]:
    """Everything that is wrong with a card or README, one sentence each.

    Args:
        text: The file's content.
        folder: Where it lies; links to files are looked up there, None skips that.
        repo_type: Which front matter it must have; None asks for none.
        claims: Known claims; None skips them. A text without front matter that states a measured
            figure must name its claim: `<!-- claim: ID -->` in the same paragraph.
    """
    problems = list(_matter_problems(text, repo_type))
    problems += _placeholder_problems(text)
    problems += _link_problems(text, folder)
    problems += _snippet_problems(text)
    if claims is not None:
        problems += _claim_problems(text, claims, figures=repo_type is None)
    return problems


def _matter_problems(text: str, repo_type: RepoType | None) -> Iterator[str]:
    if repo_type is None:
        return
    try:
        matter = front_matter(text)
    except CardError as error:
        yield str(error)
        return
    for name in _REQUIRED[repo_type]:
        if not matter.get(name):
            yield f"the front matter lacks `{name}`"
    if not matter.get("license"):
        yield "the front matter declares no `license`: say one, or `other` with `license_name`"
    yield from _unread_matter(matter, repo_type)


def _unread_matter(matter: dict[str, JsonValue], repo_type: RepoType) -> Iterator[str]:
    from huggingface_hub import DatasetCardData, ModelCardData, SpaceCardData

    classes = {"model": ModelCardData, "dataset": DatasetCardData, "space": SpaceCardData}
    try:
        classes[repo_type](**matter)
    except (TypeError, ValueError, KeyError) as error:
        yield f"the Hub's library cannot read the front matter: {error}"


def _placeholder_problems(text: str) -> Iterator[str]:
    prose = _FENCE.sub("", text)
    for number, line in enumerate(prose.splitlines(), 1):
        found = _PLACEHOLDERS.search(re.sub(r"`[^`]*`", "", line))
        if found:
            yield f"a placeholder was left: {found.group()!r} in {line.strip()[:60]!r} ({number})"


def _link_problems(text: str, folder: Path | None) -> Iterator[str]:
    for target in _LINK.findall(_FENCE.sub("", text)):
        if not target:
            yield "a link leads nowhere: its address is empty"
        elif target.startswith(("http://", "https://", "mailto:", "#")):
            continue
        elif folder is not None and not (folder / target.partition("#")[0]).exists():
            yield f"a link leads to {target!r}, which is not there"


def _snippet_problems(text: str) -> Iterator[str]:
    for language, body in _FENCE.findall(text):
        if language in ("python", "py"):
            try:
                ast.parse(body)
            except SyntaxError as error:
                yield f"a Python snippet does not parse: {error.msg} in {(error.text or '')[:60]!r}"


def _claim_problems(text: str, claims: Mapping[str, Claim], *, figures: bool) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", _FENCE.sub("", text)):
        named = _CLAIM.findall(paragraph)
        for name in named:
            if name not in claims:
                yield f"the claim {name!r} is not in claims.yaml"
            elif claims[name].status == "unsupported":
                yield f"the claim {name!r} is known not to hold; take it out"
            elif claims[name].status == "unverified" and "unverified" not in paragraph.lower():
                yield f"the claim {name!r} is unverified, and its paragraph must say so"
        figure = _FIGURE.search(paragraph)
        if figures and figure and not named:
            yield f"the figure {figure.group()!r} names no claim; add one to claims.yaml"
