"""From what a visitor sends to finished files: checks, the model, marks, and words for failures.

The page and the API both come through here, so neither can do what the other may not.
"""

import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

import checks
import gradio as gr
import limits
import safety
from checks import Refusal
from engine import Engine, Event, Job, Made, Settings, Step
from files import store
from PIL import Image
from streams import Piece

logger = logging.getLogger(__name__)
P = ParamSpec("P")
UPDATE_SECONDS = 0.1
"""Least time between two updates that bring no new preview."""


class Wish(NamedTuple):
    """What a visitor sent, nothing of it checked."""

    prompt: object
    aspect: object = next(iter(checks.ASPECTS))
    number: object = 1
    seed: object = -1
    steps: object = None
    """None: as many as the quality says."""
    guidance: object = checks.GUIDANCE
    quality: object = checks.FAST
    think: object = False
    references: Sequence[object] | None = None
    """Paths of uploads; None for pictures from text alone."""
    captions: Sequence[object] = ()


class Given(NamedTuple):
    """A reference picture's file, as records name it."""

    name: str
    sha256: str


class Order(NamedTuple):
    """A wish that passed the checks."""

    job: Job
    given: tuple[Given, ...]


class Progress(NamedTuple):
    """Where a job is."""

    share: float
    words: str
    left: float
    """Seconds to go."""
    preview: bytes | None
    thought: str


class File(NamedTuple):
    """A finished picture."""

    path: str
    seed: int


class Result(NamedTuple):
    """What a job made."""

    files: tuple[File, ...]
    withheld: int
    """Pictures that the check of contents kept back."""
    thought: str
    seconds: float


class Gate:
    """Lets requests in and pictures out: how many, and on a hosted page which."""

    def __init__(self) -> None:
        self._rate = limits.RateLimit(limits.requests_per_hour())
        self._check = safety.PictureCheck() if limits.HOSTED else None
        if self._check is not None:
            self._check.start()

    def admit(self, visitor: str, words: str, pictures: Sequence[Image.Image]) -> None:
        """Check what was sent, then count the request.

        Raises:
            Refusal: it is one too many, or about what is not worked on here.
        """
        if self._check is not None:
            safety.check_words(words)
            if not all(self._check.passes(picture) for picture in pictures):
                raise Refusal("One of these pictures shows what is not worked on here.")
        self._rate.spend(visitor)

    def lets_out(self, picture: Image.Image) -> bool:
        """Whether a finished picture may be shown."""
        return self._check is None or self._check.passes(picture)


class Desk:
    """Takes orders for one engine."""

    def __init__(self, engine: Engine, gate: Gate, gpu: Callable[..., Any] | None) -> None:
        self.engine, self._gate = engine, gate
        self._paint = self._on_gpu(gpu, self._reserved, engine.paint)
        self._ask = self._on_gpu(gpu, lambda *_: 60, engine.ask)

    def order(self, wish: Wish, visitor: str) -> Order:
        """Check a wish and count it.

        Raises:
            Refusal: it cannot be served.
        """
        engine = self.require_model()
        prompt = checks.text(wish.prompt, "prompt", checks.PROMPT_CHARACTERS)
        pictures: list[Image.Image] = []
        given: tuple[Given, ...] = ()
        if wish.references is not None:
            places = [n for n, path in enumerate(wish.references) if path is not None]
            pictures = checks.pictures(wish.references)
            prompt = checks.captioned(prompt, [_at(wish.captions, n) for n in places])
            given = tuple(_given(str(wish.references[n])) for n in places)
        proportion = checks.aspect(wish.aspect, reference=pictures[-1] if pictures else None)
        quality = checks.quality(wish.quality)
        steps = checks.STEPS[quality] if wish.steps is None else wish.steps
        seeds = draw_seeds(
            checks.whole(wish.seed, "seed", -1, checks.MAX_SEED),
            checks.whole(wish.number, "number of pictures", 1, checks.MAX_PICTURES),
        )
        width, height = checks.size(proportion, engine.longest, engine.unit)
        settings = Settings(
            width,
            height,
            checks.whole(steps, "number of steps", 1, checks.MAX_STEPS),
            checks.number(wish.guidance, "guidance", 1, checks.MAX_GUIDANCE),
            fast=quality == checks.FAST,
            think=checks.switch(wish.think, "think switch"),
        )
        self._gate.admit(visitor, prompt, pictures)
        return Order(Job(prompt, tuple(pictures), settings, tuple(seeds)), given)

    def make(self, order: Order) -> Generator[Progress | Result, None, None]:
        """Run an order; the last thing is the result. Closing it stops the model."""
        job, thought, started = order.job, "", time.monotonic()
        expected = self.engine.seconds(job)
        files: list[File] = []
        withheld, share, preview, told = 0, 0.0, None, started
        for event in self._paint(job):
            if isinstance(event, Piece):
                thought = event.text
            elif isinstance(event, Step):
                share = (event.picture + event.done / job.settings.steps) / len(job.seeds)
                preview = event.preview or preview
                if event.preview is None and time.monotonic() - told < UPDATE_SECONDS:
                    continue
            elif isinstance(event, Made):
                if not self._gate.lets_out(event.image):
                    withheld += 1
                else:
                    name = f"echo-4o-{event.seed}.png"
                    path = store(self._encode(event, order), name)
                    files.append(File(path, event.seed))
            told = time.monotonic()
            passed = told - started
            left = passed / share - passed if share > 0.1 else expected - passed
            yield Progress(share, _doing(job, share, thought), max(left, 0.0), preview, thought)
        seconds = time.monotonic() - started
        self.engine.cost.learn(job, self.engine.unit, seconds)
        yield Result(tuple(files), withheld, thought, seconds)

    def ask(self, picture: object, question: object, visitor: str) -> Generator[str, None, None]:
        """The answer to a question about a picture, longer every time."""
        self.require_model()
        words = checks.text(question, "question", checks.QUESTION_CHARACTERS)
        image = checks.picture(picture, "picture")
        self._gate.admit(visitor, words, [image])
        answer = ""
        for event in self._ask(image, words):
            if isinstance(event, Piece):
                answer = event.text
            yield answer
        yield answer or "(The model said nothing.)"

    def require_model(self) -> Engine:
        """The engine once it is loaded; a refusal while there is no model."""
        if self.engine.wait() is None:
            raise Refusal(self.why_not())
        return self.engine

    def why_not(self) -> str:
        """Why nothing can be made here, in one sentence."""
        engine = self.engine
        if engine.state == "failed":
            reason = engine.reason or "The owner finds the reason in the log."
            return f"The model {engine.name} could not be loaded. {reason}"
        return "No model is loaded here: the owner sets ECHO4O_MODEL to a model's Hub id or folder."

    def _encode(self, made: Made, order: Order) -> bytes:
        """A PNG file that says it is machine-made and holds what makes it again."""
        from echo4o.models.bagel.step_cache import StepCache
        from echo4o.models.pictures import PictureRecord, Reference, encode_png
        from echo4o.models.repeat import runtime

        engine, settings = self.engine, order.job.settings
        parameters = engine.arguments(settings)
        if settings.fast:
            parameters["step_cache"] = asdict(StepCache())
        record = PictureRecord(
            prompt=order.job.prompt,
            model=engine.name,
            revision=engine.revision,
            seed=made.seed,
            parameters=parameters,
            references=tuple(Reference(name=one.name, sha256=one.sha256) for one in order.given),
            runtime=runtime(engine.loaded()),
        )
        return encode_png(made.image, record)

    def _reserved(self, job: Job) -> int:
        return self.engine.cost.reserved(job, self.engine.unit)

    @staticmethod
    def _on_gpu(
        gpu: Callable[..., Any] | None,
        duration: Callable[..., int],
        function: Callable[P, Iterator[Event]],
    ) -> Callable[P, Iterator[Event]]:
        """`spaces.GPU` where it exists, nothing elsewhere."""

        def run(*args: P.args, **kwargs: P.kwargs) -> Iterator[Event]:
            yield from function(*args, **kwargs)

        return run if gpu is None else gpu(run, duration=duration)


@contextmanager
def in_words() -> Iterator[None]:
    """Turn every failure into a Refusal whose sentence names nothing of the server."""
    try:
        yield
    except Refusal:
        raise
    except MemoryError as error:
        raise Refusal("Too little memory: ask for fewer or smaller pictures.") from error
    except gr.Error as error:
        raise Refusal(zero_gpu_words(f"{error.title} {error.message}")) from error
    except (ValueError, RuntimeError, OSError, KeyError, TypeError) as error:
        if "out of memory" in str(error).lower():
            raise Refusal("The GPU is full: ask for fewer or smaller pictures.") from error
        logger.exception("a request failed")
        raise Refusal("Something failed on our side; please try again.") from error


def zero_gpu_words(message: str) -> str:
    """What ZeroGPU's errors mean for a visitor; `message` is title and sentence of one."""
    lowered = message.lower()
    return next((words for sign, words in _ZERO_GPU if sign in lowered), _ZERO_GPU_FAILED)


_ZERO_GPU_FAILED = "The GPU failed; please try again."
_USED_UP = (
    "Your free GPU time for now is used up: sign in to Hugging Face for more, or come back in some "
    "hours."
)
_ZERO_GPU = (
    # In this order: a queue that took too long has "quota exceeded" as its title.
    ("no gpu", "All GPUs are busy just now; try again in a minute."),
    ("maximum allowed", "One request gets less GPU time than this takes: ask for fewer pictures."),
    ("aborted", "The GPU was taken away before the end: ask for fewer pictures or fewer steps."),
    ("quota", _USED_UP),
    ("limit", _USED_UP),
    ("credits", _USED_UP),
)


def draw_seeds(seed: int, count: int) -> list[int]:
    """Consecutive seeds from `seed`, or from a random one for -1."""
    first = secrets.randbelow(checks.MAX_SEED - count) if seed == -1 else seed
    return [(first + place) % (checks.MAX_SEED + 1) for place in range(count)]


def _doing(job: Job, share: float, thought: str) -> str:
    if not share:
        if job.settings.think:
            return "Planning" if thought else "Reading the prompt"
        return "Reading the prompt"
    if len(job.seeds) == 1:
        return "Painting"
    return f"Painting picture {min(int(share * len(job.seeds)) + 1, len(job.seeds))}" + (
        f" of {len(job.seeds)}"
    )


def _at(values: Sequence[object], place: int) -> object:
    return values[place] if place < len(values) else None


def _given(path: str) -> Given:
    return Given(Path(path).name, hashlib.sha256(Path(path).read_bytes()).hexdigest())
