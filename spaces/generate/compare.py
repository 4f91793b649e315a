"""The tab Compare: one prompt and one seed, two settings or two models, a slider between them."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import checks
import expected
import gradio as gr
import limits
import line
import look
import widgets
from checks import Refusal
from jobs import Desk, Order, Progress, Result, Wish, draw_seeds, in_words
from line import ON_MODEL, PRIVATE, Stop, Stopped
from restore import Values
from running import Visit, at_rest, brought_back, described, entrance, remember, values_of


class Side(NamedTuple):
    """How one of the two pictures is made."""

    model: gr.Dropdown
    quality: gr.Radio
    steps: gr.Slider
    guidance: gr.Slider


class Compare(NamedTuple):
    """What other parts of the page reach on this tab."""

    buttons: widgets.Buttons
    done: gr.events.Dependency


def compare(desks: dict[str, Desk], visit: gr.State) -> Compare:
    """Prompt in, two pictures out; `desks` by the name of their model."""
    with gr.Row(equal_height=False, elem_classes="desk"):
        with gr.Column(min_width=280, elem_classes="ask"):
            prompt = widgets.prompt_box(
                "Prompt", "What should both pictures show?", "compare-prompt"
            )
            buttons = widgets.buttons("Compare")
        with gr.Column(min_width=280, elem_classes="show"):
            empty = look.notice("Two pictures, one seed", "Drag the line between them to compare.")
            rest = gr.HTML(empty, padding=False, elem_id="compare-rest")
            stage = gr.HTML(look.waiting(), padding=False, visible=False, elem_id="compare-stage")
            slider = gr.ImageSlider(
                label="Left and right",
                show_label=False,
                type="filepath",
                format="png",
                height=widgets.HEIGHT,
                max_height=widgets.HEIGHT - 2,
                interactive=False,
                visible=False,
                buttons=["fullscreen"],
                elem_classes="pictures",
                elem_id="compare-pictures",
            )
            note, shown = gr.HTML("", padding=False), gr.State(())
        with gr.Column(min_width=280, elem_classes="more"):
            with gr.Row():
                aspect = widgets.raw(gr.Dropdown([*checks.ASPECTS], label="Aspect", min_width=150))
                seed = widgets.raw(gr.Number(-1, label="Seed", min_width=150))
            left = _side("Left", checks.FAST, [*desks])
            right = _side("Right", checks.BEST, [*desks])

    stop, same = Stop(), gr.skip()
    stopped = (look.stopped(), same, same, same, look.alert(str(Stopped())), same, same)

    def run(request: gr.Request, *given: Any) -> Iterator[tuple[Any, ...]]:
        try:
            with in_words():
                orders = _orders(desks, given[:-1], limits.visitor(request))
                made = []
                for place, (desk, order) in enumerate(orders):
                    for update in stop.heed(request.session_hash, desk.make(order)):
                        if isinstance(update, Result):
                            made.append(update)
                        else:
                            shown_now = look.working(_of_two(update, place))
                            yield same, shown_now, same, same, same, same, same
                yield _result(orders, made, given[-1])
        except Stopped:
            yield stopped
        except Refusal as refusal:
            yield look.failed(str(refusal)), same, None, same, look.alert(str(refusal)), (), same

    places = [rest, stage, slider, *buttons[:3]]
    begun = gr.on(
        [buttons.start.click, prompt.submit],
        entrance(stop),
        outputs=[*places, buttons.alert],
        queue=False,
        scroll_to_output=True,
        trigger_mode="once",
        **PRIVATE,
    )
    inputs = [prompt, aspect, seed, *left, *right, visit]
    told = [rest, stage, slider, note, buttons.alert, shown, visit]
    work = begun.success(run, inputs, told, **ON_MODEL)
    line.follow(buttons.clock, work, stage, look.waiting)
    stop.listen(buttons.stop, work, stopped, (stage, look.stopping()))
    done = brought_back(begun, work, at_rest, [shown], places, buttons.alert)
    watched = [aspect, *left, *right]
    label = partial(button_label, desks)
    gr.on(
        [widget.change for widget in watched],
        label,
        watched,
        buttons.start,
        queue=False,
        trigger_mode="always_last",
        **PRIVATE,
    )
    done.then(label, watched, buttons.start, queue=False, **PRIVATE)
    return Compare(buttons, done)


def button_label(desks: dict[str, Desk], aspect: object = "", *sides: Any) -> str:
    """The word on the button with the seconds of both pictures, without settings of the usual."""
    if not sides:
        first = next(iter(desks))
        sides = tuple(
            value
            for name, steps in checks.STEPS.items()
            for value in (first, name, steps, checks.GUIDANCE)
        )
    works = [
        expected.Work(desks[model].engine, aspect, 1, *how)
        for model, *how in (sides[:4], sides[4:])
        if model in desks
    ]
    return expected.label("Compare", works)


def _side(name: str, quality: str, models: list[str]) -> Side:
    with gr.Accordion(f"{name}: {quality}", open=False):
        model = gr.Dropdown(
            models, value=models[0], label="Model", visible=len(models) > 1, interactive=True
        )
        how = gr.Radio([*checks.STEPS], value=quality, label="How", elem_id=f"{name.lower()}-how")
        steps = gr.Slider(1, checks.MAX_STEPS, checks.STEPS[quality], step=1, label="Steps")
        guidance = gr.Slider(1, checks.MAX_GUIDANCE, checks.GUIDANCE, step=0.5, label="Guidance")
    how.input(lambda one: checks.STEPS.get(one, 25), how, steps, queue=False, **PRIVATE)
    return Side(*(widgets.raw(widget) for widget in (model, how, steps, guidance)))


def _orders(
    desks: dict[str, Desk], given: tuple[Any, ...], visitor: str
) -> list[tuple[Desk, Order]]:
    prompt, aspect, seed, *sides = given
    (drawn,) = draw_seeds(checks.whole(seed, "seed", -1, checks.MAX_SEED), 1)
    found = []
    for model, quality, steps, guidance in (sides[:4], sides[4:]):
        if model not in desks:
            raise Refusal(f"The model must be one of {', '.join(desks)}.")
        wish = Wish(prompt, aspect, 1, drawn, steps, guidance, quality)
        found.append((desks[model], desks[model].order(wish, visitor)))
    return found


def _of_two(progress: Progress, place: int) -> Progress:
    side = ("Left", "Right")[place]
    words = f"{side} picture: {progress.words.lower()}"
    return progress._replace(share=(progress.share + place) / 2, words=words)


def _result(orders: list[tuple[Desk, Order]], made: list[Result], past: Visit) -> tuple[Any, ...]:
    if not all(result.files for result in made):
        words = "The check of contents kept a picture back; try another prompt."
        return look.failed(words), gr.skip(), None, "", look.alert(words), (), gr.skip()
    told: list[str] = []
    for side, (desk, order), result in zip(("Left", "Right"), orders, made, strict=True):
        past = remember(desk, order, result, past)
        values: Values = values_of(desk, order, result.files[0].seed)
        name = f"{desk.engine.name}, " if orders[0][0] is not orders[1][0] else ""
        told.append(f"{side}: {name}{described(values)}, {result.seconds:.1f} s")
    words = f"{'; '.join(told)}. Both machine-made with seed {made[0].files[0].seed}."
    pair = (made[0].files[0].path, made[1].files[0].path)
    return gr.skip(), gr.skip(), pair, look.plain_note(words), "", pair, past
