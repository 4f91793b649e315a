"""Losses and their reduction over the packs of a step and over processes (spec 9.1).

Shape letters: M noised tokens, K supervised text tokens, C values of a latent token.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Tokens that carry a loss; known before the forward."""

    mse: int = 0
    """Noised latent tokens."""
    ce: int = 0
    """Supervised text tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossSums:
    """Losses of one pack, summed over its tokens and not yet divided."""

    mse: Tensor | None
    """Sum over noised tokens of the mean squared error over channels."""
    ce: Tensor | None
    """Sum of cross-entropies."""
    by_subset: Tensor
    """(2, subsets) sums of either kind by subset, and how many tokens they are over; float64."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subsets:
    """To which subset each token with a loss belongs."""

    count: int
    """How many subsets there are."""
    mse: Tensor
    """(M,) places of the subsets."""
    ce: Tensor
    """(K,) the same."""


def sums(mse_MC: Tensor | None, ce_K: Tensor | None, subsets: Subsets) -> LossSums:
    """Sum the per-token errors that a forward returns."""
    by_subset = subsets.mse.new_zeros(2, subsets.count, dtype=torch.float64)
    mse_M = None if mse_MC is None else mse_MC.mean(dim=-1)
    for errors, places in ((mse_M, subsets.mse), (ce_K, subsets.ce)):
        if errors is not None:
            by_subset[0].index_add_(0, places, errors.detach().double())
            by_subset[1].index_add_(0, places, torch.ones_like(places, dtype=torch.float64))
    return LossSums(
        mse=None if mse_M is None else mse_M.sum(),
        ce=None if ce_K is None else ce_K.sum(),
        by_subset=by_subset,
    )


def weighted(losses: LossSums, counts: Counts, *, mse_weight: float, ce_weight: float) -> Tensor:
    """This pack's share of the loss: sums divided by the counts of the whole step.

    The shares of all packs of all processes add up to the loss, and so do their gradients; a pack
    with few tokens weighs little.

    Raises:
        ValueError: the pack has neither loss.
    """
    parts = []
    if losses.mse is not None and counts.mse:
        parts.append(mse_weight * losses.mse / counts.mse)
    if losses.ce is not None and counts.ce:
        parts.append(ce_weight * losses.ce / counts.ce)
    if not parts:
        raise ValueError("no token of the pack carries a loss; add a target picture or a text")
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
