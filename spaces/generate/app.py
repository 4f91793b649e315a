"""The demo: Create, Compose and Ask on one page, with the same three as API endpoints.

Only layout and events; `checks` refuses, `engine` makes. Uploaded exactly as it stands.
"""

try:
    # ZeroGPU patches torch, so its package comes before everything that imports torch.
    from spaces import GPU
except ImportError:
    GPU = None

import logging
import secrets
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import checks
import gradio as gr
import look
from engine import Engine, Settings, configured_source
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from look import GUIDANCE, STEPS
from PIL import Image

logger = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")
Shown = list[tuple[str, str]]

SECONDS_PER_STEP = 0.7
WAITING_VISITORS = 64
HOUR = 3600
engine = Engine(configured_source())
engine.start()


def on_gpu(duration: Callable[P, int]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """`spaces.GPU` where it exists, nothing elsewhere."""
    return (lambda function: function) if GPU is None else GPU(duration=duration)


def for_visitors(function: Callable[P, R]) -> Callable[P, R]:
    """Turn every refusal and failure into one sentence that names nothing of the server."""

    @wraps(function)
    def safe(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except checks.Refusal as refusal:
            sentence, title = str(refusal), "Not possible"
        except MemoryError:
            sentence, title = "Too little memory: ask for fewer or smaller pictures.", "Too large"
        except (ValueError, RuntimeError, OSError, KeyError, TypeError) as error:
            if "out of memory" in str(error).lower():
                sentence, title = "The GPU is full: ask for fewer pictures.", "Too large"
            else:
                logger.exception("a request failed")
                sentence, title = "Something failed on our side; please try again.", "Sorry"
        raise gr.Error(sentence, title=title, print_exception=False)

    return safe


def expected_seconds(*request: object) -> int:
    """GPU seconds to reserve for a request of `generate` or `compose`."""
    numbers = [value for value in request if isinstance(value, int | float)]
    count, steps = (numbers[0], numbers[2]) if len(numbers) > 3 else (1, STEPS)
    return int(min(max(20 + count * steps * SECONDS_PER_STEP, 30), 300))


@for_visitors
@on_gpu(expected_seconds)
def generate(
    prompt: str,
    aspect: str = "Square 1:1",
    count: int = 1,
    seed: int = -1,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    progress: gr.Progress = gr.Progress(),  # noqa: B008 (how Gradio hands over progress)
) -> tuple[Shown, str]:
    """Make pictures from a prompt. Picture n has seed + n; -1 draws a seed."""
    require_model()
    proportion = checks.aspect(aspect)
    return paint(prompt, [], proportion, count, seed, steps, guidance, progress)


@for_visitors
@on_gpu(expected_seconds)
def compose(
    prompt: str,
    image_1: str | None,
    image_2: str | None = None,
    image_3: str | None = None,
    image_4: str | None = None,
    aspect: str = checks.AS_REFERENCE,
    count: int = 1,
    seed: int = -1,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    progress: gr.Progress = gr.Progress(),  # noqa: B008
) -> tuple[Shown, str]:
    """Make pictures from one to four ordered pictures and a prompt; one picture is editing."""
    require_model()
    references = checks.pictures([image_1, image_2, image_3, image_4])
    proportion = checks.aspect(aspect, reference=references[-1])
    return paint(prompt, references, proportion, count, seed, steps, guidance, progress)


@for_visitors
@on_gpu(lambda *request: 60)
def ask(picture: str, question: str) -> str:
    """Answer a question about a picture."""
    require_model()
    words = checks.text(question, "question", checks.QUESTION_CHARACTERS)
    return engine.ask(checks.picture(picture, "picture"), words) or "(The model said nothing.)"


def paint(
    prompt: object,
    references: list[Image.Image],
    proportion: tuple[float, float],
    count: object,
    seed: object,
    steps: object,
    guidance: object,
    progress: gr.Progress,
) -> tuple[Shown, str]:
    """Check, make, mark and store; what both Create and Compose do."""
    words = checks.text(prompt, "prompt", checks.PROMPT_CHARACTERS)
    seeds = draw_seeds(
        checks.whole(seed, "seed", -1, checks.MAX_SEED),
        checks.whole(count, "number of pictures", 1, checks.MAX_PICTURES),
    )
    width, height = checks.size(proportion, engine.longest, engine.unit)
    settings = Settings(
        width,
        height,
        checks.whole(steps, "number of steps", 1, checks.MAX_STEPS),
        checks.number(guidance, "guidance", 1, checks.MAX_GUIDANCE),
    )
    started = time.monotonic()

    def advance(done: int, total: int) -> None:
        progress((done, total), desc=f"Picture {(done - 1) // settings.steps + 1}", unit="steps")

    made = engine.paint(words, references, settings, seeds, advance)
    used = {**engine.arguments(settings), "references": len(references)}
    shown = [
        (store(engine.encode(one, words, used)), f"machine-made, seed {one.seed}") for one in made
    ]
    note = (
        f"{width} x {height} pixels, {settings.steps} steps, guidance {settings.guidance:g}, "
        f"seed {', '.join(str(one.seed) for one in made)}, {time.monotonic() - started:.1f} s. "
        "Machine-made; each file says so and holds these settings."
    )
    return shown, note


def draw_seeds(seed: int, count: int) -> list[int]:
    """Consecutive seeds from `seed`, or from a random one for -1."""
    first = secrets.randbelow(checks.MAX_SEED - count) if seed == -1 else seed
    return [(first + place) % (checks.MAX_SEED + 1) for place in range(count)]


def store(data: bytes) -> str:
    """Put a finished file where Gradio serves it from, bytes unchanged."""
    return save_bytes_to_cache(data, "echo-4o.png", get_upload_folder())


def require_model() -> None:
    """Refuse politely while there is no model."""
    if engine.wait() is None:
        raise checks.Refusal(why_not())


def why_not() -> str:
    """Why nothing can be made here, in one sentence."""
    if engine.state == "failed":
        return (
            f"The model {engine.name} could not be loaded; the owner finds the reason in the log."
        )
    return "No model is loaded here: the owner sets ECHO4O_MODEL to a model's Hub id or folder."


def create_tab() -> tuple[gr.Button, look.Results, list[gr.Button]]:
    """Prompt in, pictures out."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            prompt = look.prompt_box("Prompt", "What should the picture show?")
            with gr.Column(elem_classes="starters"):
                starters = [gr.Button(words, size="sm") for words in look.STARTERS]
            widgets = look.settings("Square 1:1")
            button = gr.Button("Create", variant="primary", interactive=False)
        with gr.Column(scale=6, min_width=300):
            results = look.results(*empty_words("Your pictures appear here"))
    for starter in starters:
        starter.click(lambda words: words, starter, prompt, queue=False, api_visibility="private")
    on_make([button.click, prompt.submit], generate, [prompt, *widgets], results)
    return button, results, starters


def compose_tab() -> tuple[gr.Button, look.Results]:
    """One to four ordered pictures and a prompt in, pictures out."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            images = []
            for first in (1, 3):
                with gr.Row():
                    images += [look.upload(f"Image {n}", 170) for n in (first, first + 1)]
            prompt = look.prompt_box("Prompt", "Put the bear from image 1 on the rug from image 2")
            widgets = look.settings(checks.AS_REFERENCE, checks.AS_REFERENCE)
            button = gr.Button("Compose", variant="primary", interactive=False)
        with gr.Column(scale=6, min_width=300):
            results = look.results(*empty_words("Add pictures in the order your prompt means"))
    on_make([button.click, prompt.submit], compose, [prompt, *images, *widgets], results)
    return button, results


def ask_tab() -> gr.Button:
    """A picture and a question in, an answer out."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=300):
            picture = look.upload("Picture", 380)
        with gr.Column(scale=5, min_width=300):
            question = look.prompt_box("Question", "What is odd about this picture?")
            button = gr.Button("Ask", variant="primary", interactive=False)
            answer = gr.Textbox(label="Answer", lines=5, interactive=False)
    gr.on(
        [button.click, question.submit],
        ask,
        [picture, question],
        answer,
        api_name="ask",
        concurrency_id="model",
        concurrency_limit=1,
    )
    return button


def on_make(
    triggers: list[Callable[..., object]],
    function: Callable[..., object],
    inputs: list[gr.components.Component],
    results: look.Results,
) -> None:
    """Progress over the place of the pictures; the empty place goes away with the first one."""
    gr.on(
        triggers,
        function,
        inputs,
        [results.gallery, results.note],
        api_name=function.__name__,
        concurrency_id="model",
        concurrency_limit=1,
        show_progress_on=[results.empty, results.gallery],
        scroll_to_output=True,
    ).success(
        lambda: (gr.update(visible=False), gr.update(visible=True)),
        outputs=[results.empty, results.gallery],
        queue=False,
        api_visibility="private",
    )


def empty_words(title: str) -> tuple[str, str]:
    """Title and sentence of an empty place, for a page with and without a model."""
    if engine.state in ("none", "failed"):
        return "Nothing to make pictures with", why_not()
    return title, "They carry a label, and the file keeps prompt, seed and settings."


def build() -> gr.Blocks:
    """The page."""
    with gr.Blocks(title="Echo-4o", delete_cache=(HOUR // 4, HOUR)) as page:
        top = gr.HTML(look.masthead(engine.name, engine.state, 0), padding=False)
        with gr.Tab("Create"):
            create, made, starters = create_tab()
        with gr.Tab("Compose"):
            compose_button, composed = compose_tab()
        with gr.Tab("Ask"):
            ask_button = ask_tab()
        gr.Markdown(look.FOOT, elem_classes="note")
        buttons = [create, compose_button, ask_button]

        def when_loaded() -> list[object]:
            ready = engine.wait() is not None
            words = look.TINY_STARTERS if ready and engine.is_tiny else look.STARTERS
            places = [("Your pictures appear here",), ("Add pictures in the order you mean",)]
            return [
                look.masthead(engine.name, engine.state, engine.longest),
                *[gr.update(interactive=ready) for _ in buttons],
                *[gr.update(value=text) for text in words],
                *[look.notice(*empty_words(*place)) for place in places],
            ]

        page.load(
            when_loaded,
            outputs=[top, *buttons, *starters, made.empty, composed.empty],
            api_visibility="private",
            show_progress="hidden",
            concurrency_limit=None,
        )
    return page.queue(max_size=WAITING_VISITORS)


page = build()

if __name__ == "__main__":
    page.launch(
        theme=look.THEME,
        css=look.STYLE,
        max_file_size=checks.UPLOAD_BYTES,
        show_error=False,
        footer_links=["api", "settings"],
        ssr_mode=False,
    )
