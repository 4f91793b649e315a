"""Losses and their reduction over the packs of a step and over processes (spec 9.1).

Shape letters: M noised tokens, K supervised text tokens, C values of a latent token.
"""

from dataclasses import dataclass

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


def sums(mse_MC: Tensor | None, ce_K: Tensor | None) -> LossSums:
    """Sum the per-token errors that a forward returns."""
    return LossSums(
        mse=None if mse_MC is None else mse_MC.mean(dim=-1).sum(),
        ce=None if ce_K is None else ce_K.sum(),
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
