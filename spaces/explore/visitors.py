"""What a visitor is told of a refusal or a failure: one sentence, nothing of the server."""

import logging
from collections.abc import Callable, Iterator
from functools import wraps
from typing import ParamSpec, TypeVar

import gradio as gr
from refusals import Refusal

logger = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")


def for_visitors(function: Callable[P, R]) -> Callable[P, R]:
    """Turn every refusal and failure into one sentence that names nothing of the server."""

    @wraps(function)
    def safe(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise _told(error) from None

    return safe


def guarded(function: Callable[P, Iterator[R]]) -> Callable[P, Iterator[R]]:
    """The same for a generator."""

    @wraps(function)
    def safe(*args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        try:
            yield from function(*args, **kwargs)
        except Exception as error:
            raise _told(error) from None

    return safe


def _told(error: Exception) -> gr.Error:
    """Data is foreign and may fail in any way; the log has it, the visitor a sentence."""
    if isinstance(error, Refusal):
        return gr.Error(str(error), title="Not possible", print_exception=False)
    logger.error("a request failed", exc_info=error)
    sentence = "Something failed on our side; please try again."
    return gr.Error(sentence, title="Sorry", print_exception=False)
