"""How alike two instructions about the same object are in what they say of it.

Characters would find "a glass cat" and "a glass bat" nearly equal, and frames such as "a photo of"
make all rows alike. So texts are compared only when they name the same object, by the content words
that are left: the share of the shorter text's words that the longer one has too, plurals folded.
"""

import re
from collections import Counter
from collections.abc import Iterable

_FRAME = frozenset(
    (
        *("a", "an", "the", "of", "in", "on", "at", "to", "and", "with", "its", "it", "that"),
        *("is", "are", "be", "has", "have", "as", "by", "for", "from", "into", "out", "but"),
        *("photo", "picture", "image", "photograph", "realistic", "studio", "detailed"),
        *("close", "up", "macro", "wide", "real", "body", "nothing", "consists", "entirely"),
        *("made", "built", "crafted", "formed", "constructed", "shape", "shaped", "like", "size"),
    )
)


def content_words(text: str) -> Counter[str]:
    """The words that carry meaning, in the singular."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return Counter(_folded(word) for word in words if word not in _FRAME)


def _folded(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    return word[:-1] if len(word) > 3 and word.endswith("s") and word[-2] != "s" else word


def overlap(one: Counter[str], other: Counter[str]) -> float:
    """Share of the shorter one's words that the other has too, 0 to 1."""
    return (one & other).total() / max(1, min(one.total(), other.total()))


class TextIndex:
    """Texts by their words; finds the one that says most of what another text says."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._words: list[Counter[str]] = []
        self._by_word: dict[str, list[int]] = {}
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Add a text; they are numbered from 0."""
        number, words = len(self._words), content_words(text)
        self._words.append(words)
        for word in words:
            self._by_word.setdefault(word, []).append(number)

    def nearest(self, text: str, named: str) -> tuple[int, float]:
        """Number and similarity of the closest text that also has all words of `named`.

        (-1, 0.0) when there is none.
        """
        subject = content_words(named)
        said = content_words(text) - subject
        numbers = self._by_word.get(min(subject, key=self._rarity, default=""), ())
        scored = (
            (overlap(said, self._words[number] - subject), -number)
            for number in numbers
            if subject <= self._words[number]
        )
        score, negative = max(scored, default=(0.0, 1))
        return -negative, score

    def _rarity(self, word: str) -> int:
        return len(self._by_word.get(word, ()))
