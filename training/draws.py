"""Random numbers that depend on a key and on nothing else.

Every draw is keyed by (seed, row, visit, purpose), where the visit counts how often the row was
shown before. So no generator has a state to save: any worker, after any resume, draws the same.
"""

import hashlib
import statistics

import numpy as np

_NORMAL = statistics.NormalDist()


def _digest(*key: int | str) -> int:
    text = "/".join(map(str, key)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")


def uniform(*key: int | str) -> float:
    """One number strictly between 0 and 1."""
    return ((_digest(*key) >> 76) + 0.5) / 2**52


def normal(*key: int | str) -> float:
    """One standard normal number."""
    return _NORMAL.inv_cdf(uniform(*key))


def spread_normals(count: int, *key: int | str) -> list[float]:
    """`count` standard normal numbers, one in each of as many equally likely parts of the line.

    The first one is `normal(*key)`.
    """
    first = uniform(*key)
    # A sum of exactly 1 has no place on the line; the smallest number stands in for it.
    places = ((first + part / count) % 1 or 0.5 / 2**52 for part in range(count))
    return [_NORMAL.inv_cdf(place) for place in places]


def generator(*key: int | str) -> np.random.Generator:
    """A generator for many numbers."""
    return np.random.Generator(np.random.Philox(key=_digest(*key)))


def normals(shape: tuple[int, ...], *key: int | str) -> np.ndarray:
    """Standard normal numbers, float32."""
    return generator(*key).standard_normal(shape, dtype=np.float32)
