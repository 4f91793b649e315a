"""A hash of what a picture shows: it survives re-encoding and scaling, unlike that of its bytes."""

import io

from echo4o.pictures import PictureError, picture_facts

_SIDE = 16


def difference_hash(data: bytes) -> int:
    """256 bits: whether each cell of a 16 x 16 grid is darker than its right neighbour.

    Raises:
        PictureError: the picture does not decode.
    """
    import numpy as np
    from PIL import Image

    picture_facts(data)
    try:
        with Image.open(io.BytesIO(data)) as opened:
            opened.draft("L", (4 * _SIDE, 4 * _SIDE))
            grey = opened.convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    except (OSError, SyntaxError, ValueError) as error:
        raise PictureError(f"the picture does not decode: {error}") from error
    cells = np.asarray(grey, dtype=np.int16)
    return int.from_bytes(np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes(), "big")


def distance(one: int, other: int) -> int:
    """Number of bits in which two hashes differ."""
    return (one ^ other).bit_count()
