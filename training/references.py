"""Another order of references, with the text that names them by number changed to match."""

import re
from collections.abc import Sequence

_NAMES = r"(?:images?|pictures?|photos?|figures?|references?|img)"
_ORDINALS = ("first", "second", "third", "fourth")
_AND = r"(?:\s*,\s*(?:and\s+|or\s+)?|\s+(?:and|or|with)\s+(?:the\s+)?|\s*&\s*)"
_NUMBERED = re.compile(rf"\b{_NAMES}[\s_#-]*\d+(?:{_AND}\d+)*(?!\w)", re.IGNORECASE)
_COUNTED = re.compile(
    rf"\b(?:{'|'.join(_ORDINALS)})(?:{_AND}(?:{'|'.join(_ORDINALS)}))*"
    rf"\s+(?:input\s+|source\s+|reference\s+)?{_NAMES}\b",
    re.IGNORECASE,
)
_RELATIVE = re.compile(rf"\b(?:last|final)\s+(?:two\s+)?{_NAMES}\b", re.IGNORECASE)


def renumber(text: str, order: Sequence[int]) -> str | None:
    """The text for references in another order, where place n now holds what was at `order[n]`.

    None for more than four, and where the order cannot be changed safely: the text does not name
    every reference by number ("image 2", "images 1 and 3", "the second picture"), names one that is
    not there, or speaks of the last one.
    """
    if len(order) > len(_ORDINALS):
        return None
    new_place = {old: new for new, old in enumerate(order)}
    named: set[int] = set()

    def number(match: re.Match[str]) -> str:
        place = int(match[0]) - 1
        named.add(place)
        return str(new_place.get(place, place) + 1)

    def ordinal(match: re.Match[str]) -> str:
        place = _ORDINALS.index(match[0].lower())
        named.add(place)
        word = _ORDINALS[new_place.get(place, place)]
        return word.capitalize() if match[0][0].isupper() else word

    words = re.compile(rf"\b(?:{'|'.join(_ORDINALS)})\b", re.IGNORECASE)
    changed = _NUMBERED.sub(lambda found: re.sub(r"\d+", number, found[0]), text)
    changed = _COUNTED.sub(lambda found: words.sub(ordinal, found[0]), changed)
    if named != set(new_place) or _RELATIVE.search(text):
        return None
    return changed
