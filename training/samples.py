"""Samples of BAGEL from ready rows: every random draw of a visit is made here (spec 4 and 9).

A sample is, for every reference, its clean latent and its vision part, then the instruction, then
the noised target, in one copy or several that do not see each other. A row with an answer has it
after the instruction, and where it draws nothing, its references are vision parts only. Every
random number is keyed by (seed, row, visit, purpose).
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from echo4o.models.bagel.packing import (
    PackedBatch,
    Sample,
    Segment,
    TextSegment,
    VaeSegment,
    VitSegment,
)
from echo4o.sampler import shift_times

from . import draws
from .config import TrainConfig
from .examples import Example, Examples, Latent, Reference
from .latents import Encoder, normalised
from .order import Visit


class Samples:
    """Draws what differs between the visits of a row.

    Args:
        examples: The rows; knows how their references are put into another order.
        encoder: Draws latents.
        config: Probabilities, time distribution, copies, seed.
    """

    def __init__(self, examples: Examples, encoder: Encoder, config: TrainConfig) -> None:
        self._examples, self._encoder, self._config = examples, encoder, config

    def sample(self, visit: Visit, example: Example) -> Sample:
        """References, text, answer, target; nothing of a row that is only looked at is dropped."""
        example, config = self._in_drawn_order(visit, example), self._config
        target = example.target
        segments: list[Segment] = []
        if not (target and self._falls(visit, "drop references", config.drop_references)):
            for place, reference in enumerate(example.references):
                segments += self._reference(visit, place, reference)
        dropped = target is not None and self._falls(visit, "drop text", config.drop_text)
        segments.append(TextSegment(example.token_ids, dropped=dropped))
        if example.answer_ids is not None:
            segments.append(TextSegment(example.answer_ids, loss=True))
        if target is not None:
            latent = VaeSegment(self._latent(visit, target, "latent"), noised=True)
            segments += [latent] * config.noise_draws
        return segments

    def times(self, drawn: Sequence[Visit]) -> Tensor:
        """(targets,) flow times of visits that draw, copies of one side by side."""
        copies = self._config.noise_draws
        normals = [
            normal for v in drawn for normal in draws.spread_normals(copies, *self._key(v, "time"))
        ]
        return shift_times(torch.tensor(normals).sigmoid(), self._config.timestep_shift)

    def noise(self, packed: PackedBatch, drawn: Sequence[Visit]) -> Tensor:
        """(latent tokens, values) noise; the targets come in order of visits and copies."""
        width = packed.latents.shape[1]
        noise = np.zeros((len(packed.latents), width), dtype=np.float32)
        copies = ["noise", *(f"noise {copy}" for copy in range(1, self._config.noise_draws))]
        start, targets = 0, itertools.product(drawn, copies)
        for length, is_target in zip(packed.latent_lens, packed.latent_noised, strict=True):
            if is_target:
                key = self._key(*next(targets))
                noise[start : start + length] = draws.normals((length, width), *key)
            start += length
        return torch.from_numpy(noise)

    def _in_drawn_order(self, visit: Visit, example: Example) -> Example:
        count = len(example.references)
        if not self._config.shuffle_references or count < 2:
            return example
        order = draws.generator(*self._key(visit, "order")).permutation(count)
        return self._examples.reordered(example, order.tolist())

    def _reference(self, visit: Visit, place: int, reference: Reference) -> list[Segment]:
        vision = VitSegment(normalised(reference.pixels_HWC))
        if reference.latent is None:
            return [vision]
        drop_vae = self._falls(visit, f"drop vae {place}", self._config.drop_vae)
        drop_vit = self._falls(visit, f"drop vit {place}", self._config.drop_vit)
        latent = self._latent(visit, reference.latent, f"latent {place}")
        return [
            VaeSegment(latent, noised=False, dropped=drop_vae),
            dataclasses.replace(vision, dropped=drop_vit),
        ]

    def _latent(self, visit: Visit, latent: Latent, purpose: str) -> Tensor:
        assert latent.moments is not None, "Examples.finish has encoded it"
        return self._encoder.sample(latent.moments, *self._key(visit, purpose))

    def _falls(self, visit: Visit, purpose: str, probability: float) -> bool:
        return draws.uniform(*self._key(visit, purpose)) < probability

    def _key(self, visit: Visit, purpose: str) -> tuple[int | str, ...]:
        return (self._config.seed, visit.row, visit.visit, purpose)
