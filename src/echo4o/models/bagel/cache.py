"""Keys and values of contexts: filled once, then read by every denoising or decoding step.

Every row has its own length, so that nothing is padded and a step needs no mask. Rows of a step
that continue the same context share its memory: each writes its new keys behind the context just
before it reads them, and nothing is ever concatenated.
Shape letters: K key/value heads, L tokens, D values per head.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(slots=True)
class _Store:
    """Room for the keys and values of all layers, each (K, capacity, D) once it is written."""

    capacity: int
    keys: list[Tensor | None]
    values: list[Tensor | None]


@dataclass(slots=True)
class _Row:
    """The tokens from `start` to `end` of a store."""

    store: _Store
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Context:
    """The first tokens of one row of a cache."""

    cache: "ContextCache" = field(repr=False)
    row: int
    tokens: int
    position: int
    """Rotary position of what comes next."""

    def same_as(self, other: "Context") -> bool:
        """Whether both are the same tokens of the same row."""
        return self.cache is other.cache and (self.row, self.tokens) == (other.row, other.tokens)


class ContextCache:
    """Keys and values of all layers for some rows of tokens."""

    def __init__(self, num_layers: int, room: Sequence[int]) -> None:
        """Empty rows with room for so many tokens each."""
        self.num_layers = num_layers
        self._rows = [_Row(self._empty_store(capacity), 0, 0) for capacity in room]

    @classmethod
    def behind(cls, contexts: Sequence[Context], room: int) -> "ContextCache":
        """One row per context, with room for so many tokens behind it.

        Contexts of the same row are copied once. The tokens that only the longer ones have stand in
        front: the order of keys has no meaning, their positions are in them already.
        """
        cache = cls(contexts[0].cache.num_layers, [])
        sources = {(id(c.cache), c.row): c for c in contexts}
        counts = {
            source: sorted({c.tokens for c in contexts if (id(c.cache), c.row) == source})
            for source in sources
        }
        stores = {
            source: cache._nested_copy(context, counts[source], room)
            for source, context in sources.items()
        }
        for context in contexts:
            source = (id(context.cache), context.row)
            longest = counts[source][-1]
            cache._rows.append(_Row(stores[source], longest - context.tokens, longest))
        return cache

    def write(
        self, layer: int, row: int, key_KLD: Tensor, value_KLD: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Put new tokens behind a row; returns views (1, K, tokens, D) of the row with them.

        They are overwritten by the next write to the row, or to one that shares its memory, unless
        `commit` keeps them.
        """
        place = self._rows[row]
        store, end = place.store, place.end + key_KLD.shape[1]
        if end > store.capacity:
            raise ValueError(f"the cache has room for {store.capacity} tokens, {end} are needed")
        views = []
        for kept, new in ((store.keys, key_KLD), (store.values, value_KLD)):
            tensor = kept[layer]
            if tensor is None:
                tensor = new.new_empty(new.shape[0], store.capacity, new.shape[2])
                kept[layer] = tensor
            tensor[:, place.end : end] = new
            views.append(tensor[None, :, place.start : end])
        return views[0], views[1]

    def commit(self, new: Sequence[int]) -> None:
        """Keep what was written last: so many tokens per row."""
        for place, count in zip(self._rows, new, strict=True):
            place.end += count

    def lengths(self) -> list[int]:
        """Tokens of every row."""
        return [row.end - row.start for row in self._rows]

    def first_rows(self, rows: int) -> "ContextCache":
        """The first rows, without a copy."""
        part = ContextCache(self.num_layers, [])
        part._rows = self._rows[:rows]
        return part

    def read(self, layer: int, row: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first tokens of a row, each (K, tokens, D), as views."""
        place = self._rows[row]
        key, value = place.store.keys[layer], place.store.values[layer]
        assert key is not None
        assert value is not None
        part = slice(place.start, place.start + tokens)
        return key[:, part], value[:, part]

    def _empty_store(self, capacity: int) -> _Store:
        return _Store(capacity, [None] * self.num_layers, [None] * self.num_layers)

    def _nested_copy(self, source: Context, counts: list[int], room: int) -> _Store:
        """The first tokens of a row, so that for each of `counts` they stand at the very end."""
        store = self._empty_store(counts[-1] + room)
        bounds = [0, *counts]
        parts = [slice(*pair) for pair in zip(bounds, bounds[1:], strict=False)][::-1]
        for layer in range(self.num_layers):
            kept = source.cache.read(layer, source.row, counts[-1])
            store.keys[layer], store.values[layer] = (_arranged(x, parts, room) for x in kept)
        return store


def _arranged(tokens_KLD: Tensor, parts: list[slice], room: int) -> Tensor:
    """Parts of the tokens one behind the other, then free room."""
    heads, length, dim = tokens_KLD.shape
    arranged = tokens_KLD.new_empty(heads, length + room, dim)
    torch.cat([tokens_KLD[:, part] for part in parts], dim=1, out=arranged[:, :length])
    return arranged
