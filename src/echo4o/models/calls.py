"""What calls of all pipelines share: forms that arguments may have, and what is returned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

OutputType = Literal["pil", "np", "latent"]
Generators = torch.Generator | Sequence[torch.Generator] | None
Pictures = Image.Image | Sequence[Image.Image] | Sequence[Sequence[Image.Image]] | None


@dataclass
class Echo4oPipelineOutput(BaseOutput):
    """What a call returns; entries are ordered by prompt, then by picture of the prompt."""

    images: list[Image.Image] | list[np.ndarray[Any, Any]] | list[Tensor]
    """Pictures; or arrays (height, width, 3) in [0, 1]; or latent tokens (N, P)."""
    thoughts: list[str] | None = None
    """With `think=True` the plan of every prompt."""


def as_prompts(prompt: str | Sequence[str] | None) -> list[str]:
    """A text or several -> a list of them.

    Raises:
        ValueError: there is none, or something else among them.
    """
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if prompts is None or (isinstance(prompts, Sequence) and not prompts):
        raise ValueError('there is no prompt; give a text ("" for an unconditional picture)')
    if not isinstance(prompts, Sequence) or not all(isinstance(one, str) for one in prompts):
        raise ValueError(f"`prompt` must be a text or a list of texts, got {prompt!r:.80}")
    for text in prompts:
        check_text(text)
    return list(prompts)


def check_text(text: str) -> None:
    """Refuse halves of characters, which a command line may hold and no tokenizer reads.

    Raises:
        ValueError: it has some.
    """
    if not text.isascii() and text != text.encode("utf-8", "ignore").decode():
        raise ValueError(f"a text has characters that are no Unicode: {text[:40]!a}")


def as_picture_lists(image: Pictures, num_prompts: int) -> list[list[Image.Image]]:
    """One list of reference pictures per prompt; a flat list belongs to every prompt."""
    if image is None:
        return [[] for _ in range(num_prompts)]
    if isinstance(image, Image.Image):
        return [[image] for _ in range(num_prompts)]
    if not isinstance(image, Sequence):
        raise ValueError(f"`image` must be PIL pictures, got {type(image).__name__}")
    if all(isinstance(item, Image.Image) for item in image):
        return [list(image) for _ in range(num_prompts)]  # type: ignore[arg-type]
    lists = [list(own) for own in image if isinstance(own, Sequence)]
    strange = [one for own in lists for one in own if not isinstance(one, Image.Image)]
    if strange or len(lists) != len(image) or len(image) != num_prompts:
        found = f", with a {type(strange[0]).__name__} among them" if strange else ""
        raise ValueError(
            "`image` must be a picture, a list of pictures, or one list of pictures per prompt; "
            f"got {len(image)} entries for {num_prompts} prompts{found}"
        )
    return lists


def as_generators(generator: Generators, total: int) -> list[torch.Generator | None]:
    """One generator per picture, perhaps the same one.

    Raises:
        ValueError: the list has another length.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return [generator] * total
    if len(generator) != total:
        raise ValueError(f"{total} pictures need {total} generators, got {len(generator)}")
    return list(generator)


def after_step(
    pipe: Any,
    advance: Callable[[], Any],
    callback: Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None] | None,
) -> Callable[[int, Tensor, Tensor], Tensor]:
    """What follows a step of (number, timestep, latents): the bar moves, the callback is called."""

    def step_end(step: int, timestep: Tensor, latents: Tensor) -> Tensor:
        advance()
        if callback is None:
            return latents
        changed = callback(pipe, step, timestep, {"latents": latents})
        return (changed or {}).get("latents", latents)

    return step_end


def check_output_type(output_type: str) -> None:
    """Refuse what `to_output` does not know.

    Raises:
        ValueError: it is none of them.
    """
    if output_type not in get_args(OutputType):
        raise ValueError(f'`output_type` must be "pil", "np" or "latent", got {output_type!r}')


def to_output(pictures: Tensor, output_type: OutputType) -> Sequence[Any]:
    """Decoded pixels (B, 3, height, width), or latents, in the kind that was asked for."""
    if output_type == "latent":
        return list(pictures)
    if output_type == "np":
        array = (pictures * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        return list(array)
    return [Image.fromarray(picture) for picture in to_uint8(pictures)]


def to_uint8(pixels_BCHW: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Decoded pixels, about [-1, 1] -> (B, height, width, 3) uint8; fractions are cut off."""
    scaled = (pixels_BCHW.float() * 0.5 + 0.5).clamp(0, 1) * 255
    array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = (
        scaled.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()
    )
    return array
