"""Publishes a whole release: repos in an order in which nothing points to what is not there yet.

Items, dataset, metrics, results, model, Spaces, collection: each by the push verb that publishes it
alone, each whole or not at all, each with a manifest that names those before it by their commits.
What is done stands in the work folder, so the same command goes on after a failure or a kill; what
is not done yet may be mended before that.
"""

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .. import __version__
from ..cli import explain, run_verb
from ..errors import Echo4oError
from ..hub import NotOnHubError, RepoType, TagTakenError, resolve
from ..hub_collections import Listed, publish_collection
from ..hub_reading import download_file
from ..manifest import MANIFEST, Manifest, Pinned, Release, address, installed_packages, signer
from ..models.inspection import inspect
from ..owner import sole_owner
from ..records import RECORD_NAME, sha256_file, write_atomic
from ..rights import Rights
from .plan import Plan
from .sample import metric_names
from .stage import link_folder, stage_model, stage_twin

PUBLISHED = "published.json"
_STATE, _RELEASE = "state.json", "release.json"
_WHEEL = "echo4o-wheel"
_RUN = "run.json"


class PublishError(Echo4oError):
    """A release cannot be published, or not further."""


class Repo(NamedTuple):
    """One repo of a step."""

    type: RepoType
    id: str


class Step(NamedTuple):
    """One push: its name, the repos that it publishes in order, and how."""

    name: str
    repos: tuple[Repo, ...]
    asked: str
    """Changes when what it publishes does."""
    run: Callable[[], None]


@dataclass(kw_only=True)
class Publication:
    """One release on its way to the Hub."""

    plan: Plan
    work: Path
    """What is done, and what is being sent."""
    key: Path | None
    """Private key to sign with."""
    dry_run: bool
    say: Callable[[str], None]
    _state: dict[str, Any] = field(default_factory=dict, init=False)
    _staged: Path = field(default=Path(), init=False)

    def run(self) -> None:
        """Publish what is left; raises Echo4oError and says what is done when something fails."""
        self._check()
        with self._place() as self._staged:
            self._begin()
            release = Release(**self._state["release"], after=tuple(self._done()))
            done: list[str] = []
            for step in self._steps():
                with _named(step.name, done):
                    release = self._step(step, release)
                done.append(step.name)
            if not self.dry_run:
                with _named("collection", done):
                    slug = self._collect(release)
                self._finish(release, slug)

    def _check(self) -> None:
        """Find out before anything is sent what would stop the line half-way."""
        if self.plan.dataset is not None:
            Rights.load(self.plan.file)
        if self.key is not None:
            signer(self.key)
        if self.plan.model is not None:
            folder = self.plan.weights
            if (folder / "adapter").is_dir() or (folder / "adapter_config.json").is_file():
                raise PublishError(
                    f"{folder} holds an adapter and no whole model; make one with `echo4o model "
                    "merge`, or publish the adapter alone with `echo4o train run --push`"
                )
            inspect(folder)
        has_wheel = self.plan.metrics is not None or self.plan.release.wheel
        if (self.plan.model or self.plan.spaces) and not has_wheel:
            self.say(
                f"Spaces and endpoints will install echo4o {__version__} from PyPI; [metrics], or "
                "`wheel` in [release], give them a wheel in its place"
            )

    @contextlib.contextmanager
    def _place(self) -> Iterator[Path]:
        """Where copies are put together; a dry run leaves nothing behind."""
        if self.dry_run:
            near = self.plan.file.parent  # on the same disk, files are linked
            with tempfile.TemporaryDirectory(prefix=".echo4o-dry-run-", dir=near) as scratch:
                yield Path(scratch)
            return
        busy = f"another publication works in {self.work}; wait for it"
        with sole_owner(self.work, busy):
            yield self.work / "staged"

    def _steps(self) -> Iterator[Step]:
        """The line, read downwards; a step sees what those before it published."""
        plan, tag = self.plan, ["--tag", self.plan.release.version]
        for one in plan.items:
            words = ["items", one.task, one.repo, "--items", self._items(one.items), *tag]
            words += ["--license", one.license] if one.license else []
            asked = _fingerprint([one], plan.items_files(one))
            yield self._push(f"items of {one.task}", [("dataset", one.repo)], asked, "eval", words)
        if plan.dataset is not None:
            part = plan.dataset
            words = [part.folder, part.repo, "--rights", str(plan.file), *tag]
            stage = lambda into: link_folder(plan.path(part.folder), into)  # noqa: E731
            asked = _fingerprint([part, plan.rights], [plan.path(part.folder)])
            yield self._push("dataset", [("dataset", part.repo)], asked, "data", words, stage)
        if plan.metrics is not None:
            metrics = plan.metrics
            repos = [("dataset", f"{metrics.organisation}/{_WHEEL}")]
            repos += [("space", f"{metrics.organisation}/{name}") for name in metric_names()]
            words = ["metrics", metrics.organisation, *tag]
            words += ["--wheel", str(plan.path(metrics.wheel))] if metrics.wheel else []
            wheel = [plan.path(metrics.wheel)] if metrics.wheel else []
            yield self._push("metrics", repos, _fingerprint([metrics], wheel), "eval", words)
        if plan.results is not None:
            results = plan.results
            words = ["results", results.repo, *(str(plan.path(run)) for run in results.runs), *tag]
            words += ["--pictures"] * results.pictures
            words += ["--license", results.license] if results.license else []
            asked = _fingerprint([results], [plan.path(run) for run in results.runs])
            yield self._push("results", [("dataset", results.repo)], asked, "eval", words)
        if plan.model is not None:
            model = plan.model
            words = [model.folder, model.repo, *tag]
            # A dry run has published no items that the scores could name.
            items = "" if self.dry_run else self._at(model.items)
            stage_it = lambda into: stage_model(plan, into, items, self._requirement())  # noqa: E731
            folders = [plan.path(one) for one in (model.folder, *model.runs)]
            asked = _fingerprint([model, plan.release.wheel], folders)
            yield self._push("model", [("model", model.repo)], asked, "model", words, stage_it)
            if twin := model.authors_layout:
                stage_it = lambda into: stage_twin(plan, into, self._at(model.repo))  # noqa: E731
                words = [model.folder, twin, *tag]
                name = "model in the authors' layout"
                yield self._push(name, [("model", twin)], asked, "model", words, stage_it)
        for space in plan.spaces:
            words = [space.name, space.repo, *tag]
            for kind, repo in plan.loaded(space).items():
                words += [f"--{kind}", self._at(repo)]
            words += ["--wheel", named] if (named := self._wheel()) else []
            asked = _fingerprint([words], [])
            yield self._push(f"Space {space.repo}", [("space", space.repo)], asked, "space", words)

    def _push(
        self,
        name: str,
        repos: list[tuple[Any, str]],
        asked: str,
        noun: str,
        words: list[str],
        stage: Callable[[Path], Path] | None = None,
    ) -> Step:
        """A step that runs `echo4o NOUN push WORDS`; with `stage`, on a copy of its folder."""

        def run() -> None:
            given = [*words]
            if stage is not None:
                given[0] = str(stage(self._staged / noun))
            given += ["--dry-run"] if self.dry_run else ["--release", str(self.work / _RELEASE)]
            run_verb(noun, "push", given)

        return Step(name, tuple(Repo(kind, repo) for kind, repo in repos), asked, run)

    def _step(self, step: Step, release: Release) -> Release:
        known = {one.name: one for one in self._done()}
        pinned = [known.get(address(repo.type, repo.id)) for repo in step.repos]
        if all(pinned):
            if self._state["asked"].get(step.repos[0].id) != step.asked:
                raise PublishError(
                    f"it was published as {self.plan.release.version}, and its part of "
                    f"{self.plan.file.name} or its folders changed since; give a new `version`, or "
                    "put back what it was published with"
                )
            self._check_tags([one for one in pinned if one])
            self.say(f"[done before] {step.name}")
            return release
        self.say(f"[{step.name}]")
        if self.dry_run:
            step.run()
            return release
        release.save(self.work / _RELEASE)
        step.run()
        for repo in step.repos:
            release = release.then(self._pin(repo))
        asked = {**self._state["asked"], step.repos[0].id: step.asked}
        self._note(done=[_fields(one) for one in release.after], asked=asked)
        return release

    def _pin(self, repo: Repo) -> Pinned:
        """What the Hub holds under the release's tag."""
        commit = resolve(repo.id, repo.type, self.plan.release.version)
        manifest = download_file(repo.id, repo.type, MANIFEST, commit)
        if manifest is None:
            raise PublishError(f"{repo.type} {repo.id} has no {MANIFEST} at {commit}")
        return Pinned(id=repo.id, type=repo.type, revision=commit, manifest=sha256_file(manifest))

    def _check_tags(self, repos: list[Pinned]) -> None:
        for one in repos:
            try:
                found = resolve(one.id, one.type, self.plan.release.version)
            except NotOnHubError:
                found = "gone"
            if found != one.revision:
                raise PublishError(
                    f"the tag {self.plan.release.version} of {one.name} was set to {one.revision} "
                    f"and is now {found}; somebody changed it, so look into that first"
                )

    def _collect(self, release: Release) -> str | None:
        """Put all repos into the collection; its slug."""
        part = self.plan.collection
        if part is None:
            return None
        listed = [Listed(one.id, one.type) for one in release.after]
        listed += [Listed(paper, "paper") for paper in part.papers]
        slug = publish_collection(part.owner, part.title, listed, description=part.description)
        self.say(f"collection {slug}")
        return slug

    def _finish(self, release: Release, slug: str | None) -> None:
        value = {
            "format": 1,
            "release": release.name,
            "version": release.version,
            "repos": [_fields(one) for one in release.after],
            "collection": slug,
        }
        path = self.work / PUBLISHED
        write_atomic(path, json.dumps(value, indent=1) + "\n")
        last = release.after[-1]
        count = f"{len(release.after)} repo{'s' * (len(release.after) != 1)}"
        self.say(f"{release.name} {release.version}: {count}, listed in {path}")
        key = " --key YOUR_PUBLIC_KEY" if self.key else ""
        self.say(f"anybody checks it with: echo4o release verify {last.name}@{last.revision}{key}")

    def _begin(self) -> None:
        """Note what is published, or go on with what was begun in this folder."""
        release = {
            "name": self.plan.release.name,
            "version": self.plan.release.version,
            "key": None if self.key is None else str(self.key.resolve()),
            "kept": str((self.work / "signatures").resolve()),
        }
        if (self.work / _STATE).exists():
            try:
                self._state = dict(json.loads((self.work / _STATE).read_text()))
            except ValueError:
                raise PublishError(
                    f"{self.work / _STATE} is damaged; delete {self.work} and run again"
                ) from None
        begun = self._state.get("release", {})
        is_same = all(begun.get(name) == value for name, value in release.items())
        if not self._state.get("done"):
            # The packages of the first start: what a kill kept from being noted has the same bytes.
            packages = begun["packages"] if is_same else installed_packages()
            self._note(asked={}, release={**release, "packages": packages}, done=[])
        elif not is_same:
            raise PublishError(
                f"{self.work} holds another release, or this one begun with another key; give the "
                "same name, version and key again, or another --work"
            )

    def _items(self, given: str) -> str:
        return given if given in ("kit", "authors") else str(self.plan.path(given))

    def _at(self, repo: str) -> str:
        """A repo with its commit, when this release has published it."""
        known = {one.id: one.revision for one in self._done()}
        return f"{repo}@{known[repo]}" if repo in known else repo

    def _requirement(self) -> str:
        """What installs echo4o on an endpoint: a wheel, or this version."""
        wheel = self._wheel()
        return f"echo4o @ {wheel}" if wheel else f"echo4o=={__version__}"

    def _wheel(self) -> str | None:
        """Address and hash of the wheel that is installed elsewhere; None takes that of PyPI."""
        from huggingface_hub import hf_hub_url

        if self.plan.release.wheel:
            return self.plan.release.wheel
        for one in self._done():
            if one.type == "dataset" and one.id.endswith(f"/{_WHEEL}"):
                file = download_file(one.id, one.type, MANIFEST, one.revision)
                assert file is not None
                for name, sha256 in Manifest.from_bytes(file.read_bytes(), MANIFEST).files.items():
                    if name.endswith(".whl"):
                        at = {"repo_type": one.type, "revision": one.revision}
                        return f"{hf_hub_url(one.id, name, **at)}#sha256={sha256}"
        return None

    def _done(self) -> list[Pinned]:
        return [Pinned(**one) for one in self._state.get("done", [])]

    def _note(self, **facts: object) -> None:
        self._state |= facts
        if not self.dry_run:
            write_atomic(self.work / _STATE, json.dumps(self._state, indent=1))


def _fields(one: Pinned) -> dict[str, str]:
    return {"id": one.id, "type": one.type, "revision": one.revision, "manifest": one.manifest}


@contextlib.contextmanager
def _named(step: str, done: Sequence[str]) -> Iterator[None]:
    """Say of whatever fails inside which step it was, what is done, and what to do."""
    try:
        yield
    except Exception as error:
        said = explain(error)
        if said is None:
            raise
        remedy = "mend that and run the same command again to go on"
        if isinstance(error, TagTakenError):
            remedy = "give RELEASE.toml a new `version`"
        told = ", ".join(done) or "nothing"
        raise PublishError(
            f"the step {step!r} failed: {said.rstrip('.')}. Done: {told}; {remedy}"
        ) from error


def _fingerprint(parts: Sequence[object], places: Sequence[Path]) -> str:
    """Changes when parts of the plan do, or what the folders' records say of their files."""
    digest = hashlib.sha256(repr(parts).encode())
    for place in places:
        files = [place / name for name in (_RUN, RECORD_NAME) if (place / name).is_file()]
        for path in files[:1] or sorted(one for one in [place, *place.rglob("*")] if one.is_file()):
            digest.update(f"{path.name}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()
