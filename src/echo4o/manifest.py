"""The manifest of a release in each of its repos: every file's hash, and what it was built upon.

`release.json` names the files of its own repo and, by commit and manifest hash, every repo that was
published before it, so that the last one pins them all. `release.sig` beside it signs all files
with an offline key, in the format of the `model-signing` tool.
"""

import importlib.metadata
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_args

from .errors import Echo4oError
from .hub_reading import RepoType
from .inventory import take_inventory
from .maker import maker
from .records import RECORD_NAME, RecordError, RunRecord, sha256_bytes, sha256_file, write_atomic

if TYPE_CHECKING:
    import argparse

    from model_signing.hashing import Config
    from model_signing.signing import Config as SigningConfig

MANIFEST, SIGNATURE = "release.json", "release.sig"
FORMAT = 1
_HUBS_OWN = (".gitattributes",)
_CACHE = ".cache/huggingface"
"""Where the Hub's client keeps notes about a folder that it downloaded."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REPO_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
_VERSION = re.compile(r"[\w][\w.!+-]*")


class ManifestError(Echo4oError):
    """A manifest, or a file of a release, is missing or is not what it should be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pinned:
    """One published repo of a release."""

    id: str
    """`namespace/name`."""
    type: RepoType
    revision: str
    """Commit."""
    manifest: str
    """SHA-256 of its `release.json`."""

    def __post_init__(self) -> None:
        good = _REPO_ID.fullmatch(self.id) and self.type in ("model", "dataset", "space")
        if not (good and _COMMIT.fullmatch(self.revision) and _SHA256.fullmatch(self.manifest)):
            raise ValueError(f"a repo needs id, type, commit and manifest hash, got {self!r:.200}")

    @property
    def name(self) -> str:
        """The repo as addresses spell it: `datasets/ORG/NAME`, `spaces/...`, or `ORG/NAME`."""
        return address(self.type, self.id)


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """What every manifest of one release has in common; handed to the push verbs as a file."""

    name: str
    """Name of the release."""
    version: str
    """Tag of all its repos."""
    after: tuple[Pinned, ...] = ()
    """Repos that are published already."""
    packages: Mapping[str, str] = field(default_factory=dict)
    """Installed distributions and versions, so that a verifier can install the same."""
    made_by: str = field(default_factory=maker)
    """Which echo4o publishes it."""
    key: str | None = None
    """File of the private key that signs; None signs nothing."""
    kept: str = ""
    """Folder that keeps signatures, so that a repeated publication has the same bytes."""

    def then(self, repo: Pinned) -> "Release":
        """The release after one more repo was published."""
        return replace(self, after=(*self.after, repo))

    def save(self, path: Path) -> None:
        """Write the file that `load` reads."""
        write_atomic(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Release":
        """Read what `save` wrote.

        Raises:
            ManifestError: it is no such file.
        """
        try:
            fields = json.loads(path.read_bytes())
            return cls(**{**fields, "after": tuple(Pinned(**one) for one in fields["after"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ManifestError(
                f"{path} is no file of a release ({error}); `echo4o release publish` makes it"
            ) from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What `release.json` holds."""

    release: str
    version: str
    repo: str
    type: RepoType
    files: dict[str, str]
    """Path -> SHA-256 of every file but the manifest and its signature."""
    records: tuple[str, ...]
    """Which of the files are run records."""
    after: tuple[Pinned, ...]
    packages: dict[str, str]
    made_by: str = ""
    """Which echo4o worded its card (`maker`); empty in manifests older than that."""

    def to_bytes(self) -> bytes:
        """The file; the same facts always give the same bytes."""
        value = {"format": FORMAT, **asdict(self)}
        return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "Manifest":
        """Read what `to_bytes` wrote; nothing in it is believed before it is checked.

        Raises:
            ManifestError: it is no manifest of a format this version reads.
        """
        try:
            fields = json.loads(data)
            if fields.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            after = tuple(Pinned(**one) for one in fields["after"])
            found = cls(**{**fields, "after": after, "records": tuple(fields["records"])})
            _check(found)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ManifestError(f"{where} is no manifest of a release: {error}") from None
        return found


def address(kind: RepoType, repo: str) -> str:
    """A repo as the Hub's own addresses spell it."""
    return repo if kind == "model" else f"{kind}s/{repo}"


class Difference(NamedTuple):
    """Something that is not as it should be."""

    place: str
    """File, or the part of one."""
    found: str
    expected: str


def release_argument(parser: "argparse.ArgumentParser") -> None:
    """The option with which `release publish` hands a release to a push verb."""
    parser.add_argument(
        "--release",
        type=Path,
        metavar="FILE",
        help=f"release that this belongs to (made by `release publish`); adds {MANIFEST}",
    )


def seal(folder: Path, repo_id: str, repo_type: RepoType, release: Release) -> None:
    """Write manifest and signature into a folder that is about to be published.

    The same folder, release and key give the same bytes again.

    Raises:
        RefusedFileError: a file must not be published.
        ManifestError: the key cannot sign.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    (folder / SIGNATURE).unlink(missing_ok=True)
    files = {name: one.sha256 for name, one in take_inventory(folder, repo_id, repo_type).items()}
    manifest = Manifest(
        release=release.name,
        version=release.version,
        repo=repo_id,
        type=repo_type,
        files={name: one for name, one in files.items() if name not in _HUBS_OWN},
        records=tuple(name for name in files if _is_record(folder / name)),
        after=release.after,
        packages=dict(release.packages),
        made_by=release.made_by,
    )
    data = manifest.to_bytes()
    write_atomic(folder / MANIFEST, data)
    if release.key is not None:
        _sign(folder, Path(release.key), Path(release.kept) / f"{sha256_bytes(data)}.sig")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a downloaded repo.

    Raises:
        ManifestError: there is none, or it is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ManifestError(f"there is no {MANIFEST}; the repo is not part of a release")
    return Manifest.from_bytes(path.read_bytes(), MANIFEST)


def compare_files(folder: Path, manifest: Manifest) -> list[Difference]:
    """Every file that is missing, changed or not in the manifest."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name.startswith(f"{_CACHE}/") or name in _HUBS_OWN:
            continue
        if path.is_symlink() or not path.is_file():
            found[name] = "no regular file"
        elif name not in (MANIFEST, SIGNATURE):
            found[name] = sha256_file(path)
    wanted = manifest.files
    return [
        Difference(name, _short(found.get(name)), _short(wanted.get(name)))
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]


def compare_tree(tree: Mapping[str, str | None], manifest: Manifest) -> list[Difference]:
    """Where what the Hub lists is not what the manifest names, also files that nobody downloads.

    Args:
        tree: Path -> SHA-256 that the Hub names; None where it names none.
        manifest: Of the same commit.
    """
    ignored = {MANIFEST, SIGNATURE, *_HUBS_OWN}
    extra = [
        Difference(name, "a file", "none")
        for name in sorted(tree.keys() - ignored)
        if name not in manifest.files
    ]
    gone = [Difference(name, "none", "a file") for name in sorted(manifest.files.keys() - tree)]
    other = [
        Difference(name, _short(tree[name]), _short(wanted))
        for name, wanted in sorted(manifest.files.items())
        if tree.get(name) not in (None, wanted)
    ]
    return [*extra, *gone, *other]


def compare_records(folder: Path, manifest: Manifest) -> list[Difference]:
    """Every file whose hash in a run record beside it is another one."""
    differences = []
    listed = {name for name in manifest.files if _is_record(folder / name)}
    for name in sorted(listed ^ set(manifest.records)):
        differences.append(Difference(name, "a record" if name in listed else "no record", "-"))
    for name in sorted(listed):
        home = (folder / name).parent
        for file, sha256 in RunRecord.load(folder / name).files.items():
            path = home / file
            inside = path.resolve().is_relative_to(folder.resolve())
            actual = sha256_file(path) if inside and path.is_file() else None
            if actual != sha256:
                place = f"{name}: {file}"
                differences.append(Difference(place, _short(actual), _short(str(sha256))))
    return differences


def check_signature(folder: Path, key: Path) -> list[Difference]:
    """Whether the folder holds exactly what the owner of the key signed.

    Args:
        folder: A downloaded repo.
        key: PEM file of the public key.

    Raises:
        ManifestError: the key cannot be read.
    """
    from model_signing import verifying

    if not (folder / SIGNATURE).is_file():
        return [Difference(SIGNATURE, "no signature", "a signature by the given key")]
    try:
        check = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except (OSError, ValueError) as error:
        raise ManifestError(f"{key} is no public key in PEM form: {error}") from None
    try:
        check.set_hashing_config(_hashing()).verify(folder, folder / SIGNATURE)
    except Exception as error:  # whatever a hostile signature file makes the library raise
        said = " ".join(str(error).split()) or type(error).__name__
        return [Difference(SIGNATURE, said[:300], "a signature of these files by the given key")]
    return []


def installed_packages(extras: Sequence[str] = ("all",)) -> dict[str, str]:
    """What echo4o needs here, directly or not, with the public part of each version.

    Nothing else that is installed is told: a manifest is public.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, str] = {}
    waiting, seen = [("echo4o", tuple(extras))], set[tuple[str, tuple[str, ...]]]()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found[name] = distribution.version.partition("+")[0]
        for text in distribution.requires or ():
            need = Requirement(text)
            told = need.marker is None or any(
                need.marker.evaluate({"extra": extra}) for extra in ("", *wanted)
            )
            if told:
                waiting.append((canonicalize_name(need.name), tuple(sorted(need.extras))))
    found.pop("echo4o", None)
    return dict(sorted(found.items()))


def _check(found: Manifest) -> None:
    texts = (found.release, found.version, found.repo, found.type, found.made_by, *found.records)
    pairs = {**found.files, **found.packages}
    if not all(isinstance(one, str) for one in (*texts, *pairs, *pairs.values())):
        raise ValueError("a value is no text")
    if not _REPO_ID.fullmatch(found.repo) or found.type not in get_args(RepoType):
        raise ValueError("its repo is none")
    if not all(_SHA256.fullmatch(one) for one in found.files.values()):
        raise ValueError("a hash of a file is none")
    if not all(_VERSION.fullmatch(one) for pair in found.packages.items() for one in pair):
        raise ValueError("a package or its version is none")


def _is_record(path: Path) -> bool:
    if path.name != RECORD_NAME:
        return False
    try:
        RunRecord.load(path)
    except (RecordError, TypeError):
        return False
    return True


def _hashing() -> "Config":
    from model_signing import hashing

    names = [SIGNATURE, _CACHE]
    return hashing.Config().set_ignored_paths(paths=names, ignore_git_paths=True)


def _sign(folder: Path, key: Path, kept: Path) -> None:
    """Sign, once: these signatures differ each time, and a repeated publication must not."""
    if not kept.is_file():
        aside = kept.with_suffix(".tmp")
        kept.parent.mkdir(parents=True, exist_ok=True)
        signer(key).set_hashing_config(_hashing()).sign(folder, aside)
        aside.replace(kept)
    shutil.copyfile(kept, folder / SIGNATURE)


def signer(key: Path) -> "SigningConfig":
    """What signs with a private key; raises ManifestError for a file without one."""
    from model_signing import signing

    try:
        return signing.Config().use_elliptic_key_signer(private_key=key)
    except (OSError, ValueError, TypeError):
        raise ManifestError(
            f"{key} is no private key to sign with; make one with `openssl ecparam -name "
            "prime256v1 -genkey -noout`, without a password"
        ) from None


def _short(sha256: str | None) -> str:
    return "missing" if sha256 is None else sha256[:16] if _SHA256.fullmatch(sha256) else sha256


def pins(value: object) -> Iterator[Pinned]:
    """The repos in a decoded list of a release.

    Raises:
        ManifestError: it is no such list.
    """
    try:
        for one in cast(list[dict[str, Any]], cast(dict[str, Any], value)["repos"]):
            yield Pinned(**one)
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"this is no list of a release's repos: {error}") from None
