"""RELEASE.toml: what a release consists of, where it lies and what it is called on the Hub.

Paths are relative to the file. The table `[rights]` of the same file is read by `rights.py`.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from ..errors import Echo4oError
from ..models.kinds import KINDS, OURS, pipeline_class
from ..space_cli import PAINTS_WITH, SETTINGS, WHEEL, check_kind

T = TypeVar("T")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


class PlanError(Echo4oError):
    """A RELEASE.toml cannot be published."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """`[release]`."""

    name: str
    """Name of the release."""
    version: str
    """Tag that every repo gets; never moved."""
    wheel: str = ""
    """Address of the wheel of echo4o, with its hash, that Spaces and endpoints install; that of
    `[metrics]` if absent, and without either what PyPI has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemsPart:
    """`[[items]]`: the items of a benchmark."""

    task: str
    repo: str
    items: str = "kit"
    """kit, authors, or a JSONL file."""
    license: str = ""
    """Of the authors' items."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetPart:
    """`[dataset]`."""

    folder: str
    """A built dataset."""
    repo: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultsPart:
    """`[results]`."""

    repo: str
    runs: list[str]
    """Run folders; those of the released model also stand on its card."""
    pictures: bool = True
    """Store the judged pictures, which `verify` makes again."""
    license: str = ""
    """Of the authors' items, to store their texts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelPart:
    """`[model]`."""

    folder: str
    """Output of a training, or a saved model."""
    repo: str
    runs: list[str] = field(default_factory=list)
    """Run folders whose scores stand on the card."""
    items: str = ""
    """Dataset repo with the runs' items; then the Hub shows the scores, too."""
    card: dict[str, object] = field(default_factory=dict)
    """What no record knows: `license`, `limits`, `contact`, `parts`."""
    authors_layout: str = ""
    """Another repo, for the same weights in the files of the authors, which other engines read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricsPart:
    """`[metrics]`."""

    organisation: str
    wheel: str = ""
    """Wheel of echo4o; built from the checkout if absent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpacePart:
    """`[[spaces]]`."""

    name: str
    """Folder below spaces/."""
    repo: str
    model: str = ""
    """ORG/NAME[@REVISION] to load; the release's own if absent."""
    dataset: str = ""
    """The same of a dataset."""
    results: str = ""
    """The same of a results dataset."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectionPart:
    """`[collection]`."""

    owner: str
    title: str
    description: str = ""
    papers: list[str] = field(default_factory=list)
    """arXiv numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A whole RELEASE.toml."""

    file: Path
    release: Named
    items: tuple[ItemsPart, ...] = ()
    dataset: DatasetPart | None = None
    results: ResultsPart | None = None
    model: ModelPart | None = None
    metrics: MetricsPart | None = None
    spaces: tuple[SpacePart, ...] = ()
    collection: CollectionPart | None = None
    rights: Mapping[str, Any] = field(default_factory=dict)
    """As it stands there; `rights.py` reads it."""

    @classmethod
    def load(cls, file: Path) -> "Plan":
        """Read a RELEASE.toml.

        Raises:
            PlanError: there is none, or it has unknown, missing or wrong entries.
        """
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            raise PlanError(
                f"there is no {file}; releases/echo4o.toml shows what it holds"
            ) from None
        except (OSError, ValueError) as error:
            raise PlanError(f"{file} cannot be read: {error}") from None
        kinds = [one.name for one in fields(cls) if one.name != "file"]
        if strange := sorted(set(table) - set(kinds)):
            raise PlanError(f"{file}: unknown table [{strange[0]}]; known: {', '.join(kinds)}")
        if "release" not in table:
            raise PlanError(f"{file} has no table [release] with `name` and `version`")
        single = {"release": Named, "dataset": DatasetPart, "results": ResultsPart}
        single |= {"model": ModelPart, "metrics": MetricsPart, "collection": CollectionPart}
        lists = {"items": ItemsPart, "spaces": SpacePart}
        parts: dict[str, Any] = {
            name: _read(table[name], kind, f"{file}: [{name}]")
            for name, kind in single.items()
            if name in table
        }
        for name, kind in lists.items():
            given = table.get(name, [])
            if not isinstance(given, list):
                raise PlanError(f"{file}: write [[{name}]], with two brackets")
            parts[name] = tuple(_read(one, kind, f"{file}: [[{name}]]") for one in given)
        plan = cls(file=file, rights=table.get("rights", {}), **parts)
        plan._check()
        return plan

    def path(self, given: str) -> Path:
        """A path of the file, as found from here."""
        return self.file.parent / given

    def inputs(self) -> list[Path]:
        """Everything on this disk that is published."""
        named = [one.folder for one in (self.dataset, self.model) if one is not None]
        named += self.results.runs if self.results else []
        named += self.model.runs if self.model else []
        named += [self.metrics.wheel] if self.metrics and self.metrics.wheel else []
        files = [path for one in self.items for path in self.items_files(one)]
        return [*(self.path(one) for one in dict.fromkeys(named)), *files]

    def items_files(self, part: ItemsPart) -> list[Path]:
        """The file of items of one's own; none for those of the kit and the authors."""
        return [] if part.items in ("kit", "authors") else [self.path(part.items)]

    def loaded(self, space: SpacePart) -> dict[str, str]:
        """What a Space loads, by the name of its setting; empty where nobody said."""
        own = {"model": self.model, "dataset": self.dataset, "results": self.results}
        return {
            kind: getattr(space, kind) or (part.repo if (part := own[kind]) is not None else "")
            for kind in SETTINGS[space.name]
        }

    @property
    def weights(self) -> Path:
        """The folder of the model's weights: a training leaves them in an inner one."""
        assert self.model is not None
        folder = self.path(self.model.folder)
        return folder / "model" if (folder / "model/model_index.json").is_file() else folder

    def _check(self) -> None:
        repos = [("dataset", one.repo) for one in self.items]
        repos += [("space", one.repo) for one in self.spaces]
        for kind, part in (("dataset", self.dataset), ("dataset", self.results)):
            repos += [(kind, part.repo)] if part is not None else []
        if self.model is not None:
            named = (self.model.repo, self.model.authors_layout)
            repos += [("model", one) for one in named if one]
        if not repos and self.metrics is None:
            raise PlanError(f"{self.file} names nothing to publish")
        if twice := sorted({repo for _, repo in repos if repos.count((_, repo)) > 1}):
            raise PlanError(f"{self.file}: {twice[0]} is named twice; each repo holds one thing")
        runs = [Path(run).name for run in (self.model.runs if self.model else ())]
        if len(set(runs)) < len(runs):
            raise PlanError(f"{self.file}: two run folders of [model] have the same name")
        if bad := [repo for _, repo in repos if not _REPO.fullmatch(repo)]:
            raise PlanError(f"{self.file}: {bad[0]!r} is no repo; write ORG/NAME")
        if not _TAG.fullmatch(self.release.version):
            raise PlanError(
                f"{self.file}: `version` becomes a tag, of letters, digits and . _ + - such as v1; "
                f"got {self.release.version!r}"
            )
        if missing := [path for path in self.inputs() if not path.exists()]:
            raise PlanError(f"{self.file} names {missing[0]}, which is not there; make it first")
        if self.dataset is not None and not self.rights:
            raise PlanError(f"{self.file} has no table [rights]; nothing is published unsigned")
        for one in self.spaces:
            if one.name not in SETTINGS:
                known = ", ".join(SETTINGS)
                raise PlanError(f"{self.file}: there is no Space {one.name!r}; there are {known}")
            if "" in self.loaded(one).values():
                raise PlanError(f"{self.file}: say what the Space {one.repo} shall load")
        wheel = self.release.wheel
        if wheel and not (WHEEL.fullmatch(wheel) and "#sha256=" in wheel):
            raise PlanError(
                f"{self.file}: `wheel` must be the address of a wheel of echo4o with its hash, "
                f"https://HUB/PATH/echo4o-1.0-py3-none-any.whl#sha256=...; got {wheel!r}"
            )
        if self.model is not None:
            self._check_model(self.model)

    def _check_model(self, model: ModelPart) -> None:
        kind = pipeline_class(str(self.weights))
        if kind not in KINDS:
            raise PlanError(
                f"{self.file}: {self.weights} is a model of {kind}; known are {', '.join(KINDS)}"
            )
        if model.authors_layout and kind != OURS:
            raise PlanError(
                f"{self.file}: `authors_layout` is for models of {OURS}, and {self.weights} is one "
                f"of {kind}; leave it out"
            )
        for one in self.spaces:
            if one.name in PAINTS_WITH and self.loaded(one)["model"] == model.repo:
                check_kind(one.name, str(self.weights))


def _read(given: object, kind: type[T], where: str) -> T:
    """A table as the dataclass that describes it."""
    if not isinstance(given, Mapping):
        raise PlanError(f"{where} must be a table")
    known = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    if strange := sorted(set(given) - set(known)):
        raise PlanError(f"{where} has unknown `{strange[0]}`; known: {', '.join(known)}")
    hints = get_type_hints(kind)
    for name, one in known.items():
        needed = one.default is MISSING and one.default_factory is MISSING
        if needed and not given.get(name):
            raise PlanError(f"{where} has no `{name}`")
        if name in given and not _fits(given[name], hints[name]):
            raise PlanError(f"{where}: `{name}` cannot be {given[name]!r}")
    return kind(**given)


def _fits(value: object, hint: object) -> bool:
    if hint is bool:
        return isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    if hint == dict[str, object]:
        return isinstance(value, dict)
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
