"""Arguments of the pipeline's call: the forms they may have, and what they stand for."""

from collections.abc import Sequence

from ...sampler import Guidance, Renorm
from ..calls import Pictures, as_picture_lists, as_prompts
from .conditioning import Part


def as_requests(
    prompt: str | Sequence[str] | None,
    image: Pictures,
    segments: Sequence[Part] | Sequence[Sequence[Part]] | None,
) -> list[list[Part]]:
    """All forms of a request -> one list of texts and pictures per picture to be made.

    Raises:
        ValueError: there is no prompt, or two forms at once.
    """
    if segments is not None:
        if prompt is not None or image is not None:
            raise ValueError("give either `segments` or `prompt` and `image`, not both")
        if segments and all(isinstance(parts, list | tuple) for parts in segments):
            return [list(parts) for parts in segments]  # type: ignore[arg-type]
        return [list(segments)]  # type: ignore[arg-type]
    prompts = as_prompts(prompt)
    pictures = as_picture_lists(image, len(prompts))
    return [[*own, text] for own, text in zip(pictures, prompts, strict=True)]


def guidance_for(
    with_pictures: bool,
    scale: float,
    image_scale: float | None,
    interval: tuple[float, float] | None,
    renorm: Renorm | None,
    renorm_min: float,
) -> Guidance:
    """Fill in the published recipe of the mode where a value was left open."""
    default: tuple[float, tuple[float, float], Renorm] = (1.0, (0.4, 1.0), "global")
    if with_pictures:
        default = (2.0, (0.0, 1.0), "text_channel")
    return Guidance(
        text_scale=scale,
        image_scale=default[0] if image_scale is None else image_scale,
        interval=default[1] if interval is None else interval,
        renorm=default[2] if renorm is None else renorm,
        renorm_min=renorm_min,
    )
