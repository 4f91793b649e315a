"""Text with holes: pieces that are known, and places for what only a run knows."""

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

_MARK = "\ue000"


@dataclass(frozen=True, slots=True)
class Hole:
    """A place for a value that only a run knows."""

    expression: str


Text = list["str | Hole"]


def plain(text: Text) -> str | None:
    """Return a text without holes, None when it has any."""
    if any(isinstance(part, Hole) for part in text):
        return None
    return "".join(str(part) for part in text)


def with_marks(text: Text, change: Callable[[str], str]) -> Text:
    """Apply a change of white space to a text as a whole, a mark standing for each hole."""
    marked = "".join(
        part if isinstance(part, str) else f"{_MARK}{place}{_MARK}"
        for place, part in enumerate(text)
    )
    pieces = change(marked).split(_MARK)
    return [text[int(one)] if place % 2 else one for place, one in enumerate(pieces)]


def strip(text: Text, method: str, characters: str | None) -> Text:
    """Return `text` after `strip`, `lstrip` or `rstrip`."""
    text = list(text)
    if method != "rstrip" and text and isinstance(text[0], str):
        text[0] = text[0].lstrip(characters)
    if method != "lstrip" and text and isinstance(text[-1], str):
        text[-1] = text[-1].rstrip(characters)
    return text


def replace(text: Text, old: str | None, new: Text) -> Text | None:
    """Return `text` with `new` for every `old`; None when it is not known what is replaced."""
    if not old:
        return None
    replaced: Text = []
    for part in text:
        if isinstance(part, Hole):
            replaced.append(part)
            continue
        first, *rest = part.split(old)
        replaced.append(first)
        for piece in rest:
            replaced += [*new, piece]
    return replaced


def fill(pattern: str | None, values: Sequence[Text], named: Mapping[str, Text]) -> Text | None:
    """Return what `pattern.format` gives; None when the pattern is not known."""
    if pattern is None:
        return None
    text: Text = []
    try:
        pieces = list(string.Formatter().parse(pattern))
    except ValueError:
        return None
    places = iter(range(len(values)))
    for literal, name, _, _ in pieces:
        text.append(literal)
        if name is None:
            continue
        place = next(places, -1) if not name else int(name) if name.isdecimal() else -1
        if 0 <= place < len(values):
            text += values[place]
        else:
            text += named.get(name, [Hole(name)])
    return text


def name_holes(text: Text, names: Sequence[str]) -> str | None:
    """Return the template with its holes named in order; None when they are not as many."""
    order = list(dict.fromkeys(part.expression for part in text if isinstance(part, Hole)))
    if len(order) != len(names):
        return None
    of = dict(zip(order, names, strict=True))
    return "".join(
        part if isinstance(part, str) else "{" + of[part.expression] + "}" for part in text
    )
