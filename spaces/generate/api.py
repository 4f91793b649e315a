"""The endpoints for programs: /generate, /compose and /ask, typed, through the same checks."""

from collections.abc import Callable, Iterator
from typing import Literal, NotRequired, TypedDict, TypeVar

import gradio as gr
import limits
from checks import GUIDANCE, Refusal
from jobs import Desk, Progress, Result, Wish, in_words
from line import MODEL
from look import label

T = TypeVar("T")
Aspect = Literal["Square 1:1", "Landscape 4:3", "Portrait 3:4", "Wide 16:9", "Tall 9:16"]
AspectOfPicture = Literal[
    "Like the last picture",
    "Square 1:1",
    "Landscape 4:3",
    "Portrait 3:4",
    "Wide 16:9",
    "Tall 9:16",
]
Quality = Literal["Fast", "Quality"]


class FileMeta(TypedDict):
    """How Gradio knows a file in a reply."""

    _type: Literal["gradio.FileData"]


class PictureFile(TypedDict):
    """A picture to send or to fetch; `gradio_client.handle_file` makes one."""

    path: str
    meta: FileMeta
    url: NotRequired[str | None]
    orig_name: NotRequired[str | None]


class Picture(TypedDict):
    """One picture of a reply."""

    image: PictureFile
    caption: str
    seed: int


class Reply(TypedDict):
    """What /generate and /compose return; while they work, the share that is done."""

    pictures: list[Picture]
    progress: float
    seconds: float
    thought: str
    withheld: int


def add_endpoints(desk: Desk) -> None:
    """Add them to the page that is being built."""

    def generate(
        request: gr.Request,
        prompt: str,
        aspect: Aspect = "Square 1:1",
        count: int = 1,
        seed: int = -1,
        steps: int | None = None,
        guidance: float = GUIDANCE,
        quality: Quality = "Fast",
        think: bool = False,
    ) -> Iterator[Reply]:
        """Make 1 to 4 pictures from a prompt of up to 2,000 characters.

        Picture n has seed + n; -1 draws a seed. Without `steps`, Fast takes 25 and computes about
        half of them, Quality takes 49. `think` lets the model write a plan first.
        """
        wish = Wish(prompt, aspect, count, seed, steps, guidance, quality, think)
        yield from _replies(desk, wish, request)

    def compose(
        request: gr.Request,
        prompt: str,
        image_1: PictureFile,
        image_2: PictureFile | None = None,
        image_3: PictureFile | None = None,
        image_4: PictureFile | None = None,
        aspect: AspectOfPicture = "Like the last picture",
        count: int = 1,
        seed: int = -1,
        steps: int | None = None,
        guidance: float = GUIDANCE,
        quality: Quality = "Fast",
        think: bool = False,
    ) -> Iterator[Reply]:
        """Make pictures from one to four pictures, in this order, and a prompt; one is editing."""
        images = [_path(image) for image in (image_1, image_2, image_3, image_4)]
        wish = Wish(prompt, aspect, count, seed, steps, guidance, quality, think, images)
        yield from _replies(desk, wish, request)

    def ask(request: gr.Request, picture: PictureFile, question: str) -> Iterator[str]:
        """Answer a question about a picture; the answer grows while it is written."""
        with _as_error(), in_words():
            path = "" if (found := _path(picture)) is None else found
            yield from desk.ask(path, question, limits.visitor(request))

    for function, returns in ((generate, Reply), (compose, Reply), (ask, str)):
        gr.api(
            _documented(function, returns),
            api_name=function.__name__,
            concurrency_id=MODEL,
            concurrency_limit=1,
        )


def _replies(desk: Desk, wish: Wish, request: gr.Request) -> Iterator[Reply]:
    with _as_error(), in_words():
        for update in desk.make(desk.order(wish, limits.visitor(request))):
            yield _reply(update)


def _reply(update: Progress | Result) -> Reply:
    if isinstance(update, Progress):
        share = round(update.share, 3)
        return Reply(pictures=[], progress=share, seconds=0.0, thought=update.thought, withheld=0)
    pictures = [
        Picture(
            image={"path": file.path, "meta": {"_type": "gradio.FileData"}},
            caption=label(file),
            seed=file.seed,
        )
        for file in update.files
    ]
    return Reply(
        pictures=pictures,
        progress=1.0,
        seconds=round(update.seconds, 3),
        thought=update.thought,
        withheld=update.withheld,
    )


class _as_error:
    """A refusal as the error that Gradio sends."""

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: object, error: BaseException | None, _trace: object) -> None:
        """Turn one into the other."""
        if isinstance(error, Refusal):
            raise gr.Error(str(error), title="Not possible", print_exception=False) from error


def _path(picture: object) -> str | None:
    """The path in what should be a file; anything else becomes one that no upload has."""
    if picture is None:
        return None
    path = picture.get("path") if isinstance(picture, dict) else None
    return path if isinstance(path, str) else ""


def _documented(function: Callable[..., Iterator[T]], returns: type[T]) -> Callable[..., object]:
    """Tell Gradio what a stream ends with: it reads annotations, and knows no iterators."""
    function.__annotations__["return"] = returns
    return function
