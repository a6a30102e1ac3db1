"""Words of a text, and its word triples as numbers: what near copies are found by."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set

import numpy as np
from numpy.typing import NDArray

# Scripts that are written without spaces: each character counts as a word.
_UNSPACED = "\u0e00-\u0e7f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W_{_UNSPACED}]+")
_TYPOGRAPHY = "\u2019\u2018\u201c\u201d\u2013\u2014\u2026\u2022\u00a0"
_ASCII_WORDS = bytes(ord(chr(n).lower()) if n < 128 and chr(n).isalnum() else 32 for n in range(256))
TRIPLE = 3
"""Words in a row that make one shingle."""

Numbers = NDArray[np.uint32]


def simplified(text: str) -> str:
    """The text with common typographic characters as spaces: most English then is ASCII, read faster."""
    if not text.isascii():
        for character in _TYPOGRAPHY:
            text = text.replace(character, " ")
    return text


def words_of(text: str) -> list[str]:
    """Words in lower case, without punctuation; single characters where a script has no spaces."""
    simple = simplified(text)
    if simple.isascii():
        return simple.encode("ascii").translate(_ASCII_WORDS).decode("ascii").split()
    return _WORD.findall(text.lower())


class _Numbered(dict[str, int]):
    """Words by number, in the order of their first appearance, from 1."""

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self) + 1
        return number


class Vocabulary:
    """Every word that was read, so that equal words have equal numbers."""

    def __init__(self) -> None:
        self._numbers = _Numbered()

    def triples(self, words: Sequence[str]) -> Numbers:
        """A number of 32 bits for each three words in a row; one for a text of fewer, none for one of none.

        Two different triples have the same number with a probability of 2^-32.
        """
        if not words:
            return np.empty(0, np.uint32)
        found = np.fromiter(map(self._numbers.__getitem__, words), np.uint64, len(words))
        if len(found) < TRIPLE:
            found = np.pad(found, (0, TRIPLE - len(found)))
        mixed = found[:-2] * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(29)) ^ found[1:-1]) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(32)) ^ found[2:]) * np.uint64(0x94D049BB133111EB)
        return (mixed >> np.uint64(32)).astype(np.uint32)


def resemblance(a: Set[int], b: Set[int]) -> float:
    """Jaccard similarity of two sets of triples: shared ones over all. 1 where both are empty."""
    shared = len(a & b)
    union = len(a) + len(b) - shared
    return shared / union if union else 1.0
