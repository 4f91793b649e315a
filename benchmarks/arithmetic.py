"""Counts of multiply-adds: those no implementation of BAGEL can avoid, and those a run made.

Only matrix products, convolutions and attention count. "Cannot be avoided" means: every context is
encoded once and with the attention mask used to skip what is masked, every step runs the branches
that guidance needs at its time, and the last layer computes only what somebody reads.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL
from torch.utils.flop_counter import FlopCounterMode

from echo4o.models.autoencoder import channels_last
from echo4o.models.bagel import BagelConfig
from echo4o.sampler import Guidance


class Stretch(NamedTuple):
    """Tokens of one segment of a context."""

    tokens: int
    causal: bool
    patches: int = 0
    """Of the vision tower, when the tokens are a picture for it."""


class Part(NamedTuple):
    """Tokens of one segment of a training sample."""

    tokens: int
    finished: int = 0
    """How many of them carry a loss."""
    causal: bool = False
    words: bool = False
    """Whether the loss is that of a text."""
    patches: int = 0
    """Of the vision tower, when the segment is a picture for it."""
    latents: int = 0
    """Latent tokens among them."""


class Counter:
    """The multiply-adds a model of this configuration cannot avoid."""

    def __init__(self, config: BagelConfig) -> None:
        text = config.text_config
        self.config, self.width, self.layers = config, config.hidden_size, text.num_hidden_layers
        kv = 2 * text.num_key_value_heads * config.head_dim
        self._kv = self.width * kv
        self._rest = 2 * self.width**2 + 3 * self.width * text.intermediate_size

    def forward(self, tokens: int, pairs: int, *, finished: bool) -> int:
        """`tokens` through the decoder with so many query-key pairs; unfinished: for their keys."""
        whole = self.layers if finished else self.layers - 1
        return tokens * (self.layers * self._kv + whole * self._rest) + (
            whole * pairs * 2 * self.width
        )

    def context(self, stretches: Sequence[Stretch]) -> int:
        """Encode a context."""
        total = before = 0
        for tokens, causal, patches in stretches:
            own = tokens * (tokens + 1) // 2 if causal else tokens**2
            total += self.forward(tokens, tokens * before + own, finished=False)
            total += self.vision(patches)
            before += tokens
        return total

    def vision(self, patches: int) -> int:
        """One picture through the vision tower and the connector."""
        vision = self.config.vision_config
        width = vision.hidden_size
        layer = 4 * width**2 + 2 * width * vision.intermediate_size + 2 * width * patches
        ends = 3 * self.config.vit_patch_size**2 * width + (width + self.width) * self.width
        return patches * (vision.num_hidden_layers * layer + ends)

    def step(self, latents: int, contexts: Sequence[int]) -> int:
        """One denoising step behind contexts of these lengths."""
        embedding = latents * self.config.latent_dim * self.width + (256 + self.width) * self.width
        # Up to the first attention the latents are the same in every branch.
        shared = (len(contexts) - 1) * latents * (self.width**2 + self._kv)
        return embedding + sum(self._branch(latents, context) for context in contexts) - shared

    def _branch(self, latents: int, context: int) -> int:
        keys = context + latents + 2
        velocity = latents * self.config.latent_dim * self.width
        markers = self.forward(2, 2 * keys, finished=False)
        return self.forward(latents, latents * keys, finished=True) + markers + velocity

    def denoising(
        self,
        latents: int,
        cond: int,
        text: int,
        image: int,
        times: Sequence[float],
        guidance: Guidance,
    ) -> int:
        """All steps, with the branches that guidance needs; the numbers are context lengths."""
        total = 0
        for moment in times:
            wants_text, wants_image = guidance.branches(moment)
            branches = [cond] + [text] * wants_text + [image] * (wants_image and image != cond)
            total += self.step(latents, branches)
        return total

    def training(self, samples: Sequence[Sequence[Part]]) -> int:
        """Forward and backward, all parameters trained; targets stand at the end of a sample.

        Every product has two more in the backward pass, for its input and its weights; where the
        input is data, only one.
        """
        text, vision = self.config.text_config, self.config.vision_config
        total = 0
        for sample in samples:
            before = 0
            for part in sample:
                own = part.tokens * (part.tokens + 1) // 2 if part.causal else part.tokens**2
                pairs = part.tokens * before + own
                total += 3 * self.forward(part.tokens, pairs, finished=False)
                # In the last layer only what carries a loss goes on.
                seen = pairs * part.finished // part.tokens
                head = text.vocab_size if part.words else self.config.latent_dim
                total += 3 * part.finished * (self._rest + self.width * head)
                total += 3 * seen * 2 * self.width + 3 * self.vision(part.patches)
                total -= part.patches * 3 * self.config.vit_patch_size**2 * vision.hidden_size
                total += 2 * part.latents * self.config.latent_dim * self.width
                before += part.tokens
        return total

    def writing(self, tokens: int, context: int) -> int:
        """Decode so many tokens behind a context."""
        head = self.width * self.config.text_config.vocab_size
        return sum(
            self.forward(1, context + index + 1, finished=True) + head for index in range(tokens)
        )


def performed(run: Callable[[], Any]) -> int:
    """Multiply-adds that a call made."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    mapping = {
        attention: _attention_flops,
        backward: _attention_backward_flops,
        torch.ops.echo4o.attend: _attention_flops,
        torch.ops.echo4o.convolve: _winograd_flops,
        torch.ops.echo4o.gated: _gated_flops,
        torch.ops.mkldnn._linear_pointwise: _linear_flops,
    }
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        run()
    return int(counter.get_total_flops()) // 2


def _winograd_flops(x: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
    """16 products for the 4 pixels of a tile."""
    tiles = x[0] * -(-x[2] // 2) * -(-x[3] // 2)
    return 2 * 16 * tiles * weight[0] * weight[1]


def _gated_flops(x: torch.Size, gate: torch.Size, up: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * 2 * x.numel() * gate[0]


def _attention_flops(
    query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any
) -> int:
    batch, heads, length, dim = query
    return 2 * batch * heads * length * key[2] * (dim + value[3])


def _attention_backward_flops(
    _: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *__: Any, **___: Any
) -> int:
    """Five products for the two of the forward pass: the scores are computed again."""
    return _attention_flops(query, key, value) * 5 // 2


def _linear_flops(x: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * math.prod(x) * weight[0]


@torch.no_grad()
def decoding(vae: AutoencoderKL, side: int) -> int:
    """The autoencoder's decoder on one square picture."""
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    latent = torch.zeros(1, vae.config.latent_channels, side // scale, side // scale)
    return performed(lambda: vae.decode(channels_last(latent)))


@torch.no_grad()
def encoding(vae: AutoencoderKL, side: int) -> int:
    """The autoencoder's encoder on one square picture."""
    return performed(lambda: vae.encode(torch.zeros(1, 3, side, side)))


def matrix_rate(seconds: float = 0.2, sizes: Sequence[int] = (256, 512, 1024)) -> float:
    """Multiply-adds per second of the best square fp32 product, with the threads that are set."""
    return max(_rate(size, seconds / len(sizes)) for size in sizes)


def sustained_rate(seconds: float = 0.2, size: int = 512) -> float:
    """The same over all the time, not its best moment: what a run of seconds can hope for."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    products, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        torch.mm(a, b)
        products += 1
    return products * size**3 / passed


def _rate(size: int, seconds: float) -> float:
    a, b = torch.randn(size, size), torch.randn(size, size)
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return size**3 / best
