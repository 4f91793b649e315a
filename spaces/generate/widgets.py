"""The page's widgets, as they are used several times. They check nothing: `checks` does."""

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import checks
import gradio as gr
import look
from gradio.data_classes import FileData, ImageData
from pydantic import model_validator

Widget = TypeVar("Widget", bound=gr.components.Component)
HEIGHT = 480
TICK_SECONDS = 1.0


class Settings(NamedTuple):
    """How to paint, in the order of `restore.Values` after the prompt."""

    aspect: gr.Dropdown
    number: gr.Slider
    seed: gr.Number
    quality: gr.Radio
    steps: gr.Slider
    guidance: gr.Slider
    think: gr.Checkbox


class Results(NamedTuple):
    """Where pictures appear; exactly one of the first three is shown.

    What is streamed goes to the stage alone: of a stopped run something may still arrive.
    """

    rest: gr.HTML
    """Nothing is made, and there is nothing to show."""
    stage: gr.HTML
    """Something is being made."""
    gallery: gr.Gallery
    side: gr.Column
    """The column of the plan, shown in think mode."""
    plan: gr.HTML
    note: gr.HTML
    below: gr.Row
    """Room for what some pages add."""
    shown: gr.State
    """What the gallery holds: (path, caption) pairs."""


class Buttons(NamedTuple):
    """Start and stop, in one place, and the sentence beside them."""

    start: gr.Button
    stop: gr.Button
    clock: gr.Timer
    """Ticks from start to end."""
    alert: gr.HTML


class AnyUpload(ImageData):
    """Takes what is no file at all as a file without a path, which our checks refuse in words."""

    @model_validator(mode="before")
    @classmethod
    def forgive(cls, value: object) -> object:
        """An empty upload in the place of a wrong type."""
        return value if isinstance(value, dict | ImageData) else {}


class AnyFile(FileData):
    """The same for files."""

    path: str = ""

    @model_validator(mode="before")
    @classmethod
    def forgive(cls, value: object) -> object:
        """An empty upload in the place of a wrong type."""
        return value if isinstance(value, dict | FileData) else {}


def upload(label: str, height: int, name: str) -> gr.Image:
    """A place for one picture, whose file our own code opens (after checking its size)."""
    image = gr.Image(
        label=label,
        type="filepath",
        format="png",
        image_mode=None,
        sources=["upload", "clipboard"],
        height=height,
        min_width=120,
        placeholder="Tap, drop or paste",
        buttons=[],
        elem_id=name,
    )
    image.data_model = AnyUpload
    image.preprocess = lambda payload: None if payload is None else payload.path or ""
    return image


def picture_file(label: str, name: str) -> gr.File:
    """A place for a picture that was made here."""
    file = gr.File(label=label, file_types=[".png"], height=160, elem_id=name)
    file.data_model = AnyFile
    file.preprocess = lambda payload: None if payload is None else payload.path
    return file


def prompt_box(label: str, hint: str, name: str) -> gr.Textbox:
    """A text field whose limits are ours to check."""
    return raw(gr.Textbox(label=label, placeholder=hint, lines=3, max_lines=8, elem_id=name))


def settings(first_aspect: str, *more: str) -> Settings:
    """Aspect, number and quality in sight; the rest folded away."""
    with gr.Row():
        aspect = gr.Dropdown(
            [*more, *checks.ASPECTS], value=first_aspect, label="Aspect", min_width=190
        )
        number = gr.Slider(1, checks.MAX_PICTURES, 1, step=1, label="Pictures", min_width=190)
    quality = gr.Radio(
        [checks.FAST, checks.BEST],
        value=checks.FAST,
        label="How",
        info="Fast computes half of 25 steps, Quality all of 49.",
    )
    with gr.Accordion("Advanced", open=False):
        seed = gr.Number(
            -1, label="Seed", info="the same seed makes the same picture; -1 draws one"
        )
        steps = gr.Slider(
            1,
            checks.MAX_STEPS,
            checks.STEPS[checks.FAST],
            step=1,
            label="Steps",
            info="more: finer",
        )
        guidance = gr.Slider(
            1,
            checks.MAX_GUIDANCE,
            checks.GUIDANCE,
            step=0.5,
            label="Guidance",
            info="how literally the prompt is taken",
        )
        think = gr.Checkbox(
            False, label="Think first", info="the model writes a plan before it paints"
        )
    quality.input(
        lambda how: checks.STEPS.get(how, checks.STEPS[checks.FAST]),
        quality,
        steps,
        queue=False,
        api_visibility="private",
        show_progress="hidden",
    )
    widgets = Settings(aspect, number, seed, quality, steps, guidance, think)
    return Settings(*(raw(widget) for widget in widgets))


def buttons(word: str) -> Buttons:
    """Start, and in its place while it works: stop."""
    start = gr.Button(word, variant="primary", interactive=False, elem_classes="start")
    stop = gr.Button("Stop", variant="stop", visible=False, elem_classes="stop")
    clock = gr.Timer(TICK_SECONDS, active=False)
    return Buttons(start, stop, clock, gr.HTML("", padding=False, elem_classes="alerts"))


def results(title: str, words: str, name: str) -> Results:
    """An empty place and, in its stead later, the pictures; beside them the plan of think mode."""
    with gr.Row(equal_height=False, elem_classes="results"):
        with gr.Column(scale=3, min_width=260):
            rest = gr.HTML(look.notice(title, words), padding=False, elem_id=f"{name}-rest")
            stage = gr.HTML(look.waiting(), padding=False, visible=False, elem_id=f"{name}-stage")
            gallery = gr.Gallery(
                label="Pictures",
                show_label=False,
                columns=2,
                height=HEIGHT,
                object_fit="contain",
                preview=True,
                format="png",
                interactive=False,
                visible=False,
                buttons=["download", "fullscreen"],
                elem_classes="pictures",
                elem_id=f"{name}-pictures",
            )
            note = gr.HTML("", padding=False)
            below = gr.Row()
        with gr.Column(scale=2, min_width=220, visible=False, elem_classes="plan") as side:
            plan = gr.HTML(look.thought("", writing=False), padding=False)
    return Results(rest, stage, gallery, side, plan, note, below, gr.State([]))


def starters(groups: Mapping[str, tuple[str, ...]]) -> list[gr.Button]:
    """One-click prompts, by subset."""
    made = []
    with gr.Column(elem_classes="starters"):
        for group, words in groups.items():
            gr.HTML(f'<p class="group">{group}</p>', padding=False)
            made += [gr.Button(one, size="sm") for one in words]
    return made


def raw(widget: Widget) -> Widget:
    """Hand over what was sent as it is: Gradio's own refusals do not name the limit."""
    widget.preprocess = lambda payload: payload
    return widget
