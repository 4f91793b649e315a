"""Calls to the Hub: patient with what passes, one clear sentence for what does not."""

import json
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from .errors import Echo4oError, shown_address
from .limits import retry_after

logger = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS = 6
ATTEMPTS_TO_CONNECT = 4
MOST_ATTEMPTS = 60
LONGEST_WAIT_S = 900.0
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class HubError(Echo4oError):
    """The Hub refused, failed or could not be reached."""


class NotOnHubError(HubError):
    """The repository or revision does not exist, or the token may not see it."""


class TagTakenError(HubError):
    """The tag exists and holds other content; tags are never moved."""


class VerificationError(HubError):
    """What the Hub holds is not what is in the folder."""


def patiently(what: str, action: Callable[[], T]) -> T:
    """Run an action that may be repeated; wait out overload, failures and cut connections.

    A `Retry-After` of up to 15 minutes is honoured; without one the pauses grow from 1 to 16 s.
    Attempts are counted per address that fails: a long download that gets on may go on.

    Args:
        what: the action as it follows "cannot", such as "look up model a/b".
        action: talks to the Hub; must be safe to repeat.

    Raises:
        NotOnHubError: the repo or revision does not exist.
        HubError: every other refusal, and failures that did not pass.
    """
    from huggingface_hub.errors import (
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )
    from huggingface_hub.utils import httpx

    attempt, failing = 0, ""
    for total in range(1, MOST_ATTEMPTS + 1):
        try:
            return action()
        except LocalTokenNotFoundError as error:
            raise HubError(f"cannot {what} without a token; {_LOG_IN}") from error
        except OfflineModeIsEnabled as error:
            raise HubError(f"cannot {what} in offline mode; unset HF_HUB_OFFLINE") from error
        except (OSError, RuntimeError, httpx.TransportError, json.JSONDecodeError) as error:
            reason = _trouble(error)
            if reason is None:
                raise
            where = _where(reason)
            attempt, failing = (attempt if where == failing else 0) + 1, where
            unreachable = isinstance(
                reason, httpx.ConnectError | LocalEntryNotFoundError | ConnectionError
            )
            most = ATTEMPTS_TO_CONNECT if unreachable else ATTEMPTS
            wait = _wait(reason, attempt)
            if wait is None or attempt == most or total == MOST_ATTEMPTS:
                raise _explained(what, reason) from error
            logger.warning("cannot %s yet (%s); again in %.0f s", what, _short(reason), wait)
            time.sleep(wait)
    raise AssertionError("the loop above returns or raises")


_LOG_IN = "run `hf auth login`, or set HF_TOKEN to a token with write access"


def _trouble(error: Exception) -> Exception | None:
    """The trouble with the Hub that an error tells of; None when it tells of something else."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import httpx

    known = (
        *(HfHubHTTPError, LocalEntryNotFoundError, httpx.TransportError, json.JSONDecodeError),
        ConnectionError,  # what `datasets` raises
    )
    # The LFS upload wraps the reason; a download of the wrong length is a bare OSError.
    reason = error.__cause__ if isinstance(error, RuntimeError) else error
    if isinstance(reason, known):
        return reason
    if isinstance(reason, OSError) and str(reason).startswith("Consistency check failed"):
        return reason
    return None


def _where(error: Exception) -> str:
    """What failed, to tell a standstill from trouble on the way: the address or the message."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return str(error.response.request.url)
    return _short(error)


def _wait(error: Exception, attempt: int) -> float | None:
    """Seconds until the next attempt; None when waiting does not help."""
    from huggingface_hub.errors import HfHubHTTPError

    backoff: float = 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
    if not isinstance(error, HfHubHTTPError):
        return backoff
    if error.response.status_code not in _PASSING:
        return None
    asked = retry_after(error.response.headers)
    if asked is None:
        return backoff
    return asked if asked <= LONGEST_WAIT_S else None


def _explained(what: str, error: Exception) -> HubError:
    from huggingface_hub.errors import (
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if not isinstance(error, HfHubHTTPError):
        return _unreachable(what, error)
    if isinstance(error, RevisionNotFoundError):
        return NotOnHubError(f"cannot {what}: there is no such revision; check the tag or commit")
    if isinstance(error, RepositoryNotFoundError):
        return NotOnHubError(
            f"cannot {what}: there is no such repo at {_endpoint()}, or the token may not see it; "
            "check the name and the kind of repo"
        )
    status, said = error.response.status_code, error.server_message or "no reason given"
    said = " ".join(said.split())
    remedies = {
        401: f"the Hub does not accept the token; {_LOG_IN}",
        403: f"the token may not do this ({said}); use one with write access to the namespace",
        409: f"the Hub reports a conflict ({said}); run the same command again",
        412: f"the repo changed in the meantime ({said}); run the same command again",
        429: "the Hub's rate limit is reached; run the same command again later",
        501: f"this Hub cannot do that ({said}); where it is about Xet, set HF_HUB_DISABLE_XET=1",
    }
    if status >= 500 and status != 501:
        return HubError(f"cannot {what}: the Hub failed with {status} ({said}); try again later")
    return HubError(f"cannot {what}: {remedies.get(status, f'the Hub says {status}, {said}')}")


def _unreachable(what: str, error: Exception) -> HubError:
    return HubError(
        f"cannot {what}: no usable answer from {_endpoint()} ({_short(error)}); check the network "
        "and HF_ENDPOINT, then run the same command again"
    )


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    words = shown_address(lines[0] if lines else "no details")
    return f"{type(error).__name__}: {words}"[:200]


def _endpoint() -> str:
    from huggingface_hub import constants

    return shown_address(constants.ENDPOINT)
