"""Pictures in the folders that a benchmark's own scripts make: found, checked, never guessed at.

Names and order are the pictures' only tie to their prompts, so whatever contradicts them is an
error: another prompt in a picture's own record, another number of pictures, another size.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from echo4o.errors import Echo4oError
from echo4o.models.pictures import read_record
from echo4o.records import sha256_file

from .items import Item

_LISTED = 3


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a picture file."""

    path: Path
    box: tuple[int, int, int, int]
    """Left, top, right, bottom in pixels; right and bottom exclusive."""

    def encode(self) -> bytes:
        """Return the piece as PNG; not a pixel changes.

        Raises:
            Echo4oError: the file is no picture.
        """
        buffer = io.BytesIO()
        try:
            with Image.open(self.path) as image:
                image.convert("RGB").crop(self.box).save(buffer, format="PNG")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise Echo4oError(f"{self.path} does not decode ({error}); make it anew") from error
        return buffer.getvalue()


def check_counts(items: Sequence[Item], samples: Sequence[Mapping[int, Path]], wanted: int) -> None:
    """Refuse another number of pictures than `wanted` of any prompt that has one at all.

    Raises:
        Echo4oError: an item has fewer or more; items without a picture become verdicts `missing`.
    """
    counts = {one.number: sum(one.number in found for found in samples) for one in items}
    wrong = [(number, count) for number, count in counts.items() if count not in (0, wanted)]
    if wrong:
        listed = ", ".join(f"item {number} has {count}" for number, count in wrong[:_LISTED])
        more = f" and {len(wrong) - _LISTED} other items" if len(wrong) > _LISTED else ""
        raise Echo4oError(
            f"this benchmark takes {wanted} pictures of a prompt, but {listed}{more}; make the "
            f"others with `echo4o eval run --samples-per-prompt {wanted}`"
        )


def check_prompts(items: Sequence[Item], samples: Sequence[Mapping[int, Path]]) -> None:
    """Refuse pictures whose own record names another prompt than their item's.

    Raises:
        Echo4oError: the first such picture; files without a record of ours say nothing.
    """
    for item, path in _pictures(items, samples):
        if path.suffix.lower() != ".png":
            continue
        try:
            made = read_record(path).prompt
        except Echo4oError:  # not made by us
            continue
        if made != item.prompt:
            raise Echo4oError(
                f"{path} was made from the prompt {made!r:.60}, but item {item.number} asks for "
                f"{item.prompt!r:.60}; give the items that the pictures were made for"
            )


def check_sizes(
    items: Sequence[Item],
    samples: Sequence[Mapping[int, Path]],
    wanted: tuple[int, int] | None = None,
) -> None:
    """Refuse pictures that are not of the size `wanted`, or of one item's that differ in size.

    Raises:
        Echo4oError: the first such picture; what does not decode becomes a verdict `damaged`.
    """
    first: dict[int, tuple[tuple[int, int], Path]] = {}
    for item, path in _pictures(items, samples):
        size = _size(path)
        if size is None:
            continue
        if wanted is not None and size != wanted:
            raise Echo4oError(
                f"{path} has {size[0]}x{size[1]} pixels, but this benchmark takes "
                f"{wanted[0]}x{wanted[1]}; make the pictures with --size {wanted[0]}x{wanted[1]}"
            )
        same, other = first.setdefault(item.number, (size, path))
        if same != size:
            raise Echo4oError(
                f"{path} has {size[0]}x{size[1]} pixels and {other.name} of the same item "
                f"{same[0]}x{same[1]}; make all pictures of an item in one size"
            )


def item_row(item: Item) -> dict[str, Any]:
    """Return an item's row as a run keeps it: with the hashes of its reference pictures.

    A report shows only files of these hashes, so that a run from elsewhere cannot make it show
    whatever lies at some path of this machine.
    """
    row = item.to_json()
    if item.references:
        row["references_sha256"] = [sha256_file(Path(name)) for name in item.references]
    return row


def _pictures(
    items: Sequence[Item], samples: Sequence[Mapping[int, Path]]
) -> Iterator[tuple[Item, Path]]:
    for item in items:
        for found in samples:
            if item.number in found:
                yield item, found[item.number]


def _size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
