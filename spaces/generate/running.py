"""The way of a request through the page: start, previews, result, stop - the same on every tab."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import checks
import gradio as gr
import limits
import look
from checks import Refusal
from jobs import Desk, Order, Progress, Result, Wish, in_words
from restore import Values, link
from widgets import Buttons, Results

MOST_REMEMBERED = 48
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
ON_MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, **PRIVATE}
Visit = list[tuple[str, str, dict[str, Any]]]
"""What one visitor made: path, caption and settings, the latest first."""


def on_make(
    desk: Desk,
    triggers: Sequence[Callable[..., Any]],
    wish: Callable[..., Wish],
    inputs: Sequence[gr.components.Component],
    buttons: Buttons,
    results: Results,
    visit: gr.State,
) -> gr.events.Dependency:
    """Run `wish(*inputs)` when triggered; the stop button ends it."""

    def run(request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        past: Visit = values[-1]
        same = gr.skip()
        try:
            with in_words():
                order = desk.order(wish(*values[:-1]), limits.visitor(request))
                plan = _plan(desk, "", writing=True) if order.job.settings.think else same
                yield same, same, plan, same, same, same, same
                for update in desk.make(order):
                    yield _shown(desk, order, update, past)
        except Refusal as refusal:
            words = str(refusal)
            yield look.failed(words), same, same, same, same, look.alert(words), same

    begun = gr.on(
        triggers,
        lambda: (
            gr.update(value=look.waiting(), visible=True),
            gr.update(visible=False),
            gr.update(visible=False),
            gr.update(visible=True),
            "",
        ),
        outputs=[results.stage, results.gallery, buttons.start, buttons.stop, buttons.alert],
        queue=False,
        scroll_to_output=True,
        trigger_mode="once",
        **PRIVATE,
    )
    work = begun.then(
        run,
        [*inputs, visit],
        [
            results.stage,
            results.gallery,
            results.plan,
            results.note,
            results.shown,
            buttons.alert,
            visit,
        ],
        **ON_MODEL,
    )
    places = [results.stage, results.gallery, buttons.start, buttons.stop]
    done = work.then(_rest, results.shown, places, queue=False, **PRIVATE)
    buttons.stop.click(
        lambda pictures: (*_rest(pictures, stopped=True), look.alert("Stopped.")),
        results.shown,
        [*places, buttons.alert],
        cancels=[work],
        queue=False,
        **PRIVATE,
    )
    return done


def _rest(pictures: list[tuple[str, str]], *, stopped: bool = False) -> tuple[Any, ...]:
    """Nobody works any more: show the pictures, if there are any."""
    stage = gr.update(visible=not pictures)
    if stopped:
        stage = gr.update(
            visible=not pictures,
            value=look.notice("Stopped", "Nothing was kept; start again whenever you like."),
        )
    return (
        stage,
        gr.update(visible=bool(pictures)),
        gr.update(visible=True),
        gr.update(visible=False),
    )


def _shown(desk: Desk, order: Order, update: Progress | Result, past: Visit) -> tuple[Any, ...]:
    same = gr.skip()
    thinks = order.job.settings.think
    if isinstance(update, Progress):
        plan = _plan(desk, update.thought, writing=update.share == 0) if thinks else same
        return look.working(update), same, plan, same, same, same, same
    plan = _plan(desk, update.thought, writing=False) if thinks else same
    if not update.files:
        words = "The check of contents kept the picture back; try another prompt."
        return look.failed(words), same, plan, "", [], look.alert(words), same
    pictures = [(file.path, look.caption(file)) for file in update.files]
    entries = [
        (file.path, look.caption(file), values_of(desk, order, file.seed)._asdict())
        for file in reversed(update.files)
    ]
    first = values_of(desk, order, update.files[0].seed)._replace(number=len(order.job.seeds))
    note = look.note(
        update, order.job.settings.width, order.job.settings.height, described(first), link(first)
    )
    remembered = [*entries, *past][:MOST_REMEMBERED]
    return same, pictures, plan, note, pictures, "", remembered


def _plan(desk: Desk, words: str, *, writing: bool) -> str:
    return look.thought(words, writing=writing, is_tiny=desk.engine.is_tiny)


def values_of(desk: Desk, order: Order, seed: int) -> Values:
    """The widgets' values that make one picture of an order again."""
    settings, engine = order.job.settings, desk.engine
    size = (settings.width, settings.height)
    aspects = (
        name
        for name, proportion in checks.ASPECTS.items()
        if checks.size(proportion, engine.longest, engine.unit) == size
    )
    return Values(
        prompt=order.job.prompt,
        aspect=next(aspects, checks.AS_REFERENCE),
        seed=seed,
        quality=checks.FAST if settings.fast else checks.BEST,
        steps=settings.steps,
        guidance=settings.guidance,
        think=settings.think,
    )


def described(values: Values) -> str:
    """Settings in words."""
    plan = ", with a plan" if values.think else ""
    return f"{values.quality}, {values.steps} steps, guidance {values.guidance:g}{plan}"
