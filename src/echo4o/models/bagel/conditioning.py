"""From a request (texts and pictures in order) to encoded contexts for the three guidance branches.

The rules are those of the specification, section 7: the context without text is what stands before
the last text, the context without pictures holds the texts alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor
from transformers import Qwen2Tokenizer

from ..calls import check_text
from ..devices import working_device
from ..pixels import to_pixels, to_rgb
from .cache import Context
from .configuration import BagelConfig
from .generation import encode_contexts, prefix
from .modeling import BagelForUnifiedGeneration
from .packing import Segment, TextSegment, VaeSegment, VitSegment
from .processor import ResizeRule

Part = str | Image.Image
"""A text or a picture of a request."""
MAX_REFERENCES = 4
_TAGS = (
    "{lead} is enclosed within <think> </think> tags, i.e. "
    "<think> {what} process here </think> {then} here"
)
PLANNING_PROMPT = (
    "You should first think about the planning process in the mind and then generate the image. \n"
    + _TAGS.format(lead="The planning process", what="planning", then="image")
)
REASONING_PROMPT = (
    "You should first think about the reasoning process in the mind and then provide the user "
    "with the answer. \n"
    + _TAGS.format(lead="The reasoning process", what="reasoning", then="answer")
)


class Branches(NamedTuple):
    """The contexts of one request."""

    cond: Context
    """Everything."""
    text: Context
    """Without the (last) text."""
    image: Context
    """Without the pictures."""
    size: tuple[int, int] | None
    """(height, width) of the last picture as it was resized, if there is one."""


@dataclass(slots=True)
class _Request:
    """The segments of one request while they are collected."""

    main: list[Segment] = field(default_factory=list)
    texts: list[Segment] = field(default_factory=list)
    text_cut: int = 0
    """Segments of `main` that belong to the context without text."""
    size: tuple[int, int] | None = None


class Conditioner:
    """Turns requests into contexts with the components of a pipeline."""

    def __init__(
        self, model: BagelForUnifiedGeneration, vae: AutoencoderKL, tokenizer: Qwen2Tokenizer
    ) -> None:
        self.model, self.vae, self.tokenizer = model, vae, tokenizer
        self.config: BagelConfig = model.config
        self.vae_rule = ResizeRule(*self.config.vae_transform)
        self.vit_rule = ResizeRule(*self.config.vit_transform)

    def encode(
        self,
        requests: Sequence[Sequence[Part]],
        *,
        system_prompt: str | None = None,
        with_latents: bool = True,
        reference_noise: Sequence[Tensor] | None = None,
    ) -> list[Branches]:
        """Encode all requests in one packed forward.

        Args:
            requests: texts and pictures in order, per request.
            system_prompt: put in front of every request (think mode).
            with_latents: pictures are references for a new picture, not only to be understood.
            reference_noise: noise of the autoencoder's sampling for every picture of all requests,
                each (1, channels, rows, columns); None: a fixed noise, so that a picture always
                has the same latent, whatever the seed of the new picture.
        """
        noise = iter(reference_noise) if reference_noise is not None else None
        collected = []
        for parts in requests:
            request = _Request()
            if system_prompt is not None:
                self._add_text(request, system_prompt)
            for part in parts:
                if isinstance(part, str):
                    request.text_cut = len(request.main)
                    self._add_text(request, part)
                else:
                    given = next(noise) if noise is not None and with_latents else None
                    self._add_picture(request, part, with_latents, given)
            collected.append(request)
        return self._run(collected)

    def text(self, text: str) -> TextSegment:
        """Tokenise one text."""
        return TextSegment(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_picture(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """(3, height, width) in [-1, 1] -> scaled latent (channels, rows, columns).

        The latent is sampled, as in training and in the published inference.
        """
        # Not channels last: that is a third faster, but where a picture is even the norms blow the
        # convolutions' rounding up to 1e-3, which is 7e-6 so.
        inputs = pixels[None].contiguous().to(working_device(self.vae), self.vae.dtype)
        moments = self.vae.encode(inputs).latent_dist
        if noise is None:
            fixed = torch.Generator().manual_seed(0)
            noise = torch.randn(moments.mean.shape, generator=fixed)
        latent = moments.mean + moments.std * noise.to(moments.mean)
        scaled = self.vae.config.scaling_factor * (latent - self.vae.config.shift_factor)
        return scaled[0].float()

    def _add_text(self, request: _Request, text: str) -> None:
        segment = self.text(text)
        request.main.append(segment)
        request.texts.append(segment)

    def _add_picture(
        self, request: _Request, picture: Image.Image, with_latents: bool, noise: Tensor | None
    ) -> None:
        resized = self.vae_rule.resize(to_rgb(picture))
        if with_latents:
            latent = self.encode_picture(to_pixels(resized), noise)
            request.main.append(VaeSegment(latent.cpu(), noised=False))
        request.main.append(VitSegment(to_pixels(self.vit_rule.resize(resized))))
        request.text_cut = len(request.main)
        request.size = (resized.height, resized.width)

    def _run(self, requests: list[_Request]) -> list[Branches]:
        samples = [request.main for request in requests]
        own_texts = [index for index, r in enumerate(requests) if r.size is not None and r.texts]
        samples += [requests[index].texts for index in own_texts]
        for sample in samples:
            self._check_length(sample)
        contexts, batch = encode_contexts(self.model, samples)
        branches = []
        for index, request in enumerate(requests):
            cond = contexts[index]
            image = cond if request.size is None else prefix(cond, batch, index, 0)
            if index in own_texts:
                image = contexts[len(requests) + own_texts.index(index)]
            text = prefix(cond, batch, index, request.text_cut)
            branches.append(Branches(cond, text, image, request.size))
        return branches

    def _check_length(self, sample: list[Segment]) -> None:
        """Refuse what takes more positions than the model has; a picture takes one or two."""
        steps = (len(s.token_ids) + 2 if isinstance(s, TextSegment) else 1 for s in sample)
        length, limit = sum(steps), self.config.text_config.max_position_embeddings
        if length >= limit:
            raise ValueError(
                f"the request takes {length} positions, the model has {limit}; shorten the text"
            )


def check_requests(requests: Sequence[Sequence[Part]]) -> None:
    """Refuse empty requests, wrong types and too many pictures.

    Raises:
        ValueError: says which request and why.
    """
    if not requests:
        raise ValueError("there is no prompt: give at least one")
    for parts in requests:
        wrong = [type(part).__name__ for part in parts if not isinstance(part, str | Image.Image)]
        if wrong or not parts:
            found = f"a {wrong[0]}" if wrong else "nothing"
            raise ValueError(f"a request is made of texts and PIL pictures, got {found}")
        for text in (part for part in parts if isinstance(part, str)):
            check_text(text)
        pictures = sum(isinstance(part, Image.Image) for part in parts)
        if pictures > MAX_REFERENCES:
            raise ValueError(
                f"at most {MAX_REFERENCES} reference pictures are possible, got {pictures}"
            )


def check_room(context: Context, max_new_tokens: int, config: BagelConfig) -> None:
    """Refuse to write beyond the positions of the model.

    Raises:
        ValueError: the context and the longest text behind it do not fit.
    """
    limit = config.text_config.max_position_embeddings
    if context.position + max_new_tokens > limit:
        raise ValueError(
            f"the request takes {context.position} positions and up to {max_new_tokens} tokens "
            f"are to be written, the model has {limit}; shorten the text or lower the limit"
        )
