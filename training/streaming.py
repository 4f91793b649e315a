"""Tensors to and from safetensors files without a second copy, by one process or by many.

In a file a tensor is whole. Where processes share it, each writes and reads its own rows at their
place; so nothing is gathered, and any other number of processes can read the file. The folder must
be one that all processes see.
"""

import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from echo4o.records import write_atomic

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "I8": torch.int8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_CHUNK = 4 << 20
"""Elements that are converted at a time."""
_SHARD_BYTES = 5_000_000_000


class Place(NamedTuple):
    """Where a tensor lies in its file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """First byte in the file."""


class Share(NamedTuple):
    """Which of how many processes; a tensor that is not sharded belongs to the first."""

    rank: int
    world: int


def together(action: Callable[[], None]) -> None:
    """Do something in every process; where it fails in one, all of them stop.

    Raises:
        OSError: it failed in another process.
    """
    error: Exception | None = None
    try:
        action()
    except Exception as found:
        error = found  # raised below, when the others know
    if dist.is_initialized() and dist.get_world_size() > 1:
        mine = None if error is None else _said(error)
        said: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(said, mine)
        others = [text for text in said if text is not None]
        if error is None and others:
            raise OSError(others[0])
    if error is not None:
        raise error


def _said(error: Exception) -> str:
    return str(isinstance(error, OSError) and error.strerror or error)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: its rows, or all of it. Shares memory."""
    if isinstance(tensor, DTensor):
        return tensor.to_local().detach()
    return tensor.detach()


def share_of(tensor: Tensor) -> Share:
    """Among which processes a tensor is divided."""
    if isinstance(tensor, DTensor):
        return Share(tensor.device_mesh.get_local_rank(), tensor.device_mesh.size())
    return Share(dist.get_rank() if dist.is_initialized() else 0, 1)


def first_row(rows: int, share: Share) -> int:
    """Where a process' rows begin when `rows` are divided as FSDP2 does."""
    if share.world == 1:
        return 0
    return min(share.rank * math.ceil(rows / share.world), rows)


def _ends(rows: int, share: Share) -> tuple[int, int]:
    last = share.rank + 1 == share.world
    following = Share(share.rank + 1, share.world)
    return first_row(rows, share), rows if last else first_row(rows, following)


def create(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """Write a file's header and take its space, so that a full disk is noticed before any data."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        kind = _target(tensor, dtype)
        size = math.prod(tensor.shape) * kind.itemsize
        entry = {"dtype": _NAMES[kind], "shape": list(tensor.shape)}
        header[name] = entry | {"data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.flush()
        if end:
            os.posix_fallocate(file.fileno(), 0, 8 + len(text) + end)
        os.fsync(file.fileno())


def places(path: Path) -> dict[str, Place]:
    """The tensors of a file; the header must be whole."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {
        name: Place(
            _DTYPES[facts["dtype"]], tuple(facts["shape"]), 8 + length + facts["data_offsets"][0]
        )
        for name, facts in header.items()
    }


def write(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Put this process' rows of every tensor into a created file; returns their SHA-256."""
    found = hashlib.sha256()
    where = places(path)
    with path.open("rb+", buffering=0) as file:
        for name, tensor in tensors.items():
            place, share = where[name], share_of(tensor)
            if share.world == 1 and share.rank:
                continue
            offset = place.start + _row_bytes(place) * _first(place, share)
            flat = local(tensor).reshape(-1)
            for part in torch.split(flat, _CHUNK):
                data = _bytes(part.to(place.dtype).cpu().contiguous())
                found.update(data)
                _write_all(file.fileno(), data, offset)
                offset += len(data)
        os.fsync(file.fileno())
    return found.hexdigest()


def read(path: Path, tensors: Mapping[str, Tensor], names: Mapping[str, Place]) -> None:
    """Fill tensors in place from a file, each process its rows only.

    Args:
        path: The file.
        tensors: What to fill, by name; types may differ from the stored ones.
        names: What `places` says of the file.
    """
    with path.open("rb", buffering=0) as file:
        for name, tensor in tensors.items():
            place = names[name]
            flat = local(tensor).view(-1)
            offset = place.start + _row_bytes(place) * _first(place, share_of(tensor))
            for part in torch.split(flat, _CHUNK):
                direct = part.device.type == "cpu" and part.dtype == place.dtype
                target = part if direct else torch.empty(len(part), dtype=place.dtype)
                _read_all(file.fileno(), _bytes(target), offset)
                if not direct:
                    part.copy_(target)
                offset += len(part) * place.dtype.itemsize


def digest(path: Path, share: Share) -> str:
    """SHA-256 of one process' rows as `write` gives it, read back from the file."""
    found = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        for place in places(path).values():
            start, stop = _ends(_rows(place), share)
            file.seek(place.start + start * _row_bytes(place))
            left = (stop - start) * _row_bytes(place)
            while left:
                count = file.readinto(buffer[: min(left, _CHUNK)])
                if not count:
                    raise OSError(f"{path.name} ends too early")
                found.update(buffer[:count])
                left -= count
    return found.hexdigest()


def write_model(
    folder: Path, stem: str, tensors: Mapping[str, Tensor], dtype: torch.dtype, *, one_file: bool
) -> None:
    """Write weights as `stem`.safetensors, or as shards with an index; every process calls this.

    Raises:
        OSError: there is no room for them, in any process.
    """
    shards = [dict(tensors)] if one_file else list(_shards(tensors, dtype))
    count = len(shards)
    names = [f"{stem}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    names = names if count > 1 else [f"{stem}.safetensors"]

    def make() -> None:
        if not dist.is_initialized() or dist.get_rank() == 0:
            for name, shard in zip(names, shards, strict=True):
                create(folder / name, shard, dtype)
            if count > 1 or one_file:
                file = f"{'model' if one_file else stem}.safetensors.index.json"
                write_atomic(folder / file, _index(names, shards, dtype))

    def fill() -> None:
        for name, shard in zip(names, shards, strict=True):
            write(folder / name, shard)

    together(make)
    together(fill)


def _shards(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        added = math.prod(tensor.shape) * _target(tensor, dtype).itemsize
        if shard and size + added > _SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += added
    yield shard


def _index(names: list[str], shards: list[dict[str, Tensor]], dtype: torch.dtype) -> str:
    total = sum(
        math.prod(tensor.shape) * _target(tensor, dtype).itemsize
        for shard in shards
        for tensor in shard.values()
    )
    held = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
    value = {"metadata": {"total_size": total}, "weight_map": dict(sorted(held.items()))}
    return json.dumps(value, indent=2) + "\n"


def _target(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype


def _rows(place: Place) -> int:
    return place.shape[0] if place.shape else 1


def _row_bytes(place: Place) -> int:
    return math.prod(place.shape[1:]) * place.dtype.itemsize


def _first(place: Place, share: Share) -> int:
    return first_row(_rows(place), share)


def _bytes(part: Tensor) -> memoryview:
    return part.view(torch.uint8).numpy().data


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count


def _read_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.preadv(descriptor, [data], offset)
        if not count:
            raise OSError("a weights file ends too early")
        data, offset = data[count:], offset + count
