"""The only module that writes to the Hub: draft pull request, upload, verify, merge, tag.

A reader of `main` sees the old content or the new, never a mixture. Every step can be repeated, so
a run that was killed is finished by running it again. Imports `huggingface_hub` when first used.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .hub_errors import HubError, NotOnHubError, TagTakenError, VerificationError, patiently
from .hub_reading import RepoType, download_folder, resolve
from .inventory import (
    Changes,
    LocalFile,
    RefusedFileError,
    compare,
    digest,
    space_sdk,
    take_inventory,
)

if TYPE_CHECKING:
    from huggingface_hub import DiscussionWithDetails

__all__ = [
    "KEPT",
    "HubError",
    "NotOnHubError",
    "Published",
    "RefusedFileError",
    "RepoType",
    "TagTakenError",
    "VerificationError",
    "download_folder",
    "publish_folder",
    "resolve",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")

KEPT = (".gitattributes", ".eval_results/*")
"""Files of a repo that are not ours to delete: the Hub's own and results sent in by others."""

_PART_FILES = 100
_PART_BYTES = 2 << 30
_MARKER = "Published by echo4o: content {content} on {base}."


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What a publication did."""

    repo_id: str
    """Repository, `namespace/name`."""
    revision: str | None
    """Commit that holds the content; None after a dry run that would change something."""
    tag: str | None
    """Tag at that commit."""
    files: tuple[str, ...]
    """Every file of the folder, by path in the repo."""
    uploaded_bytes: int
    """Size of the files that were sent, or after a dry run would be."""
    pull_request: int | None
    """Number of the merged, or offered, pull request; None when nothing had to change."""


def publish_folder(
    folder: Path,
    repo_id: str,
    *,
    repo_type: RepoType,
    message: str,
    tag: str | None = None,
    private: bool = False,
    dry_run: bool = False,
    check: Callable[[str], None] | None = None,
    keep: Sequence[str] = KEPT,
    merge: bool = True,
) -> Published:
    """Make a repo hold exactly what a folder holds, in one visible step, and tag it.

    Run again after a failure it goes on where it was; with unchanged content it makes no commit.

    Args:
        folder: becomes the root of the repo.
        repo_id: `namespace/name`; created when it does not exist.
        repo_type: kind of repo; for a Space the folder's README.md names the sdk.
        message: title of the pull request and of the commit.
        tag: immutable name for the result; an existing tag must hold the same content.
        private: create the repo as a private one; an existing public repo is then refused.
        dry_run: only compare and report; nothing is written.
        check: called with the commit id of the complete upload before it is merged; an exception
            leaves `main` untouched and the draft open.
        keep: patterns of remote files that stay although the folder lacks them.
        merge: False leaves the verified pull request open, for the repo's owners to decide on;
            the repo must exist and `revision` is then the pull request's own commit.

    Raises:
        RefusedFileError: a file must not be published.
        TagTakenError: the tag exists and holds other content.
        VerificationError: the Hub holds something else than was sent.
        HubError: everything else that the Hub or the network did.
    """
    _check_names(repo_id, tag)
    files = take_inventory(folder, repo_id, repo_type)
    repo = _Publication(repo_id, repo_type, files, tuple(keep))
    # 1. The repo, and whether the tag says that all is done.
    if not repo.exists(private):
        if not merge:
            raise NotOnHubError(f"there is no {repo_type} {repo_id} to open a pull request on")
        if dry_run:
            return repo.report(None, None, Changes(send=tuple(files)))
        repo.create(folder, private)
    tagged = repo.tagged(tag) if tag else None
    if tagged:
        return repo.report(tagged, tag, Changes(send=()))
    # 2. What has to change.
    base = repo.commit("main")
    changes = repo.changes(base)
    if dry_run:
        return repo.report(None if changes else base, None, changes)
    # 3. Upload where no reader looks, verify, and show it all at once.
    number, revision = None, base
    if changes:
        number = repo.pull_request(base, message)
        changes = repo.upload(number, message)
        if check is not None:
            check(repo.commit(f"refs/pr/{number}"))
        revision = repo.merge(number, base) if merge else repo.offer(number)
    # 4. Give it its name.
    if tag:
        repo.tag(tag, revision)
    return repo.report(revision, tag, changes, number)


def _check_names(repo_id: str, tag: str | None) -> None:
    """Refuse names that no Hub takes, before anything is sent."""
    if not re.fullmatch(r"[^/\s]+/[^/\s]+", repo_id):
        raise HubError(f"{repo_id!r} is no name of a repo; give ORG/NAME")
    if tag is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", tag):
        raise HubError(f"{tag!r} is no name of a tag; give letters, digits and . _ + - such as v1")


class _Publication:
    """The steps of `publish_folder`; each may be repeated."""

    def __init__(
        self,
        repo_id: str,
        repo_type: RepoType,
        files: Mapping[str, LocalFile],
        keep: tuple[str, ...],
    ) -> None:
        from huggingface_hub import HfApi

        self.repo_id, self.repo_type, self.files, self.keep = repo_id, repo_type, files, keep
        self.api = HfApi()

    def call(self, what: str, action: Callable[[], T]) -> T:
        return patiently(f"{what} {self.repo_type} {self.repo_id}", action)

    def exists(self, private: bool) -> bool:
        """Whether the repo is there; refuses a public one that was to be private."""
        from huggingface_hub.errors import RepositoryNotFoundError

        def look() -> bool | None:
            try:
                return bool(self.api.repo_info(self.repo_id, repo_type=self.repo_type).private)
            except RepositoryNotFoundError:
                return None

        hidden = self.call("look up", look)
        if private and hidden is False:
            raise HubError(
                f"{self.repo_id} is public and was to be private; make it private in its settings "
                "on the Hub, or publish it as public"
            )
        return hidden is not None

    def create(self, folder: Path, private: bool) -> None:
        sdk = space_sdk(folder) if self.repo_type == "space" else None
        self.call(
            "create",
            lambda: self.api.create_repo(
                self.repo_id,
                repo_type=self.repo_type,
                private=private,
                space_sdk=sdk,
                exist_ok=True,
            ),
        )

    def commit(self, revision: str) -> str:
        return resolve(self.repo_id, self.repo_type, revision)

    def changes(self, commit: str) -> Changes:
        """What separates a commit from the folder."""
        from huggingface_hub.hf_api import RepoFile

        listed = self.call(
            "list the files of",
            lambda: list(
                self.api.list_repo_tree(
                    self.repo_id, repo_type=self.repo_type, revision=commit, recursive=True
                )
            ),
        )
        remote = {entry.path: entry for entry in listed if isinstance(entry, RepoFile)}
        changes = compare(self.files, remote, self.keep)
        if stuck := [name for name in changes.delete if name.startswith(".cache/")]:
            raise HubError(
                f"{self.repo_id} holds {stuck[0]}, which the Hub's client does not delete; remove "
                "it with git, and ask who put it there"
            )
        return changes

    def tagged(self, tag: str) -> str | None:
        """The commit of the tag when it holds the folder's content, None when there is no tag."""
        refs = self.call(
            "list the tags of",
            lambda: self.api.list_repo_refs(self.repo_id, repo_type=self.repo_type),
        )
        commits = [str(ref.target_commit) for ref in refs.tags if ref.name == tag]
        if not commits:
            return None
        changes = self.changes(commits[0])
        if changes:
            raise TagTakenError(
                f"{self.repo_id} has a tag {tag} with other content ({len(changes.names)} files "
                f"differ, such as {changes.names[0]}); tags are never moved, so choose a new one"
            )
        return commits[0]

    def pull_request(self, base: str, message: str) -> int:
        """The number of our open pull request with this content on this base, or of a new one."""
        content = digest(self.files)
        marker = _MARKER.format(content=content, base=base)

        def find_or_open() -> int:
            for found in self._own_pull_requests():
                said = found.events[0].content if found.events else ""
                if said == marker:
                    logger.info("going on with pull request %d of %s", found.num, self.repo_id)
                    return int(found.num)
                if said.startswith(_MARKER.partition("{")[0] + content):
                    self._close(found.num, "main has changed since; another one replaces this")
            opened = self.api.create_pull_request(
                self.repo_id, title=message, description=marker, repo_type=self.repo_type
            )
            return int(opened.num)

        return self.call("open a pull request on", find_or_open)

    def _own_pull_requests(self) -> Iterator["DiscussionWithDetails"]:
        me = self.api.whoami(cache=True)["name"]
        listed = self.api.get_repo_discussions(
            self.repo_id, repo_type=self.repo_type, author=me, discussion_type="pull_request"
        )
        for found in listed:
            if found.author == me and found.status in ("draft", "open"):
                yield self.api.get_discussion_details(
                    self.repo_id, found.num, repo_type=self.repo_type
                )

    def _close(self, number: int, comment: str) -> None:
        self.api.change_discussion_status(
            self.repo_id, number, "closed", comment=comment, repo_type=self.repo_type
        )

    def upload(self, number: int, message: str) -> Changes:
        """Send what the pull request lacks, part by part, then compare it with the folder."""
        from tqdm import tqdm

        revision = f"refs/pr/{number}"
        changes = self.changes(self.commit(revision))
        total = sum(self.files[name].size for name in changes.send)
        parts = list(self._parts(changes))
        with tqdm(
            total=total, desc=f"publish {self.repo_id}", unit="B", unit_scale=True
        ) as progress:
            for index, (send, delete) in enumerate(parts, 1):
                title = message if len(parts) == 1 else f"{message} (part {index} of {len(parts)})"
                self._send(revision, title, send, delete)
                progress.update(sum(self.files[name].size for name in send))
        self._verify(self.commit(revision), f"pull request {number}")
        return changes

    def _parts(self, changes: Changes) -> Iterator[tuple[list[str], tuple[str, ...]]]:
        part: list[str] = []
        delete = changes.delete
        for name in changes.send:
            size = sum(self.files[other].size for other in part)
            if part and (len(part) == _PART_FILES or size + self.files[name].size > _PART_BYTES):
                yield part, delete
                part, delete = [], ()
            part.append(name)
        if part or delete:
            yield part, delete

    def _send(self, revision: str, title: str, send: list[str], delete: Sequence[str]) -> None:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        def commit() -> None:
            # Anew at each attempt: the last answer may have been lost. The client itself leaves out
            # files that are there already, but not deletions.
            left = self.changes(self.commit(revision)).delete if delete else ()
            operations: list[CommitOperationAdd | CommitOperationDelete] = [
                CommitOperationDelete(name, is_folder=False) for name in delete if name in left
            ]
            for name in send:
                add = CommitOperationAdd(name, self.files[name].path)
                add.upload_info.sha256 = bytes.fromhex(self.files[name].sha256)
                operations.append(add)
            if operations:
                self.api.create_commit(
                    self.repo_id,
                    operations,
                    commit_message=title,
                    revision=revision,
                    repo_type=self.repo_type,
                )

        self.call("upload to", commit)

    def _verify(self, commit: str, where: str) -> None:
        changes = self.changes(commit)
        if changes:
            raise VerificationError(
                f"{where} of {self.repo_id} differs from the folder in {len(changes.names)} files, "
                f"such as {changes.names[0]}; run the command again when nobody else writes there"
            )

    def offer(self, number: int) -> str:
        """Make a draft ready for its reviewers; the commit that they see."""

        def offer() -> None:
            found = self.api.get_discussion_details(self.repo_id, number, repo_type=self.repo_type)
            if found.status == "draft":
                self.api.change_discussion_status(
                    self.repo_id, number, "open", repo_type=self.repo_type
                )

        self.call(f"open pull request {number} of", offer)
        return self.commit(f"refs/pr/{number}")

    def merge(self, number: int, base: str) -> str:
        """Merge the verified pull request; the commit on main, verified again."""

        def merge() -> str:
            found = self.api.get_discussion_details(self.repo_id, number, repo_type=self.repo_type)
            if found.status == "draft":
                self.api.change_discussion_status(
                    self.repo_id, number, "open", repo_type=self.repo_type
                )
            if found.status != "merged":
                if self.commit("main") != base:
                    raise VerificationError(
                        f"somebody changed main of {self.repo_id} during the upload; run the same "
                        "command again"
                    )
                self.api.merge_pull_request(self.repo_id, number, repo_type=self.repo_type)
                found = self.api.get_discussion_details(
                    self.repo_id, number, repo_type=self.repo_type
                )
            return str(found.merge_commit_oid or self.commit("main"))

        commit = self.call(f"merge pull request {number} of", merge)
        self._verify(commit, f"commit {commit}")
        return commit

    def tag(self, tag: str, commit: str) -> None:
        """Tag the commit; somebody else's tag of the same name must hold the same content."""
        self.call(
            f"tag {tag} on",
            lambda: self.api.create_tag(
                self.repo_id, tag=tag, revision=commit, repo_type=self.repo_type, exist_ok=True
            ),
        )
        if self.tagged(tag) is None:
            raise VerificationError(f"the Hub took the tag {tag} of {self.repo_id} and lost it")

    def report(
        self, revision: str | None, tag: str | None, changes: Changes, number: int | None = None
    ) -> Published:
        return Published(
            repo_id=self.repo_id,
            revision=revision,
            tag=tag,
            files=tuple(self.files),
            uploaded_bytes=sum(self.files[name].size for name in changes.send),
            pull_request=number,
        )
