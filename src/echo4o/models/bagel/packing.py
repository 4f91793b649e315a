"""Packing: texts and pictures of several samples become one token stream for one forward.

Training and inference share it. A sample is a sequence of segments; inside the model the tokens are
ordered by expert (texts and markers, vision tokens, then latent tokens), so that each expert works
on one contiguous slice; `Layout` maps that order to one padded row per sample for attention.

Shape letters: T tokens of the pack, S samples, N tokens of one kind.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .configuration import BagelConfig
from .layout import PackedLayout

Mode = Literal["causal", "full", "noise"]


@dataclass(frozen=True, slots=True)
class TextSegment:
    """A text; the opening and closing tokens are added by `pack`."""

    token_ids: list[int]
    """Content tokens only."""
    loss: bool = False
    """Whether the model learns to write this text (cross-entropy on content and closing token)."""
    dropped: bool = False
    """Left out by condition dropout; takes no position."""


@dataclass(frozen=True, slots=True)
class VitSegment:
    """A picture for the vision tower."""

    pixels: Tensor
    """(3, height, width) in [-1, 1], sides multiples of the vision patch size."""
    dropped: bool = False
    """Left out by condition dropout; still takes one position."""


@dataclass(frozen=True, slots=True)
class VaeSegment:
    """A picture as autoencoder latent: a clean reference or the noised target."""

    latent: Tensor
    """(channels, rows, columns), already shifted and scaled; rows and columns are even."""
    noised: bool
    """Target of flow matching: seen by nobody else and takes no position."""
    dropped: bool = False
    """Left out by condition dropout; still takes one position."""


Segment = TextSegment | VitSegment | VaeSegment
Sample = Sequence[Segment]


@dataclass(slots=True)
class PackedBatch:
    """One packed forward. Indices named `*_index` are places in the packed sequence."""

    text_ids: Tensor
    """(N,) text tokens, opening and closing tokens and picture markers."""
    text_index: Tensor
    """(N,) where they stand."""
    vit_patches: Tensor
    """(N, 3 * patch**2) vision patches, RGB fastest."""
    vit_position_ids: Tensor
    """(N,) row in the vision position table."""
    vit_index: Tensor
    """(N,) where they stand."""
    latents: Tensor
    """(N, latent_dim) clean latent tokens, references and targets."""
    latent_position_ids: Tensor
    """(N,) row in the latent position table."""
    latent_index: Tensor
    """(N,) where they stand."""
    latent_image: Tensor
    """(N,) number of the noised picture a latent token belongs to, from 1; 0 for clean ones."""
    noised_rows: Tensor
    """(M,) rows of `latents` that are noised, in order."""
    position_ids: Tensor
    """(T,) rotary positions in sequence order."""
    ce_rows: Tensor
    """(K,) rows of `text_ids` from which a label is predicted."""
    ce_labels: Tensor
    """(K,) the tokens to predict."""
    ce_weights: Tensor
    """(K,) 1 / sqrt(supervised tokens of the text), for the optional re-weighting."""
    layout: PackedLayout
    """Maps between expert order and one padded row per sample."""
    vit_lens: list[int] = field(default_factory=list)
    """Tokens of each vision picture."""
    latent_lens: list[int] = field(default_factory=list)
    """Tokens of each latent picture, references and targets, in sequence order."""
    latent_noised: list[bool] = field(default_factory=list)
    """Whether each latent picture is a target."""
    sample_lens: list[int] = field(default_factory=list)
    """Tokens of each sample."""
    split_lens: list[list[int]] = field(default_factory=list)
    """Tokens of each segment of each sample."""
    attention_modes: list[list[Mode]] = field(default_factory=list)
    """Attention mode of each segment of each sample."""
    next_positions: list[int] = field(default_factory=list)
    """Rotary position behind each sample."""

    @property
    def mse_index(self) -> Tensor:
        """(M,) places of the noised tokens in the sequence."""
        return self.latent_index[self.noised_rows]

    @property
    def ce_index(self) -> Tensor:
        """(K,) places in the sequence from which a label is predicted."""
        return self.text_index[self.ce_rows]

    def carries_loss(self) -> Tensor:
        """(T,) bool: the places of the sequence from which something is predicted."""
        found = torch.zeros(self.num_tokens, dtype=torch.bool, device=self.position_ids.device)
        found[torch.cat((self.mse_index, self.ce_index))] = True
        return found

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole pack, padding not counted."""
        return len(self.position_ids)

    @property
    def num_noised(self) -> int:
        """Number of target pictures."""
        return sum(self.latent_noised)

    def to(self, device: torch.device | str) -> "PackedBatch":
        """The same batch with all tensors on `device`."""
        moved = {
            f.name: getattr(self, f.name).to(device)
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor | PackedLayout)
        }
        return replace(self, **moved)


def patchify(picture: Tensor, size: int) -> Tensor:
    """Cut (C, rows, columns) into row-major patches (N, size * size * C), channel fastest."""
    channels, height, width = picture.shape
    cells = picture.reshape(channels, height // size, size, width // size, size)
    return cells.permute(1, 3, 2, 4, 0).reshape(-1, size * size * channels)


def unpatchify(tokens: Tensor, rows: int, columns: int, size: int) -> Tensor:
    """The inverse of `patchify` on (B, N, values): (B, C, rows * size, columns * size)."""
    cells = tokens.reshape(len(tokens), rows, columns, size, size, -1)
    return cells.permute(0, 5, 1, 3, 2, 4).reshape(len(tokens), -1, rows * size, columns * size)


def grid_position_ids(rows: int, columns: int, side: int, *, interpolate: bool = False) -> Tensor:
    """Rows of a side x side position table for a grid of tokens, row-major.

    Grids larger than the table only make sense with `interpolate`; `pack` refuses the others.
    """
    row_ids, column_ids = torch.arange(rows), torch.arange(columns)
    if interpolate:
        row_ids, column_ids = row_ids * side // rows, column_ids * side // columns
    return (row_ids[:, None] * side + column_ids).flatten()


def pack(samples: Sequence[Sample], config: BagelConfig) -> PackedBatch:
    """Pack samples into one batch (sequence layout, positions and labels of the model).

    Dropped segments are left out. A text is opened by bos and closed by eos, a picture by the two
    vision markers; all tokens of a picture share one position.

    Raises:
        ValueError: no sample, an empty sample, or a picture whose size does not fit.
    """
    if not samples:
        raise ValueError("there is nothing to pack: the list of samples is empty")
    stream = _Stream(config)
    for sample in samples:
        stream.add_sample(sample)
    return stream.finish()


class _Split(NamedTuple):
    """One segment as it stands in the sequence."""

    length: int
    mode: Mode


class _Stream:
    """Collects the packed lists segment by segment."""

    def __init__(self, config: BagelConfig) -> None:
        self.config = config
        self.length = 0
        self.splits: list[list[_Split]] = []
        self.position_ids: list[int] = []
        self.next_positions: list[int] = []
        self.text_ids: list[int] = []
        self.text_index: list[int] = []
        self.ce_rows: list[int] = []
        self.ce_labels: list[int] = []
        self.ce_weights: list[float] = []
        self.vit: list[Tensor] = []
        self.vit_positions: list[Tensor] = []
        self.vit_index: list[int] = []
        self.latents: list[Tensor] = []
        self.latent_positions: list[Tensor] = []
        self.latent_index: list[int] = []
        self.latent_noised: list[bool] = []

    def add_sample(self, sample: Sample) -> None:
        self.splits.append([])
        position = 0
        for segment in sample:
            position += self._add(segment, position)
        self.next_positions.append(position)
        if not self.splits[-1]:
            raise ValueError(
                f"sample {len(self.splits) - 1} has no tokens: it has no segment that is kept"
            )

    def _add(self, segment: Segment, position: int) -> int:
        """Append one segment; returns by how much the position advances."""
        if isinstance(segment, TextSegment):
            return 0 if segment.dropped else self._add_text(segment, position)
        if isinstance(segment, VitSegment):
            if not segment.dropped:
                self._add_vit(segment, position)
            return 1
        if not segment.dropped:
            self._add_vae(segment, position)
        return 0 if segment.noised else 1

    def _add_text(self, segment: TextSegment, position: int) -> int:
        ids = [self.config.bos_token_id, *segment.token_ids, self.config.eos_token_id]
        if segment.loss:
            first, labels = len(self.text_ids), ids[1:]
            self.ce_rows += range(first, first + len(labels))
            self.ce_labels += labels
            self.ce_weights += [len(labels) ** -0.5] * len(labels)
        self.text_ids += ids
        self.text_index += range(self.length, self.length + len(ids))
        self.position_ids += range(position, position + len(ids))
        self._close(len(ids), "causal")
        return len(ids)

    def _add_vit(self, segment: VitSegment, position: int) -> None:
        patch = self.config.vit_patch_size
        rows, columns = _grid(segment.pixels, patch, "pixels for the vision tower")
        self.vit.append(patchify(segment.pixels, patch))
        side = self.config.vit_max_num_patch_per_side
        self.vit_positions.append(self._position_ids(rows, columns, side))
        self.vit_index += self._add_picture(rows * columns, position, "full")

    def _add_vae(self, segment: VaeSegment, position: int) -> None:
        patch = self.config.latent_patch_size
        rows, columns = _grid(segment.latent, patch, "latent")
        self.latents.append(patchify(segment.latent, patch))
        side = self.config.max_latent_size
        self.latent_positions.append(self._position_ids(rows, columns, side))
        mode: Mode = "noise" if segment.noised else "full"
        self.latent_index += self._add_picture(rows * columns, position, mode)
        self.latent_noised.append(segment.noised)

    def _position_ids(self, rows: int, columns: int, side: int) -> Tensor:
        interpolate = self.config.interpolate_pos
        if max(rows, columns) > side and not interpolate:
            raise ValueError(
                f"a picture of {rows} x {columns} tokens exceeds the position table of "
                f"{side} x {side}; make the picture smaller"
            )
        return grid_position_ids(rows, columns, side, interpolate=interpolate)

    def _add_picture(self, count: int, position: int, mode: Mode) -> range:
        """Append the markers around `count` picture tokens; returns the places of the latter."""
        self.text_ids += [self.config.vision_start_token_id, self.config.vision_end_token_id]
        self.text_index += [self.length, self.length + count + 1]
        self.position_ids += [position] * (count + 2)
        first = self.length + 1
        self._close(count + 2, mode)
        return range(first, first + count)

    def _close(self, length: int, mode: Mode) -> None:
        self.splits[-1].append(_Split(length, mode))
        self.length += length

    def finish(self) -> PackedBatch:
        config = self.config
        latent_lens = [len(tokens) for tokens in self.latents]
        text_index, vit_index = torch.tensor(self.text_index), _integers(self.vit_index)
        latent_index = _integers(self.latent_index)
        latent_image = _integers(list(_image_numbers(latent_lens, self.latent_noised)))
        split_lens = [[split.length for split in sample] for sample in self.splits]
        modes = [[split.mode for split in sample] for sample in self.splits]
        return PackedBatch(
            text_ids=torch.tensor(self.text_ids),
            text_index=text_index,
            vit_patches=_stack(self.vit, 3 * config.vit_patch_size**2),
            vit_position_ids=_stack(self.vit_positions),
            vit_index=vit_index,
            latents=_stack(self.latents, config.latent_dim),
            latent_position_ids=_stack(self.latent_positions),
            latent_index=latent_index,
            latent_image=latent_image,
            noised_rows=latent_image.nonzero().flatten(),
            position_ids=torch.tensor(self.position_ids),
            ce_rows=_integers(self.ce_rows),
            ce_labels=_integers(self.ce_labels),
            ce_weights=torch.tensor(self.ce_weights, dtype=torch.float32),
            layout=PackedLayout.build(
                torch.cat((text_index, vit_index, latent_index)),
                num_und=len(text_index) + len(vit_index),
                split_lens=split_lens,
                modes=modes,
            ),
            vit_lens=[len(tokens) for tokens in self.vit],
            latent_lens=latent_lens,
            latent_noised=self.latent_noised,
            sample_lens=[sum(lens) for lens in split_lens],
            split_lens=split_lens,
            attention_modes=modes,
            next_positions=self.next_positions,
        )


def _image_numbers(lens: list[int], noised: list[bool]) -> Iterator[int]:
    """For every latent token the number of its noised picture, 0 for clean ones."""
    number = 0
    for length, is_noised in zip(lens, noised, strict=True):
        number += is_noised
        yield from [number if is_noised else 0] * length


def _grid(picture: Tensor, patch: int, what: str) -> tuple[int, int]:
    height, width = picture.shape[-2:]
    if picture.ndim != 3 or height % patch or width % patch:
        raise ValueError(
            f"{what} must have the shape (channels, rows, columns) with rows and columns that are "
            f"multiples of {patch}, got {tuple(picture.shape)}"
        )
    return height // patch, width // patch


def _stack(parts: list[Tensor], width: int | None = None) -> Tensor:
    if parts:
        return torch.cat(parts)
    return torch.empty(0, dtype=torch.long) if width is None else torch.empty(0, width)


def _integers(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.long)
