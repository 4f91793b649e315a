"""Errors that a user can understand and act on; the command line prints them as one sentence."""

import re


class Echo4oError(Exception):
    """Something the user can fix: says what is wrong, the value that was found, what to do."""


class MissingExtraError(Echo4oError):
    """An optional dependency is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f'{feature} needs an extra that is not installed; run: pip install "echo4o[{extra}]"'
        )


def printable(text: str) -> str:
    """Foreign text as one line: what cannot be printed is a space."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


def shown_address(url: object) -> str:
    """A URL, alone or in a text, as it may be shown or logged.

    Without name and password before the host, and without the query: that of an upload is signed.
    """
    return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]*", r"\1", re.sub(r"//[^/]*@", "//", str(url)))
