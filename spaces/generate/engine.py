"""The model behind the page: which one, loaded once beside the page's start, asked one at a time.

Nothing here knows about widgets; echo4o and torch are imported when loading starts.
"""

import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from cost import PLAN_TOKENS, CostModel
from loads import LOADS
from streams import Piece, Put, Streams, Tick

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from echo4o import Echo4oPipeline

logger = logging.getLogger(__name__)

ON_ZERO_GPU = "SPACES_ZERO_GPU" in os.environ
State = Literal["none", "loading", "ready", "failed"]
NAMED_IN = Path(__file__).with_name("model.txt")
TINY_PIXELS = 256
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")
ANSWER_TOKENS = 512
PREVIEW_SECONDS = 0.4
"""Least time between two previews: they must not slow the picture down."""


class Made(NamedTuple):
    """One finished picture and the seed that makes it again."""

    image: "Image.Image"
    seed: int


class Step(NamedTuple):
    """A denoising step is done."""

    picture: int
    """Which picture of the job, from 0."""
    done: int
    """Steps done of this picture, from 1."""
    preview: bytes | None = None
    """A small JPEG of what the picture will be, now and then."""


class Settings(NamedTuple):
    """What a picture depends on besides its prompt, references and seed."""

    width: int
    height: int
    steps: int
    guidance: float
    fast: bool = True
    """Whether most steps are extrapolated instead of computed."""
    think: bool = False
    """Whether the model writes a plan first."""


class Job(NamedTuple):
    """A checked request for pictures, one per seed."""

    prompt: str
    references: "tuple[Image.Image, ...]"
    settings: Settings
    seeds: tuple[int, ...]


Event = Step | Made | Piece | Tick


class OtherKindError(Exception):
    """The model is none that this page can show."""


class Engine:
    """Loads one model in the background and makes pictures with it."""

    def __init__(self, source: str | None, name: str | None = None) -> None:
        self.source = str(Path(source).resolve()) if source and Path(source).is_dir() else source
        self.state: State = "none" if source is None else "loading"
        self.reason = ""
        """Why loading failed, in words for visitors."""
        self.cost = CostModel()
        self._name = name
        self._pipeline: Echo4oPipeline | None = None
        self._loaded = threading.Event()
        self._streams = Streams()

    def start(self) -> None:
        """Begin loading beside the page's start; on ZeroGPU load before it.

        There a model is packed when the page starts, and only the thread that imported `spaces`
        has the stand-in for the GPU that is not there yet.
        """
        if self.source is None:
            return
        if ON_ZERO_GPU:
            LOADS.here(self._load)
        else:
            LOADS.start(self._load)

    def wait(self, seconds: float | None = None) -> "Echo4oPipeline | None":
        """The pipeline once it is loaded; None when there is none or loading failed."""
        if self.source is not None:
            self._loaded.wait(seconds)
        return self._pipeline

    def loaded(self) -> "Echo4oPipeline":
        """The pipeline of an engine that is ready."""
        pipeline = self.wait()
        if pipeline is None:
            raise RuntimeError("no model is loaded")
        return pipeline

    @property
    def name(self) -> str:
        """The model's Hub id, or the folder's own name: never a path of this machine."""
        source = self.source or ""
        is_id = HUB_ID.fullmatch(source) and not Path(source).is_dir()
        return self._name or (source if is_id else Path(source).name)

    @property
    def revision(self) -> str | None:
        """The commit of the Hub repository that the model came from."""
        return self.loaded().source_revision

    @property
    def longest(self) -> int:
        """The longest side of a picture in pixels that the model was made for."""
        pipeline = self.wait()
        if pipeline is None:
            return 0
        config = pipeline.model.config
        return min(config.vae_transform[0], config.max_latent_size * config.latent_stride)

    @property
    def unit(self) -> int:
        """Sides of a picture are multiples of this many pixels."""
        pipeline = self.wait()
        return 16 if pipeline is None else pipeline.model.config.latent_stride

    @property
    def is_tiny(self) -> bool:
        """Whether this is a rehearsal's model, which knows shapes and not photographs."""
        return 0 < self.longest <= TINY_PIXELS

    def paint(self, job: Job) -> Iterator[Event]:
        """Steps with previews, the plan as it is written, and every picture once it is finished.

        Ends within a step of being closed.
        """

        def work(put: Put) -> None:
            for place, seed in enumerate(job.seeds):
                put(self._picture(job, place, seed, put))

        return self._streams.run(work)

    def ask(self, picture: "Image.Image", question: str) -> Iterator[Event]:
        """The answer to a question about a picture, longer with every piece."""

        def work(put: Put) -> None:
            pipeline = self.loaded()
            writer = self._streams.writer(pipeline.tokenizer, put)
            pipeline.understand([picture], question, max_new_tokens=ANSWER_TOKENS, streamer=writer)

        return self._streams.run(work)

    def seconds(self, job: Job) -> float:
        """How long a job will probably take."""
        return self.cost.seconds(job, self.unit)

    def _picture(self, job: Job, place: int, seed: int, put: Put) -> Made:
        import torch
        from preview import Previews

        from echo4o.models.bagel.step_cache import StepCache

        pipeline, settings = self.loaded(), job.settings
        # Whole steps, whatever a job before this one wanted.
        pipeline.enable_cache(StepCache()) if settings.fast else pipeline.disable_cache()
        previews = Previews(pipeline, settings.height, settings.width, every=PREVIEW_SECONDS)

        def on_step(
            _pipe: object, step: int, _time: object, values: "dict[str, torch.Tensor]"
        ) -> "dict[str, torch.Tensor]":
            put(Step(place, step + 1, previews.look(step, values["latents"])))
            return values

        images, _ = pipeline(
            job.prompt,
            list(job.references) or None,
            **self.arguments(settings),
            max_think_tokens=PLAN_TOKENS,
            streamer=self._streams.writer(pipeline.tokenizer, put) if settings.think else None,
            generator=torch.Generator("cpu").manual_seed(seed),
            callback_on_step_end=on_step,
            return_dict=False,
        )
        return Made(images[0], seed)

    @staticmethod
    def arguments(settings: Settings) -> dict[str, Any]:
        """Settings under the names of the pipeline's call, all that a repetition needs."""
        return {
            "width": settings.width,
            "height": settings.height,
            "num_inference_steps": settings.steps,
            "guidance_scale": settings.guidance,
            "image_guidance_scale": None,
            "timestep_shift": 3.0,
            "think": settings.think,
        }

    def _load(self) -> None:
        started = time.monotonic()
        try:
            self._pipeline = load(self.source or "")
            self.cost = CostModel.of(self._pipeline)
            logger.info("loaded %s in %.1f s", self.name, time.monotonic() - started)
        except (MemoryError, OtherKindError) as error:
            self.reason = str(error) or "It needs more memory than this machine has."
            logger.error("%s", error)
        finally:
            # Whatever went wrong is in the log (threading prints it); visitors see that it did.
            self.state = "failed" if self._pipeline is None else "ready"
            self._loaded.set()


def load(source: str) -> "Echo4oPipeline":
    """Load a folder or a Hub id (`ORG/NAME` or `ORG/NAME@REVISION`) onto the best device.

    Raises:
        MemoryError: the weights are larger than what is free.
        OtherKindError: it is another kind of model.
    """
    import torch

    from echo4o import Echo4oPipeline
    from echo4o.models.bagel.checkpoint import locate
    from echo4o.models.kinds import OURS, pipeline_class

    revision = None
    if not Path(source).is_dir() and "@" in source:
        source, revision = source.rsplit("@", 1)
    kind = pipeline_class(source, revision)
    if kind != OURS:
        raise OtherKindError(f"It is a model of {kind}, and this page shows those of {OURS}.")
    on_gpu = torch.cuda.is_available()
    located = locate(source, revision=revision)
    size = sum(path.stat().st_size for path in located.folder.rglob("*.safetensors"))
    if not ON_ZERO_GPU:  # there no GPU is at hand before a request
        check_memory(size, free_memory(on_gpu))
    small = size < 1e9
    pipeline = Echo4oPipeline.from_pretrained(
        source,
        revision=revision,
        # bfloat16 gains nothing on a CPU, but halves what a large model needs.
        dtype=torch.bfloat16 if on_gpu else torch.float32 if small else None,
        # The threads that place weights have no stand-in for ZeroGPU's GPU either.
        device_map="cuda" if on_gpu and not ON_ZERO_GPU else None,
    )
    if ON_ZERO_GPU:
        pipeline.to("cuda")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def free_memory(on_gpu: bool) -> int:
    """Bytes that are free on the GPU, or in this machine's memory."""
    if on_gpu:
        import torch

        free, _ = torch.cuda.mem_get_info()
        return int(free)
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _reclaimable()


def _reclaimable() -> int:
    """Bytes of file caches that Linux gives back when memory is asked for."""
    try:
        facts = Path("/proc/meminfo").read_text()
    except OSError:
        return 0
    found = re.search(r"^Cached:\s+(\d+) kB", facts, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def check_memory(needed: int, free: int) -> None:
    """Refuse to load what would end the process.

    Raises:
        MemoryError: with a sentence for visitors.
    """
    if needed > free:
        raise MemoryError(
            f"Its weights take {needed / 1e9:.0f} GB and {free / 1e9:.0f} GB are free here; "
            "the owner needs larger hardware."
        )


def configured_source() -> tuple[str | None, str | None]:
    """The model this Space was told to use, and what to call it if that is no Hub id or folder.

    `$ECHO4O_MODEL`, else `model.txt` beside the app, else the tiny one for `ECHO4O_DEMO=tiny`.
    """
    named = os.environ.get("ECHO4O_MODEL", "").strip()
    if not named and NAMED_IN.is_file():
        named = NAMED_IN.read_text().strip()
    demo = os.environ.get("ECHO4O_DEMO", "").strip()
    if demo not in ("", "tiny"):
        raise ValueError(f"ECHO4O_DEMO can be tiny or nothing, got {demo!r}")
    if not named and demo:
        from importlib.resources import files

        return str(files("echo4o.models") / "tiny_model"), "tiny"
    return named or None, None
