"""One quick rehearsal for all tests of the release verbs."""

import pytest
from release_lab import rehearse


@pytest.fixture(scope="session")
def rehearsed(tmp_path_factory):
    """The folder of one quick rehearsal."""
    out = tmp_path_factory.mktemp("rehearsal") / "run"
    done = rehearse(out)
    assert done.returncode == 0, done.stderr[-4000:]
    return out
