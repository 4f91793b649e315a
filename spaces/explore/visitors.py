"""What a visitor is told of a refusal or a failure: one sentence, nothing of the server."""

import itertools
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Generic, ParamSpec, TypeVar

import gradio as gr
from refusals import Refusal

logger = logging.getLogger(__name__)
MAX_VISITORS = 4_096
P = ParamSpec("P")
R = TypeVar("R")
L = TypeVar("L")
Changed = dict[gr.components.Component, object]


def for_visitors(function: Callable[P, R]) -> Callable[P, R]:
    """Turn every refusal and failure into one sentence that names nothing of the server."""

    @wraps(function)
    def safe(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise _told(error) from None

    return safe


def guarded(
    last: Changed,
) -> Callable[[Callable[P, Iterator[Changed]]], Callable[P, Iterator[Changed]]]:
    """The same for a generator of changes, which ends with `last`, a change of nothing.

    Gradio sends the last change again when a generator ends; by then a newer one may be shown.
    """

    def wrap(function: Callable[P, Iterator[Changed]]) -> Callable[P, Iterator[Changed]]:
        @wraps(function)
        def safe(*args: P.args, **kwargs: P.kwargs) -> Iterator[Changed]:
            try:
                yield from function(*args, **kwargs)
                yield last
            except Exception as error:
                raise _told(error) from None

        return safe

    return wrap


class Turns(Generic[L]):
    """What each visitor asked for last in each tab: what an older request still shows is late."""

    def __init__(self) -> None:
        self._newest: OrderedDict[tuple[str, str], tuple[int, L]] = OrderedDict()
        self._numbers = itertools.count()

    def newest(
        self, visitor: str | None, tab: str, link: L, updates: Iterator[Changed]
    ) -> Iterator[Changed]:
        """The updates that show `link`, until the same visitor asks for another in this tab."""
        name, turn = (visitor or "", tab), (next(self._numbers), link)
        self._newest[name] = turn
        self._newest.move_to_end(name)
        while len(self._newest) > MAX_VISITORS:
            self._newest.popitem(last=False)
        for update in updates:
            if self._newest.get(name, turn) != turn:
                return
            yield update

    def last(self, visitor: str | None, tab: str) -> L | None:
        """The link that was asked for last."""
        turn = self._newest.get((visitor or "", tab))
        return turn[1] if turn else None


def _told(error: Exception) -> gr.Error:
    """Data is foreign and may fail in any way; the log has it, the visitor a sentence."""
    if isinstance(error, Refusal):
        return gr.Error(str(error), title="Not possible", print_exception=False)
    logger.error("a request failed", exc_info=error)
    sentence = "Something failed on our side; please try again."
    return gr.Error(sentence, title="Sorry", print_exception=False)
