"""Models are loaded one after another, and nothing is computed until the last one is there.

While weights are loaded, torch's own constructors are replaced for the whole process: what another
thread computes meanwhile comes out as tensors without values.
"""

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Loads:
    """Loads that were begun when the page was started."""

    def __init__(self) -> None:
        self._left = 0
        self._changed = threading.Condition()
        self._one = threading.Lock()

    def start(self, load: Callable[[], None]) -> None:
        """Load in a thread of its own, after those that were begun before."""
        with self._changed:
            self._left += 1
        threading.Thread(target=self._run, args=(load,), name="load", daemon=True).start()

    def here(self, load: Callable[[], None]) -> None:
        """Load in this thread; a failure is logged, as that of a thread is."""
        with self._changed:
            self._left += 1
        try:
            self._run(load)
        except Exception:
            logger.exception("a model could not be loaded")

    def wait(self) -> None:
        """Until nothing is being loaded."""
        with self._changed:
            self._changed.wait_for(lambda: not self._left)

    def _run(self, load: Callable[[], None]) -> None:
        try:
            with self._one:
                load()
        finally:
            with self._changed:
                self._left -= 1
                self._changed.notify_all()


LOADS = Loads()
