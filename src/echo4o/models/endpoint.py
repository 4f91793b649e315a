"""What a published model does on Inference Endpoints: `handler.py` of its repo imports this class.

It opens a model of every kind in `kinds.py`, and takes what that kind's pipeline can do. A request
may come from anybody: it is checked before the model sees it, and answered with a sentence when it
cannot be served.
"""

import base64
import binascii
import inspect
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Echo4oError
from ..pictures import PictureError, picture_facts
from .kinds import KINDS, OURS, pipeline_class
from .pictures import PictureRecord, encode_png

if TYPE_CHECKING:
    from PIL import Image

HANDLER = '''"""Serves this model on Inference Endpoints."""

from echo4o.models.endpoint import EndpointHandler as EndpointHandler
'''
"""The whole `handler.py`: the code comes from the installed package, never from the repo."""
_LONGEST_PROMPT = 4_000
_MOST_PICTURES = 4


def _is_integer(least: int, most: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and least <= value <= most


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100


_PARAMETERS: dict[str, Callable[[object], bool]] = {
    "height": _is_integer(16, 2048),
    "width": _is_integer(16, 2048),
    "num_inference_steps": _is_integer(1, 200),
    "guidance_scale": _is_number,
    "image_guidance_scale": _is_number,
    "timestep_shift": _is_number,
    "seed": _is_integer(0, 2**63 - 1),
}


class EndpointHandler:
    """The class that the Inference Toolkit looks for."""

    def __init__(self, path: str = "") -> None:
        import torch

        from .opening import open_on

        self.kind, self.name = pipeline_class(path), Path(path).resolve().name
        is_gpu = torch.cuda.is_available()
        self.pipe: Any = open_on(self.kind, path, dtype=torch.bfloat16 if is_gpu else None)
        self.pipe.set_progress_bar_config(disable=True)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one request.

        Args:
            data: `inputs` is the prompt; `images` are up to four pictures in base64, in order;
                `parameters` are those of the pipeline's call and `seed`; with `question` in place
                of `inputs` the pictures are asked about.

        Returns:
            `image` (a marked PNG in base64), or `answer`, or `error` with one sentence.
        """
        try:
            return self._answer(data)
        except (Echo4oError, ValueError) as error:
            return {"error": str(error)}

    def _answer(self, data: Mapping[str, Any]) -> dict[str, Any]:
        import torch

        pictures = [_picture(one) for one in _list(data.get("images"))]
        if "question" in data:
            if self.kind != OURS:
                raise ValueError(f"a model of {self.kind} answers no `question`; give `inputs`")
            return {"answer": self.pipe.understand(pictures, _text(data, "question"))}
        if pictures and "image" not in inspect.signature(self.pipe.__call__).parameters:
            raise ValueError(f"a model of {self.kind} takes no `images`; leave them out")
        prompt = _text(data, "inputs")
        options = _parameters(data.get("parameters"), KINDS[self.kind].settings)
        generator = None
        if (seed := options.pop("seed", None)) is not None:
            generator = torch.Generator("cpu").manual_seed(seed)
        references = {"image": pictures} if pictures else {}
        made = self.pipe(prompt, generator=generator, **references, **options)
        record = PictureRecord(prompt=prompt, model=self.name, seed=seed, parameters=options)
        return {"image": base64.b64encode(encode_png(made.images[0], record)).decode()}


def write_handler(folder: Path, requirement: str) -> None:
    """Put `handler.py` and `requirements.txt` into a model folder that is about to be published.

    Args:
        folder: The model.
        requirement: What pip installs there, such as a wheel's address with its hash.
    """
    from ..records import write_atomic

    write_atomic(folder / "handler.py", HANDLER)
    write_atomic(folder / "requirements.txt", requirement + "\n")


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not 0 < len(value.strip()) <= _LONGEST_PROMPT:
        raise ValueError(f"`{name}` must be a text of 1 to {_LONGEST_PROMPT} characters")
    return value


def _list(value: object) -> list[object]:
    given = [] if value is None else value
    if not isinstance(given, list) or len(given) > _MOST_PICTURES:
        raise ValueError(f"`images` must be a list of at most {_MOST_PICTURES} pictures")
    return given


def _picture(value: object) -> "Image.Image":
    from PIL import Image

    try:
        data = base64.b64decode(str(value), validate=True)
        picture_facts(data)
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "GIF"))
        image.load()
    except (binascii.Error, PictureError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"a picture in `images` cannot be read: {error}") from error
    return image


def _parameters(value: object, settings: Sequence[str]) -> dict[str, Any]:
    given = {} if value is None else value
    if not isinstance(given, dict):
        raise ValueError("`parameters` must be an object")
    known = [name for name in _PARAMETERS if name == "seed" or name in settings]
    for name, one in given.items():
        if name not in known:
            raise ValueError(f"unknown parameter {name!r:.40}; known: {', '.join(known)}")
        if not _PARAMETERS[name](one):
            raise ValueError(f"`{name}` cannot be {one!r:.40}")
    return dict(given)
