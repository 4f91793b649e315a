"""What the Hub answers when it refuses; clients pick their exception class from `X-Error-Code`."""

from collections.abc import Mapping


class HubRefusal(Exception):
    """An HTTP error with the headers that the client libraries read."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str = "",
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})
        # Header values are latin-1 and one line; the body carries the full text.
        self.headers["X-Error-Message"] = (
            message.replace("\n", " ").encode("ascii", "backslashreplace").decode("ascii")
        )
        if code:
            self.headers["X-Error-Code"] = code


def repo_not_found(*, anonymous: bool) -> HubRefusal:
    """The same answer for a missing repo and for a private one of somebody else."""
    if anonymous:
        return HubRefusal(401, "Invalid username or password.", "RepoNotFound")
    return HubRefusal(404, "Repository not found", "RepoNotFound")


def revision_not_found(revision: str) -> HubRefusal:
    """No branch, tag, pull request or commit has this name."""
    return HubRefusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def entry_not_found(path: str, commit: str) -> HubRefusal:
    """The revision exists and has no such file; clients cache that by commit."""
    return HubRefusal(
        404, f"Entry not found: {path}", "EntryNotFound", headers={"X-Repo-Commit": commit}
    )


def unsupported(what: str) -> HubRefusal:
    """A call of the real Hub that the sandbox does not emulate."""
    return HubRefusal(501, f"The sandbox Hub does not support {what}.", "NotImplemented")
