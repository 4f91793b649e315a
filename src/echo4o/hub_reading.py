"""Reads from the Hub: the commit behind a name, a whole repo, one file. Writes nothing there."""

from pathlib import Path
from typing import Literal, TypeAlias

from .hub_errors import patiently

RepoType: TypeAlias = Literal["model", "dataset", "space"]


def resolve(repo_id: str, repo_type: RepoType, revision: str | None = None) -> str:
    """The commit id behind a branch, tag or commit of a repo.

    Raises:
        NotOnHubError: there is no such repo or revision.
    """
    from huggingface_hub import HfApi

    info = patiently(
        f"find {repo_type} {repo_id} at {revision or 'main'}",
        lambda: HfApi().repo_info(repo_id, repo_type=repo_type, revision=revision),
    )
    return str(info.sha)


def download_folder(
    repo_id: str,
    repo_type: RepoType,
    revision: str | None = None,
    local_dir: Path | None = None,
) -> Path:
    """Download a whole revision into `local_dir` or the Hub cache; an interrupted one resumes.

    Raises:
        NotOnHubError: there is no such repo or revision.
    """
    from huggingface_hub import snapshot_download

    def download() -> str:
        return str(
            snapshot_download(repo_id, repo_type=repo_type, revision=revision, local_dir=local_dir)
        )

    return Path(patiently(f"download {repo_type} {repo_id} at {revision or 'main'}", download))


def list_files(repo_id: str, repo_type: RepoType) -> set[str] | None:
    """Return the paths on `main`; None when there is no such repo, or the token may not see it."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    def look() -> set[str] | None:
        try:
            return set(HfApi().list_repo_files(repo_id, repo_type=repo_type))
        except RepositoryNotFoundError:
            return None

    return patiently(f"list the files of {repo_type} {repo_id}", look)


def list_tree(repo_id: str, repo_type: RepoType, revision: str) -> dict[str, str | None]:
    """Every path of a revision, with the SHA-256 that the Hub names for those it keeps in LFS.

    Raises:
        NotOnHubError: there is no such repo or revision.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    listed = patiently(
        f"list the files of {repo_type} {repo_id}",
        lambda: list(
            HfApi().list_repo_tree(repo_id, repo_type=repo_type, revision=revision, recursive=True)
        ),
    )
    return {
        one.path: None if one.lfs is None else str(one.lfs.sha256)
        for one in listed
        if isinstance(one, RepoFile)
    }


def download_file(repo_id: str, repo_type: RepoType, name: str, revision: str) -> Path | None:
    """Download one file of a revision into the Hub cache; None when the repo has no such file.

    Raises:
        NotOnHubError: there is no such repo or revision.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    def download() -> str | None:
        try:
            return str(hf_hub_download(repo_id, name, repo_type=repo_type, revision=revision))
        except RemoteEntryNotFoundError:
            return None

    found = patiently(f"read {name} of {repo_type} {repo_id} at {revision}", download)
    return None if found is None else Path(found)
