"""The three tabs, the history of a visit, and repeating a picture from its file."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import checks
import expected
import gradio as gr
import limits
import line
import look
import restore
import widgets
from checks import Refusal
from engine import Engine
from files import store
from jobs import Desk, Wish, in_words
from judge import Judge
from judge import shown as verdicts
from line import ON_MODEL, PRIVATE
from running import ENDED, HIDDEN, STARTED, brought_back, on_make

EXAMPLES = Path(__file__).with_name("examples")
SURREAL, FOLLOWING = "Surreal fantasy", "Instruction following"
STARTERS = {
    SURREAL: (
        "A cube-shaped football on wet grass, evening light",
        "A sailing ship crossing a desert of blue sand",
    ),
    FOLLOWING: (
        "Three red apples to the left of two green cups",
        "One small yellow vase above four blue books",
    ),
}
TINY_STARTERS = {
    SURREAL: ("A photo of a purple apple", "A photo of a green chimney and a pink tire"),
    FOLLOWING: (
        "A photo of two purple diamonds and one black bar",
        "A photo of a red cross and a blue ring",
    ),
}
COMPOSED = {
    "Both in one picture": (
        "Put the object from image 1 on the left and the object from image 2 on the right",
        ("green-ring.png", "red-triangle.png"),
    ),
    "Edit one picture": ("Make the object from image 1 blue", ("red-triangle.png",)),
}
COPY = "(words) => words"
"""In the page itself: who starts at once starts with the new words."""
ANSWER_PLACE = "The answer appears here, word by word."
QUESTIONS = ("What is in this picture?", "What is odd about this picture?", "How many are there?")


class Create(NamedTuple):
    """What other parts of the page reach on the tab Create, and on Compose."""

    prompt: gr.Textbox
    settings: widgets.Settings
    buttons: widgets.Buttons
    results: widgets.Results
    done: gr.events.Dependency
    starters: list[gr.Button]


def create(desk: Desk, visit: gr.State) -> Create:
    """Prompt in, pictures out."""
    with gr.Row(equal_height=False, elem_classes="desk"):
        with gr.Column(min_width=280, elem_classes="ask"):
            prompt = widgets.prompt_box("Prompt", "What should the picture show?", "create-prompt")
            buttons = widgets.buttons("Create")
        with gr.Column(min_width=280, elem_classes="show"):
            results = widgets.results(*empty_words(desk, "create"), "create")
        with gr.Column(min_width=280, elem_classes="more"):
            starters = widgets.starters(TINY_STARTERS if desk.engine.name == "tiny" else STARTERS)
            settings = widgets.settings(next(iter(checks.ASPECTS)))
    for starter in starters:
        starter.click(None, starter, prompt, js=COPY, queue=False, **PRIVATE)
    done = on_make(
        desk,
        [buttons.start.click, prompt.submit],
        lambda words, *values: Wish(words, **dict(zip(settings._fields, values, strict=True))),
        [prompt, *settings],
        buttons,
        results,
        visit,
    )
    _live(desk, "Create", settings, (buttons, results, done))
    return Create(prompt, settings, buttons, results, done, starters)


def compose(desk: Desk, visit: gr.State) -> Create:
    """One to four ordered pictures and a prompt in, pictures out."""
    images: list[gr.Image] = []
    captions: list[gr.Textbox] = []
    inserts: list[gr.Button] = []
    with gr.Row(equal_height=False, elem_classes="desk"):
        with gr.Column(min_width=280, elem_classes="ask"):
            gr.HTML(f'<p class="note">{look.FACES}</p>', padding=False)
            for first in (1, 3):
                with gr.Row(elem_classes="slots"):
                    for place in (first, first + 1):
                        slot = _slot(place, images, captions)
                        inserts.append(slot)
            prompt = widgets.prompt_box(
                "Prompt", "Put the bear from image 1 on the rug from image 2", "compose-prompt"
            )
            buttons = widgets.buttons("Compose")
        with gr.Column(min_width=280, elem_classes="show"):
            results = widgets.results(*empty_words(desk, "compose"), "compose")
        with gr.Column(min_width=280, elem_classes="more"):
            starters = widgets.starters({"Multi-reference": tuple(COMPOSED)})
            settings = widgets.settings(checks.AS_REFERENCE, checks.AS_REFERENCE)
    for place, insert in enumerate(inserts, 1):
        insert.click(
            None,
            prompt,
            prompt,
            js=f"(words) => (words ? words.trimEnd() + ' ' : '') + 'image {place}'",
            queue=False,
            **PRIVATE,
        )
    for starter in starters:
        starter.click(_example, starter, [prompt, *images], queue=False, **PRIVATE)

    def wish(words: object, *values: object) -> Wish:
        rest = dict(zip(settings._fields, values[8:], strict=True))
        return Wish(words, references=values[:4], captions=values[4:8], **rest)

    done = on_make(
        desk,
        [buttons.start.click, prompt.submit],
        wish,
        [prompt, *images, *captions, *settings],
        buttons,
        results,
        visit,
    )
    _live(desk, "Compose", settings, (buttons, results, done))
    return Create(prompt, settings, buttons, results, done, starters)


def ask(desk: Desk) -> widgets.Buttons:
    """A picture and a question in, an answer out, word by word."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=280):
            gr.HTML(f'<p class="note">{look.FACES}</p>', padding=False)
            picture = widgets.upload("Picture", 380, "ask-picture")
        with gr.Column(scale=6, min_width=280):
            question = widgets.prompt_box(
                "Question", "What is odd about this picture?", "ask-question"
            )
            with gr.Row(elem_classes="starters"):
                starters = [gr.Button(words, size="sm", min_width=120) for words in QUESTIONS]
            buttons = widgets.buttons("Ask")
            about = look.BABBLE if desk.engine.name == "tiny" else None
            answer = gr.Textbox(
                label="Answer",
                info=about,
                lines=8,
                max_lines=16,
                interactive=False,
                placeholder=ANSWER_PLACE,
            )

            stage = gr.HTML("", padding=False, visible=False, elem_id="ask-stage")

    stop, check, same = line.Stop(), line.door(), gr.skip()

    def run(request: gr.Request, image: object, words: object) -> Any:
        try:
            with in_words():
                said = desk.ask(image, words, limits.visitor(request))
                for answer_ in stop.heed(request.session_hash, said):
                    yield look.plain_note("Answering"), answer_, same
        except Refusal as refusal:
            yield same, same, look.alert(str(refusal))

    for starter in starters:
        starter.click(None, starter, question, js=COPY, queue=False, **PRIVATE)
    places = [stage, *buttons[:3]]

    def enter(request: gr.Request) -> Any:
        check()
        stop.forget(request.session_hash)
        waiting = gr.update(value=look.plain_note("Waiting for your turn"), visible=True)
        return waiting, *STARTED, "", ""

    begun = gr.on(
        [buttons.start.click, question.submit],
        enter,
        outputs=[*places, answer, buttons.alert],
        queue=False,
        trigger_mode="once",
        **PRIVATE,
    )
    work = begun.success(run, [picture, question], [stage, answer, buttons.alert], **ON_MODEL)
    line.follow(buttons.clock, work, stage, lambda at: look.plain_note(look.in_front(at)))
    last = (same, same, look.alert(str(line.Stopped())))
    stop.listen(buttons.stop, work, last, (stage, look.plain_note("Stopping")))
    brought_back(begun, work, lambda: (HIDDEN, *ENDED), [], places, buttons.alert)
    return buttons


def judging(judge: Judge, visit: gr.State, created: Create) -> None:
    """A button below the pictures of Create that checks the first one against its prompt."""

    def look_at(request: gr.Request, past: list[Any], pictures: list[Any]) -> tuple[str, str]:
        path = _first(pictures)
        try:
            with in_words():
                prompts = {path: values["prompt"] for path, _, values in past}
                if path not in prompts or not Path(path).is_file():
                    raise Refusal("There is no picture to judge yet.")
                found = judge.look(path, prompts[path], limits.visitor(request))
        except Refusal as refusal:
            return path, look.alert(str(refusal))
        return path, verdicts(found, judge.model)

    with created.results.below:
        button = gr.Button("Judge it", size="sm", scale=0, min_width=120)
        verdict = gr.HTML("", padding=False)
    latest = gr.State(("", ""))
    judged = button.click(
        look_at,
        [visit, created.results.shown],
        latest,
        api_visibility="private",
        concurrency_limit=2,
        show_progress_on=verdict,
    )
    # By the time of a verdict there may be other pictures.
    for changed in (judged, created.done):
        changed.then(verdict_of, [latest, created.results.shown], verdict, queue=False, **PRIVATE)


def verdict_of(told: tuple[str, str], pictures: list[Any]) -> str:
    """The words of `told`, (path, words), where its picture is still the first one."""
    path, words = told
    return words if path == _first(pictures) else ""


def _first(pictures: list[Any]) -> str:
    return pictures[0][0] if pictures else ""


def history(visit: gr.State, create: Create) -> gr.Gallery:
    """Everything that one visitor made in this visit, the latest first."""
    with gr.Accordion("This visit", open=False, elem_id="visit"):
        gr.HTML(
            '<p class="note">Only you see these; they are gone after an hour or when you close the '
            "page. Choose one to bring its prompt and settings back.</p>",
            padding=False,
        )
        pictures = gr.Gallery(
            label="Pictures of this visit",
            show_label=False,
            columns=4,
            fit_columns=False,
            height="auto",
            object_fit="contain",
            allow_preview=False,
            format="png",
            interactive=False,
            elem_classes="visit",
        )

    def bring_back(past: list[Any], event: gr.SelectData) -> list[Any]:
        place = event.index
        if not isinstance(place, int) or not 0 <= place < len(past):
            return [gr.skip()] * (1 + len(create.settings))
        return list(restore.Values(**past[place][2]))

    pictures.select(bring_back, visit, [create.prompt, *create.settings], queue=False, **PRIVATE)
    return pictures


def remembered(past: list[Any]) -> list[tuple[str, str]]:
    """The pictures of a visit for their gallery; those that were swept are left out."""
    return [(path, caption) for path, caption, _ in past if Path(path).is_file()]


def repeat(desk: Desk, create: Create, compose: Create, chosen: gr.Tabs) -> None:
    """A place for a picture that was made here; its settings come back."""
    with gr.Accordion("Repeat a picture", open=False, elem_id="repeat"):
        file = widgets.picture_file("Drop a PNG that was made here", "repeat-file")
        said = gr.HTML("", padding=False)

    def bring_back(path: object) -> list[Any]:
        width = 1 + len(create.settings)
        untouched = [gr.skip()] * width
        if path is None:
            return [*untouched, *untouched, gr.skip(), ""]
        try:
            with in_words():
                desk.require_model()
                found = restore.from_file(path, desk.engine)
        except Refusal as refusal:
            return [*untouched, *untouched, gr.skip(), look.alert(str(refusal))]
        if found.references:
            words = f"Add the {found.references} pictures it was composed of, in their order."
            values = [*untouched, *found.values]
            tab = "compose"
        else:
            words = "Its prompt and settings are in place; Create makes the same picture."
            values = [*found.values, *untouched]
            tab = "create"
        told = look.alert(found.warning) or f'<p class="note" role="status">{words}</p>'
        return [*values, gr.update(selected=tab), told]

    file.change(
        bring_back,
        file,
        [create.prompt, *create.settings, compose.prompt, *compose.settings, chosen, said],
        queue=False,
        **PRIVATE,
    )


def empty_words(desk: Desk, tab: str) -> tuple[str, str]:
    """Title and sentence of an empty place, for a page with and without a model."""
    if desk.engine.state in ("none", "failed"):
        return "Nothing to make pictures with", desk.why_not()
    if desk.engine.state == "loading":
        return "The model is being loaded", "After a pause of the Space that takes some minutes."
    if tab == "compose":
        return "Put pictures together", (
            "Add one to four, in the order in which your prompt speaks of them: image 1, image 2."
        )
    words = "They carry a label, and the file keeps prompt, seed and settings."
    return "Your pictures appear here", words


def empty(desk: Desk, tab: str) -> str:
    """The empty place of a tab."""
    return look.notice(*empty_words(desk, tab))


def words(engine: Engine) -> list[str]:
    """The starters that fit the model."""
    groups = TINY_STARTERS if engine.is_tiny else STARTERS
    return [one for group in groups.values() for one in group]


def _slot(place: int, images: list[gr.Image], captions: list[gr.Textbox]) -> gr.Button:
    with gr.Column(min_width=140, elem_classes="slot"):
        images.append(widgets.upload(f"Image {place}", 160, f"image-{place}"))
        captions.append(
            widgets.raw(
                gr.Textbox(
                    label=f"Caption of image {place}",
                    show_label=False,
                    placeholder="what it shows",
                    max_lines=1,
                    container=False,
                    elem_id=f"caption-{place}",
                )
            )
        )
        with gr.Row(elem_classes="tools"):
            insert = gr.Button(f"Use image {place}", size="sm", min_width=60)
            if place > 1:
                earlier = gr.Button("Earlier", size="sm", min_width=60, elem_id=f"earlier-{place}")
                pair = [*images[-2:], *captions[-2:]]
                swap = "(a, b, c, d) => [b, a, d, c]"
                earlier.click(None, pair, pair, js=swap, queue=False, **PRIVATE)
    return insert


def _example(name: str) -> list[Any]:
    """Prompt and pictures of a starter of Compose."""
    prompt, files = COMPOSED[name]
    paths = [store((EXAMPLES / file).read_bytes(), file) for file in files]
    return [prompt, *paths, *[None] * (4 - len(paths))]


def _live(
    desk: Desk,
    word: str,
    settings: widgets.Settings,
    tab: tuple[widgets.Buttons, widgets.Results, gr.events.Dependency],
) -> None:
    """The expected seconds on the button, and the column of the plan in think mode."""
    (buttons, results, done), label = tab, partial(expected.of_tab, desk.engine, word)
    watched = [settings.aspect, settings.number, settings.quality, settings.steps]
    watched += [settings.guidance, settings.think]
    after = [widget.change for widget in watched]
    gr.on(
        after, label, [*settings], buttons.start, queue=False, trigger_mode="always_last", **PRIVATE
    )
    done.then(label, [*settings], buttons.start, queue=False, **PRIVATE)
    settings.think.change(
        lambda on: gr.update(visible=bool(on)), settings.think, results.side, queue=False, **PRIVATE
    )
