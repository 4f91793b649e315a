"""The sandbox's small world: what can be said, painted and seen in it.

A painter follows instructions, an eye finds objects in pixels. They share the vocabulary and the
outline of each shape, nothing else: the eye never learns what the painter was asked.
"""

from .grammar import Group, parse
from .painter import CrowdedError, paint
from .sight import Finding, Seen, check, describe, see
from .vocabulary import COLOURS, OBJECTS, REGIONS, SHAPES, SIZES

__all__ = [
    "COLOURS",
    "OBJECTS",
    "REGIONS",
    "SHAPES",
    "SIZES",
    "CrowdedError",
    "Finding",
    "Group",
    "Seen",
    "check",
    "describe",
    "paint",
    "parse",
    "see",
]
