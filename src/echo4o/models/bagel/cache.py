"""Keys and values of a context: filled once, then read by every denoising or decoding step.

Every row holds one context. All rows have room for the tokens that come after it, so that a step
writes its own keys and values behind the context and concatenates nothing.
Shape letters: R rows, K key/value heads, L slots, D values per head.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class ContextCache:
    """Keys and values of all layers; slots that hold no token are marked in `valid`."""

    def __init__(self, num_layers: int, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        """Slots in use; the same in all rows, padding included."""
        self.valid: Tensor | None = None
        """(R, length) bool: slots that hold a token."""
        self._keys: list[Tensor | None] = [None] * num_layers
        self._values: list[Tensor | None] = [None] * num_layers

    def write(self, layer: int, key_RKLD: Tensor, value_RKLD: Tensor) -> tuple[Tensor, Tensor]:
        """Put new tokens behind the context; returns views of the context with them.

        They are overwritten by the next write unless `commit` keeps them.
        """
        end = self.length + key_RKLD.shape[2]
        if end > self.capacity:
            raise ValueError(f"the cache has room for {self.capacity} tokens, {end} are needed")
        views = []
        for store, new in ((self._keys, key_RKLD), (self._values, value_RKLD)):
            if store[layer] is None:
                rows, heads, _, dim = new.shape
                store[layer] = new.new_empty(rows, heads, self.capacity, dim)
            kept = store[layer]
            assert kept is not None
            kept[:, :, self.length : end] = new
            views.append(kept[:, :, :end])
        return views[0], views[1]

    def commit(self, valid_RL: Tensor) -> None:
        """Keep what was written last; `valid_RL` marks real tokens."""
        self.valid = valid_RL if self.valid is None else torch.cat((self.valid, valid_RL), dim=1)
        self.length += valid_RL.shape[1]

    def rewind(self, length: int) -> None:
        """Forget everything behind the first `length` slots."""
        assert self.valid is not None
        self.length, self.valid = length, self.valid[:, :length]

    def first_rows(self, rows: int) -> "ContextCache":
        """The first rows, without a copy."""
        assert self.valid is not None
        part = ContextCache(len(self._keys), self.capacity)
        part.length, part.valid = self.length, self.valid[:rows]
        part._keys = [None if key is None else key[:rows] for key in self._keys]
        part._values = [None if value is None else value[:rows] for value in self._values]
        return part

    def read(self, layer: int, row: int, tokens: int | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values of the first real tokens of one row, each (K, tokens, D)."""
        key, value = self._keys[layer], self._values[layer]
        assert self.valid is not None
        assert key is not None
        assert value is not None
        slots = self.valid[row].nonzero().flatten()[:tokens].to(key.device)
        return key[row].index_select(1, slots), value[row].index_select(1, slots)

    @staticmethod
    def gather(sources: "Sequence[tuple[ContextCache, int, int]]", room: int) -> "ContextCache":
        """One row per source: the first tokens of a row of a cache, copied without gaps.

        Args:
            sources: (cache, row, number of tokens) for each new row.
            room: free slots behind the longest row.
        """
        counts = torch.tensor([tokens for _, _, tokens in sources])
        length, num_layers = int(counts.max()), len(sources[0][0]._keys)
        joined = ContextCache(num_layers, length + room)
        joined.length, joined.valid = length, torch.arange(length) < counts[:, None]
        for layer in range(num_layers):
            rows = [cache.read(layer, row, tokens) for cache, row, tokens in sources]
            joined._keys[layer] = _stack([key for key, _ in rows], joined.capacity)
            joined._values[layer] = _stack([value for _, value in rows], joined.capacity)
        first = joined._keys[0]
        assert first is not None
        joined.valid = joined.valid.to(first.device)
        return joined

    def mask(self, new_L: int, new_mask: Tensor | None = None) -> Tensor | None:
        """(R, 1, new_L or 1, length + new_L) bool for new tokens, None when all is visible.

        Args:
            new_L: number of new tokens per row.
            new_mask: (R, 1, new_L, new_L) among the new tokens; None: they see each other.
        """
        assert self.valid is not None
        context = self.valid[:, None, None, :]
        if new_mask is None:
            if bool(self.valid.all()):
                return None
            new_mask = context.new_ones(len(self.valid), 1, 1, new_L)
        return torch.cat((context.expand(-1, -1, new_mask.shape[2], -1), new_mask), dim=3)


def _stack(rows: list[Tensor], capacity: int) -> Tensor:
    """(K, tokens, D) rows -> (R, K, capacity, D); free slots are zero, no NaN hides there."""
    heads, _, dim = rows[0].shape
    stacked = rows[0].new_zeros(len(rows), heads, capacity, dim)
    for target, row in zip(stacked, rows, strict=True):
        target[:, : row.shape[1]] = row
    return stacked
