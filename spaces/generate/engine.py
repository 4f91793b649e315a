"""The model behind the page: which one, loaded once beside the page's start, asked one at a time.

Nothing here knows about widgets; echo4o and torch are imported when loading starts.
"""

import logging
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from PIL import Image

    from echo4o import Echo4oPipeline

logger = logging.getLogger(__name__)

State = Literal["none", "loading", "ready", "failed"]
NAMED_IN = Path(__file__).with_name("model.txt")
TINY_PIXELS = 256
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")


class Made(NamedTuple):
    """One picture and the seed that makes it again."""

    image: "Image.Image"
    seed: int


class Settings(NamedTuple):
    """What a picture depends on besides its prompt and references."""

    width: int
    height: int
    steps: int
    guidance: float


class Engine:
    """Loads one model in the background and makes pictures with it."""

    def __init__(self, source: str | None) -> None:
        self.source = source
        self.state: State = "none" if source is None else "loading"
        self._pipeline: Echo4oPipeline | None = None
        self._loaded = threading.Event()
        self._one_at_a_time = threading.Lock()

    def start(self) -> None:
        """Begin loading; on ZeroGPU, which needs models at module level, wait for the end."""
        if self.source is None:
            return
        thread = threading.Thread(target=self._load, name="load-model", daemon=True)
        thread.start()
        if "SPACES_ZERO_GPU" in os.environ:
            thread.join()

    def wait(self, seconds: float | None = None) -> "Echo4oPipeline | None":
        """The pipeline once it is loaded; None when there is none or loading failed."""
        if self.source is not None:
            self._loaded.wait(seconds)
        return self._pipeline

    @property
    def name(self) -> str:
        """The model's Hub id, or the folder's own name: never a path of this machine."""
        source = self.source or ""
        is_id = HUB_ID.fullmatch(source) and not Path(source).is_dir()
        return source if is_id else Path(source).name

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
        return self.longest <= TINY_PIXELS

    def paint(
        self,
        prompt: str,
        references: "list[Image.Image]",
        settings: Settings,
        seeds: list[int],
        advance: Callable[[int, int], None],
    ) -> list[Made]:
        """One picture per seed; `advance(done, total)` is called after every denoising step."""
        import torch

        pipeline = self.wait()
        assert pipeline is not None
        total = settings.steps * len(seeds)
        made = []
        for place, seed in enumerate(seeds):
            start = place * settings.steps

            def on_step(
                _pipe: object, step: int, _t: object, values: dict[str, object], start: int = start
            ) -> dict[str, object]:
                advance(start + step + 1, total)
                return values

            with self._one_at_a_time:
                result = pipeline(
                    prompt,
                    references or None,
                    **self.arguments(settings),
                    generator=torch.Generator("cpu").manual_seed(seed),
                    callback_on_step_end=on_step,
                )
            made.append(Made(result.images[0], seed))
        return made

    @staticmethod
    def arguments(settings: Settings) -> dict[str, object]:
        """Settings under the names of the pipeline's call."""
        return {
            "width": settings.width,
            "height": settings.height,
            "num_inference_steps": settings.steps,
            "guidance_scale": settings.guidance,
        }

    def encode(self, made: Made, prompt: str, used: dict[str, object]) -> bytes:
        """A PNG file that says it is machine-made and holds what makes it again."""
        from echo4o.models.pictures import PictureRecord, encode_png

        pipeline = self.wait()
        assert pipeline is not None
        record = PictureRecord(
            prompt=prompt,
            model=self.name,
            revision=pipeline.source_revision,
            seed=made.seed,
            parameters=used,
        )
        return encode_png(made.image, record)

    def ask(self, picture: "Image.Image", question: str) -> str:
        """The model's answer to a question about a picture."""
        pipeline = self.wait()
        assert pipeline is not None
        with self._one_at_a_time:
            return str(pipeline.understand([picture], question)).strip()

    def _load(self) -> None:
        started = time.monotonic()
        try:
            self._pipeline = load(self.source or "")
            logger.info("loaded %s in %.1f s", self.name, time.monotonic() - started)
        finally:
            # Whatever went wrong is in the log (threading prints it); visitors see that it did.
            self.state = "failed" if self._pipeline is None else "ready"
            self._loaded.set()


def load(source: str) -> "Echo4oPipeline":
    """Load a folder or a Hub id (`ORG/NAME` or `ORG/NAME@REVISION`) onto the best device."""
    import torch

    from echo4o import Echo4oPipeline

    revision = None
    if not Path(source).is_dir() and "@" in source:
        source, revision = source.rsplit("@", 1)
    on_gpu = torch.cuda.is_available()
    pipeline = Echo4oPipeline.from_pretrained(
        source,
        revision=revision,
        dtype=torch.bfloat16 if on_gpu else None,
        device_map="cuda" if on_gpu else None,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def configured_source() -> str | None:
    """The model this Space was told to use: `$ECHO4O_MODEL`, else `model.txt` beside the app."""
    named = os.environ.get("ECHO4O_MODEL", "").strip()
    if not named and NAMED_IN.is_file():
        named = NAMED_IN.read_text().strip()
    return named or None
