"""The way of a request through the page: start, previews, result, stop - the same on every tab."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import checks
import gradio as gr
import limits
import line
import look
from checks import Refusal
from jobs import Desk, Order, Progress, Result, Wish, in_words
from line import ON_MODEL, PRIVATE, Stop, Stopped
from restore import Values, link
from widgets import Buttons, Results

MOST_REMEMBERED = 48
HIDDEN, SHOWN = gr.update(visible=False), gr.update(visible=True)
STARTED = (HIDDEN, SHOWN, gr.update(active=True))
ENDED = (SHOWN, HIDDEN, gr.update(active=False))
"""Start, stop and the clock of `Buttons`, in their two states."""
FOCUS = """() => { const look = (tries) => {
    const now = document.activeElement;
    if (now && now !== document.body) return;
    const one = [...document.querySelectorAll("button.WHICH")].find((found) => found.offsetParent);
    if (one) one.focus({preventScroll: true});
    else if (tries) setTimeout(() => look(tries - 1), 50); };
  look(20); }"""
"""Where the keyboard goes when the button that had it makes place for the other."""
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
    stop = Stop()

    def run(request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        past: Visit = values[-1]
        same = gr.skip()
        try:
            with in_words():
                order = desk.order(wish(*values[:-1]), limits.visitor(request))
                plan = _plan(desk, "", writing=True) if order.job.settings.think else same
                yield same, same, same, plan, same, same, same, same
                for update in stop.heed(request.session_hash, desk.make(order)):
                    yield _shown(desk, order, update, past)
        except Refusal as refusal:
            yield _ended(refusal)

    places = [results.rest, results.stage, results.gallery, *buttons[:3]]
    begun = gr.on(
        triggers,
        entrance(stop),
        outputs=[*places, buttons.alert],
        queue=False,
        scroll_to_output=True,
        trigger_mode="once",
        **PRIVATE,
    )
    told = [results.rest, results.stage, results.gallery, results.plan, results.note]
    told += [results.shown, buttons.alert, visit]
    work = begun.success(run, [*inputs, visit], told, **ON_MODEL)
    line.follow(buttons.clock, work, results.stage, look.waiting)
    begun.success(None, js=FOCUS.replace("WHICH", "stop"), queue=False, **PRIVATE)
    stop.listen(buttons.stop, work, _ended(Stopped()), (results.stage, look.stopping()))
    done = brought_back(begun, work, at_rest, [results.shown], places, buttons.alert)
    done.then(None, js=FOCUS.replace("WHICH", "start"), queue=False, **PRIVATE)
    return done


def brought_back(
    begun: gr.events.Dependency,
    work: gr.events.Dependency,
    back: Callable[..., tuple[Any, ...]],
    shown: Sequence[gr.State],
    places: list[gr.components.Component],
    alert: gr.HTML,
) -> gr.events.Dependency:
    """Bring a tab back to rest after its work, however that ended: nothing else may do that.

    What a second handler tells the page could come when the next work has begun.
    """
    begun.failure(lambda: look.alert(line.FULL), outputs=alert, queue=False, **PRIVATE)
    # Gradio runs no `then` after a failure; a queue can be full though its door was open.
    work.failure(
        lambda *pictures: (*back(*pictures), look.alert(line.LOST)),
        shown,
        [*places, alert],
        queue=False,
        **PRIVATE,
    )
    return work.then(back, shown, places, queue=False, **PRIVATE)


def entrance(stop: Stop) -> Callable[[gr.Request], tuple[Any, ...]]:
    """What a click does first: the stage in the place of pictures, Stop in that of the start."""
    check = line.door()

    def enter(request: gr.Request) -> tuple[Any, ...]:
        check()
        stop.forget(request.session_hash)
        return HIDDEN, gr.update(value=look.waiting(), visible=True), HIDDEN, *STARTED, ""

    return enter


def at_rest(pictures: object) -> tuple[Any, ...]:
    """Nobody works any more: show the pictures, if there are any."""
    places = (HIDDEN, HIDDEN, SHOWN) if pictures else (SHOWN, HIDDEN, HIDDEN)
    return *places, *ENDED


def _ended(refusal: Refusal) -> tuple[Any, ...]:
    """The last piece of a stream that brings no pictures."""
    words, same = str(refusal), gr.skip()
    rest = look.stopped() if isinstance(refusal, Stopped) else look.failed(words)
    return rest, same, same, same, same, same, look.alert(words), same


def _shown(desk: Desk, order: Order, update: Progress | Result, past: Visit) -> tuple[Any, ...]:
    same = gr.skip()
    thinks = order.job.settings.think
    if isinstance(update, Progress):
        plan = _plan(desk, update.thought, writing=update.share == 0) if thinks else same
        return same, look.working(update), same, plan, same, same, same, same
    plan = _plan(desk, update.thought, writing=False) if thinks else same
    if not update.files:
        words = "The check of contents kept the picture back; try another prompt."
        return look.failed(words), same, same, plan, "", [], look.alert(words), same
    pictures = [(file.path, look.caption(file, order.job.prompt)) for file in update.files]
    first = values_of(desk, order, update.files[0].seed)._replace(number=len(order.job.seeds))
    note = look.note(
        update, order.job.settings.width, order.job.settings.height, described(first), link(first)
    )
    remembered = remember(desk, order, update, past)
    return same, same, pictures, plan, note, pictures, "", remembered


def remember(desk: Desk, order: Order, result: Result, past: Visit) -> Visit:
    """A visit with the pictures of a result in front."""
    entries = [
        (
            file.path,
            look.caption(file, order.job.prompt),
            values_of(desk, order, file.seed)._asdict(),
        )
        for file in reversed(result.files)
    ]
    return [*entries, *past][:MOST_REMEMBERED]


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
