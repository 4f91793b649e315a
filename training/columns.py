"""The columns of a dataset that training reads, and what each of them may hold."""

from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa

from echo4o.errors import Echo4oError

_TARGETS = ("output_image", "answer")
KEPT = ("id", "subset", "instruction", "input_images", *_TARGETS)


def needed(schema: pa.Schema, what: str) -> list[str]:
    """The columns that training reads, of those that there are.

    Raises:
        Echo4oError: one that it cannot do without is missing, or holds something else.
    """
    columns = schema.names
    missing = [] if "instruction" in columns else ["instruction"]
    missing += [] if set(_TARGETS) & set(columns) else [" or ".join(_TARGETS)]
    if missing:
        raise Echo4oError(
            f"{what} lacks the columns {', '.join(missing)}; it has {', '.join(columns)}. "
            f"Build it with `echo4o data build` or `data import`"
        )
    kept = [name for name in KEPT if name in columns]
    for name in kept:
        kind, wanted = schema.field(name).type, _HOLDS[name]
        if not wanted.fits(kind):
            raise Echo4oError(f"{what}: the column {name} holds {kind}, and not {wanted.words}")
    return kept


class _Holds(NamedTuple):
    """What a column may hold."""

    words: str
    fits: Callable[[pa.DataType], bool]


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return pa.types.is_null(kind) or any(is_one(kind) for is_one in texts)


def _is_picture(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind) and "bytes" in {field.name for field in kind}:
        kind = kind.field("bytes").type
    bytes_ = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return pa.types.is_null(kind) or any(is_one(kind) for is_one in bytes_)


def _are_pictures(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if any(is_one(kind) for is_one in lists):
        return _is_picture(kind.value_type)
    return bool(pa.types.is_null(kind))


def _is_plain(kind: pa.DataType) -> bool:
    return not pa.types.is_nested(kind)


_HOLDS = {
    "id": _Holds("text or numbers", _is_plain),
    "subset": _Holds("text or numbers", _is_plain),
    "instruction": _Holds("text", _is_text),
    "answer": _Holds("text", _is_text),
    "input_images": _Holds("lists of pictures with their bytes", _are_pictures),
    "output_image": _Holds("pictures with their bytes", _is_picture),
}
