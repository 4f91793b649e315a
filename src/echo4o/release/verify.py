"""Checks a release as a stranger would: what it holds, whether it can be used, what its card says.

Trust begins with what the caller gives: commit ids, the list that `publish` wrote, or a public key.
From the last repo the manifests lead to all others, by commit and hash.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

from ..errors import Echo4oError
from ..hub_collections import read_collection
from ..hub_errors import NotOnHubError
from ..hub_reading import RepoType, download_file, download_folder, list_tree, resolve
from ..manifest import (
    MANIFEST,
    Difference,
    Manifest,
    ManifestError,
    address,
    check_signature,
    compare_files,
    compare_records,
    compare_tree,
    pins,
    read_manifest,
)
from ..records import sha256_bytes, sha256_file
from ..schema import DATASET_NAME
from . import uses
from .harm import harmful_files
from .metric_uses import Metric, check_metrics, is_metric
from .model_uses import check_model, check_pictures, check_twin
from .table import Table

_TARGET = re.compile(r"(?:(datasets|spaces|models)/)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
ROWS, PICTURES = 8, 3
"""Rows of each split that are decoded, pictures of each run that are made again."""
FULL_ROWS, FULL_PICTURES = 200, 12


class Target(NamedTuple):
    """A repo that the caller named."""

    type: RepoType
    id: str
    revision: str | None
    manifest: str | None = None


class Fetched(NamedTuple):
    """A repo on this disk, as the Hub served it."""

    target: Target
    folder: Path
    manifest: Manifest
    commit: str
    is_whole: bool
    """Whether every file is what the manifest says."""

    @property
    def name(self) -> str:
        """The repo as addresses spell it."""
        return address(self.target.type, self.target.id)


def read_targets(given: Sequence[str]) -> tuple[list[Target], str | None]:
    """What to verify, from addresses or files, and its collection.

    A file is the list that `publish` wrote, or the `release.json` of a repo, which by its own hash
    pins that repo and by its contents all that were published before.

    Raises:
        Echo4oError: one is neither.
    """
    targets, collection = [], None
    for text in given:
        path = Path(text)
        if path.is_file():
            data = path.read_bytes()
            try:
                value = json.loads(data)
            except (ValueError, RecursionError) as error:
                raise Echo4oError(f"{path} is no list of a release: {error}") from None
            if isinstance(value, dict) and "files" in value:
                own = Manifest.from_bytes(data, str(path))
                targets.append(Target(own.type, own.repo, own.version, sha256_bytes(data)))
                continue
            targets += [Target(one.type, one.id, one.revision, one.manifest) for one in pins(value)]
            collection = value.get("collection")
            if not isinstance(collection, str | None):
                raise Echo4oError(f"{path} is no list of a release: `collection` is {collection!r}")
            continue
        found = _TARGET.fullmatch(text)
        if found is None:
            raise Echo4oError(
                f"{text!r} is no file and no repo; write datasets/ORG/NAME@COMMIT, "
                "spaces/ORG/NAME@COMMIT or ORG/NAME@COMMIT"
            )
        kind = cast(RepoType, (found[1] or "models").removesuffix("s"))
        targets.append(Target(kind, found[2], found[3]))
    return targets, collection


@dataclass(kw_only=True)
class Verification:
    """One verification in its folder."""

    targets: Sequence[Target]
    out: Path
    """Where the repos are downloaded to."""
    key: Path | None
    """Public key."""
    full: bool
    collection: str | None
    say: Callable[[str], None]
    table: Table = field(default_factory=Table)
    loose: list[str] = field(default_factory=list)
    """Repos that neither a key nor a commit of the caller holds to what they were."""

    def run(self) -> Table:
        """Check everything; what is wrong stands in the table."""
        fetched = list(self._fetch_all())
        self.loose = [] if self.key is not None else list(_loose(self.targets, fetched))
        self._check_one_release(fetched)
        self._check_uses([one for one in fetched if one.is_whole])
        if self.collection is not None:
            self._check_collection(fetched)
        return self.table

    def packages(self) -> dict[str, str]:
        """The versions that the release was made with."""
        for one in self.targets:
            file = download_file(one.id, one.type, MANIFEST, _released(one))
            if file is not None:
                return Manifest.from_bytes(file.read_bytes(), MANIFEST).packages
        raise ManifestError(f"none of the repos has a {MANIFEST}; they are no release")

    def _fetch_all(self) -> Iterator[Fetched]:
        waiting, seen = list(self.targets), dict[tuple[str, str], Target]()
        while waiting:
            target = waiting.pop(0)
            known = seen.get((target.type, target.id))
            if known is not None:
                where = address(target.type, target.id)
                for name in ("revision", "manifest"):
                    said, before = getattr(target, name), getattr(known, name)
                    if said and before and said != before:
                        self.table.bad(where, f"{name} as other repos name it", said, before)
                continue
            seen[target.type, target.id] = target
            fetched = self._fetch(target)
            if fetched is None:
                continue
            waiting += [
                Target(one.type, one.id, one.revision, one.manifest)
                for one in fetched.manifest.after
            ]
            yield fetched

    def _fetch(self, target: Target) -> Fetched | None:
        """Download a repo and hold its files against manifest, pins and signature."""
        where = address(target.type, target.id)
        self.say(f"[fetch] {where}")
        try:
            commit = _released(target)
            # One folder for each commit: nothing of another version lies there, and it resumes.
            folder = self.out / f"{where.replace('/', '--')}--{commit[:12]}"
            download_folder(target.id, target.type, commit, folder)
        except (NotOnHubError, ManifestError) as error:
            self.table.bad(where, "fetch", str(error), target.revision or "the repo")
            return None
        if target.revision is not None and _COMMIT.fullmatch(target.revision):
            self.table.add(where, "commit", commit, target.revision)
        manifest = check_repo(folder, target, self.key, self.table)
        if manifest is None:
            return None
        listed = compare_tree(list_tree(target.id, target.type, commit), manifest)
        self.table.differ(where, "listed by the Hub", listed, fine="the same files")
        try:
            tagged = resolve(target.id, target.type, manifest.version)
        except NotOnHubError:
            tagged = "no such tag"
        self.table.add(where, f"tag {manifest.version}", tagged, commit)
        is_whole = not any(row.where == where for row in self.table.bad_rows)
        return Fetched(target, folder, manifest, commit, is_whole)

    def _check_one_release(self, fetched: Sequence[Fetched]) -> None:
        """Repos that are each as their manifest says need not belong together."""
        named = [(one.manifest.release, one.manifest.version) for one in fetched]
        for one, name in zip(fetched, named, strict=True):
            if name != named[0]:
                self.table.bad(one.name, "release", " ".join(name), " ".join(named[0]))

    def _check_uses(self, fetched: Sequence[Fetched]) -> None:
        rows, most = (FULL_ROWS, FULL_PICTURES) if self.full else (ROWS, PICTURES)
        runs: list[dict[str, Any]] = []
        results: Path | None = None
        for one in fetched:
            if one.target.type == "dataset":
                self.say(f"[read] {one.name}")
                made_by = one.manifest.made_by
                with self._guarded(one.name):
                    if (one.folder / "runs").is_dir():
                        results = one.folder
                        runs += uses.check_results(
                            one.folder, one.name, self.table, made_by=made_by
                        )
                    elif (one.folder / "items.jsonl").is_file():
                        uses.check_items(one.folder, one.name, self.table)
                    elif (one.folder / "statistics.json").is_file():
                        uses.check_dataset(
                            one.folder, one.name, self.table, rows=rows, made_by=made_by
                        )
        self._check_models([one for one in fetched if one.target.type == "model"], results, runs)
        spaces = [one for one in fetched if one.target.type == "space"]
        for one in spaces:
            from .demo import check_space

            self.say(f"[start] {one.name}")
            known = {
                f"{other.target.id}@{_commit_of(one.manifest, other)}": other.folder
                for other in fetched
            }
            with self._guarded(one.name):
                check_space(one.folder, one.name, known, self.out, self.table)
        if self.full and results is not None:
            from .rejudge import check_judge

            self.say("[judge] a sample again")
            with self._guarded("judge"):
                check_judge(results, f"judge of {DATASET_NAME}", self.out, self.table)
        metrics = [
            Metric(one.name, f"{one.target.id}@{one.commit}", one.folder)
            for one in spaces
            if is_metric(one.folder, one.target.id)
        ]
        if metrics:
            self.say(f"[metrics] {len(metrics)}")
            with self._guarded("metrics"):
                check_metrics(metrics, results, self.out, self.table, judged=self.full)

    @contextlib.contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        """What a repo makes a check stumble over is a row of the table, not the end of it."""
        try:
            yield
        except Exception as error:
            self.table.bad(name, "use", uses.sentence(error), "something that can be used")

    def _check_models(
        self, models: Sequence[Fetched], results: Path | None, runs: Sequence[dict[str, Any]]
    ) -> None:
        """The model itself comes first, then the same in the authors' layout."""
        most = FULL_PICTURES if self.full else PICTURES
        pipe = None
        for one in sorted(models, key=_is_twin):
            self.say(f"[load] {one.name}")
            made_by, table = one.manifest.made_by, self.table
            with self._guarded(one.name):
                uses.check_model_card(one.folder, one.name, one.target.id, table, made_by=made_by)
                if _is_twin(one) and pipe is not None:
                    check_twin(one.folder, one.name, pipe, table)
                    continue
                pipe = check_model(one.folder, one.name, table)
                scored = uses.check_scores(one.folder, one.name, runs, table, made_by=made_by)
                if pipe is not None and results is not None and scored:
                    self.say(f"[paint] {one.name}")
                    check_pictures(pipe, results, scored, one.name, table, most=most)

    def _check_collection(self, fetched: Sequence[Fetched]) -> None:
        assert self.collection is not None
        held = read_collection(self.collection)
        missing = [one.name for one in fetched if (one.target.type, one.target.id) not in held]
        self.table.add(f"collection {self.collection}", "missing items", missing, [])


def check_repo(folder: Path, target: Target, key: Path | None, table: Table) -> Manifest | None:
    """Everything that the files of one repo can tell; None when there is no manifest.

    Args:
        folder: The repo as it was served.
        target: What it must be.
        key: Public key of who signed it, if known.
        table: Gets the rows.
    """
    where = address(target.type, target.id)
    if key is not None:
        table.differ(where, "signature", check_signature(folder, key), fine="by the given key")
    try:
        manifest = read_manifest(folder)
    except ManifestError as error:
        table.bad(where, MANIFEST, str(error), "a manifest")
        return None
    if target.manifest is not None:
        table.add(where, f"{MANIFEST} sha256", sha256_file(folder / MANIFEST), target.manifest)
    table.add(where, f"{MANIFEST} names", address(manifest.type, manifest.repo), where)
    files = compare_files(folder, manifest)
    table.differ(
        where, "files", files, fine=f"{_count(manifest.files, 'file')}, every sha256 as listed"
    )
    try:
        records = compare_records(folder, manifest)
    except Echo4oError as error:
        table.bad(where, "records", str(error), "records")
        return manifest
    table.differ(where, "records", records, fine=_count(manifest.records, "record"))
    harmful = [Difference(name, why, "data") for name, why in harmful_files(folder)]
    table.differ(where, "code in data files", harmful, fine="none")
    return manifest


def _released(target: Target) -> str:
    """The commit to look at: the given one, else that of the newest release on main.

    What is on main after a release, such as scores that others sent in, is not part of it.

    Raises:
        NotOnHubError: there is no such repo or revision.
    """
    commit = resolve(target.id, target.type, target.revision)
    file = download_file(target.id, target.type, MANIFEST, commit)
    if target.revision is not None or file is None:
        return commit
    version = Manifest.from_bytes(file.read_bytes(), MANIFEST).version
    return resolve(target.id, target.type, version)


def _is_twin(one: Fetched) -> bool:
    """Whether it is a model in the authors' layout."""
    return (one.folder / "ema.safetensors").is_file()


def _count(things: Sized, name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def _loose(targets: Sequence[Target], fetched: Sequence[Fetched]) -> Iterator[str]:
    """Repos that no commit or manifest hash of the caller leads to."""
    after = {one.name: [other.name for other in one.manifest.after] for one in fetched}
    waiting = [address(one.type, one.id) for one in targets if _is_pinned(one)]
    held = set[str]()
    while waiting:
        name = waiting.pop()
        if name not in held:
            held.add(name)
            waiting += after.get(name, [])
    yield from (one.name for one in fetched if one.name not in held)


def _is_pinned(target: Target) -> bool:
    return target.manifest is not None or bool(_COMMIT.fullmatch(target.revision or ""))


def _commit_of(manifest: Manifest, other: Fetched) -> str:
    """The commit under which a manifest names another repo."""
    for one in manifest.after:
        if (one.type, one.id) == (other.target.type, other.target.id):
            return one.revision
    return "not named"
