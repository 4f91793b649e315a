"""How the page looks: theme, widgets, empty places. No event and no model in here."""

import html
from pathlib import Path
from typing import NamedTuple, TypeVar

import checks
import gradio as gr
from gradio.data_classes import ImageData
from pydantic import model_validator

Widget = TypeVar("Widget", bound=gr.components.Component)
STEPS = 25
GUIDANCE = 4.0
STYLE = Path(__file__).with_name("style.css").read_text()
THEME = gr.themes.Soft(
    primary_hue="indigo",
    secondary_hue="amber",
    neutral_hue="slate",
    radius_size="lg",
    font=("ui-sans-serif", "system-ui", "sans-serif"),
    font_mono=("ui-monospace", "monospace"),
).set(
    # Titles as plain text, and grey text that can be read (4.5 to 1 or better).
    block_title_background_fill="transparent",
    block_title_background_fill_dark="transparent",
    block_title_padding="0",
    block_title_text_color="*neutral_700",
    block_title_text_color_dark="*neutral_200",
    block_label_background_fill="*background_fill_primary",
    block_label_background_fill_dark="*background_fill_secondary",
    block_label_text_color="*neutral_700",
    block_label_text_color_dark="*neutral_200",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_400",
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_400",
    input_placeholder_color="*neutral_500",
    body_background_fill="*neutral_100",
    body_background_fill_dark="*neutral_950",
    block_background_fill="white",
    block_background_fill_dark="*neutral_900",
    block_border_width="1px",
    block_shadow="none",
    input_background_fill="*neutral_50",
    input_background_fill_dark="*neutral_800",
    input_border_width="1px",
    input_border_color="*neutral_300",
    input_border_color_dark="*neutral_600",
    button_secondary_background_fill="white",
    button_secondary_background_fill_dark="*neutral_800",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_dark="*primary_600",
    button_large_radius="*radius_lg",
)
STARTERS = (
    "A cube-shaped football on wet grass, evening light",
    "Three red apples to the left of two green cups",
    "A sailing ship crossing a desert of blue sand",
)
TINY_STARTERS = (
    "A photo of three red circles on the left",
    "A photo of a blue sun",
    "A photo of one small green square above two black rings",
)
FOOT = (
    "Every picture made here is machine-made and its file says so. "
    "Uploads are deleted after an hour; upload people only with their consent."
)


class Settings(NamedTuple):
    """The widgets that Create and Compose share, in the order of the API."""

    aspect: gr.Dropdown
    count: gr.Slider
    seed: gr.Number
    steps: gr.Slider
    guidance: gr.Slider


class Results(NamedTuple):
    """Where pictures appear; the empty place is shown until there is one."""

    empty: gr.HTML
    gallery: gr.Gallery
    note: gr.Markdown


def masthead(name: str, state: str, longest: int) -> str:
    """Title, one sentence, and a pill: which model, and whether it is ready."""
    safe = html.escape(name)
    words = {
        "none": "No model loaded",
        "loading": f"Loading {safe} ...",
        "ready": f"{safe} &middot; up to {longest} px",
        "failed": f"{safe} could not be loaded",
    }[state]
    return (
        '<div id="masthead"><div><h1>Echo-4o</h1>'
        "<p>Make a picture, put pictures together, ask about one.</p></div>"
        f'<span id="model-line" role="status"><span class="dot {state}"></span>{words}</span></div>'
    )


def notice(title: str, words: str) -> str:
    """A designed empty place."""
    mark = '<div class="mark" aria-hidden="true"><i></i><i></i><i></i></div>'
    return (
        f'<div class="notice">{mark}<strong>{html.escape(title)}</strong>'
        f"<span>{html.escape(words)}</span></div>"
    )


class AnyUpload(ImageData):
    """Takes what is no file at all as a file without a path, which our checks refuse in words."""

    @model_validator(mode="before")
    @classmethod
    def forgive(cls, value: object) -> object:
        """An empty upload in the place of a wrong type."""
        return value if isinstance(value, dict | ImageData) else {}


def upload(label: str, height: int) -> gr.Image:
    """A place for one picture, which our checks open first and not Gradio."""
    image = gr.Image(
        label=label,
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        height=height,
        min_width=130,
        placeholder="Tap, drop or paste",
        buttons=[],
    )
    image.data_model = AnyUpload
    image.preprocess = lambda payload: None if payload is None else payload.path or ""
    return image


def prompt_box(label: str, hint: str) -> gr.Textbox:
    """A text field whose limits are ours to check."""
    return raw(gr.Textbox(label=label, placeholder=hint, lines=3, max_lines=8))


def settings(first_aspect: str, *more: str) -> Settings:
    """Aspect and count in sight; seed, steps and guidance folded away."""
    with gr.Row():
        aspect = gr.Dropdown(
            [*more, *checks.ASPECTS], value=first_aspect, label="Aspect", min_width=190
        )
        count = gr.Slider(1, checks.MAX_PICTURES, 1, step=1, label="Pictures", min_width=190)
    with gr.Accordion("Advanced", open=False):
        seed = gr.Number(
            -1, label="Seed", info="the same seed makes the same picture; -1 draws one"
        )
        steps = gr.Slider(
            1, checks.MAX_STEPS, STEPS, step=1, label="Steps", info="25 is fast, 49 is careful"
        )
        guidance = gr.Slider(
            1, checks.MAX_GUIDANCE, GUIDANCE, step=0.5, label="Guidance", info="how literally"
        )
    return Settings(raw(aspect), raw(count), raw(seed), raw(steps), raw(guidance))


def results(title: str, words: str) -> Results:
    """The empty place and, in its stead later, the pictures."""
    empty = gr.HTML(notice(title, words), padding=False)
    gallery = gr.Gallery(
        label="Pictures",
        show_label=False,
        columns=2,
        height=520,
        object_fit="contain",
        preview=True,
        format="png",
        interactive=False,
        visible=False,
        buttons=["download", "fullscreen"],
        elem_classes="pictures",
    )
    return Results(empty, gallery, gr.Markdown(label="Settings", elem_classes="note"))


def raw(widget: Widget) -> Widget:
    """Hand over what was sent as it is: Gradio's own refusals do not name the limit."""
    widget.preprocess = lambda payload: payload
    return widget
