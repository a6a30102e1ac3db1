"""Near copies among many texts, without comparing each with each (MinHash with banding).

A text is the set of its word triples. A signature keeps, for each of up to 128 hash functions, the smallest
value over that set; two texts agree in one place with the probability of their Jaccard similarity s (Broder
1997). Signatures are cut into b bands of r places, and texts that agree in a whole band are compared in
full. So nothing is reported that is not so alike, and a pair is missed with probability (1 - s^r)^b
(Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, chapter 3.4). Everything is deterministic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.audit.words import Numbers

PLACES = 128
"""Hash functions at most: 512 bytes a text."""
MISSED = 0.01
"""Highest probability to miss a pair that is just as alike as asked for."""
COMPARED = 64
"""Earlier texts that one is compared with in one band: thousands made from one template cost no squares."""
_BLOCK = 512
_SEED = 20240229


@dataclass(frozen=True)
class Bands:
    """How signatures are cut."""

    bands: int
    rows: int

    def missed(self, similarity: float) -> float:
        """Probability that a pair of this similarity is never compared."""
        return (1 - similarity**self.rows) ** self.bands


def bands_for(similarity: float) -> Bands:
    """The most selective cut that misses a pair of this similarity with a probability of 1% at most.

    Raises ValueError for a similarity that 128 places cannot find (below about 0.04) or above 1.
    """
    if similarity > 1:
        raise ValueError(f"similarity {similarity:g}: should be at most 1")
    for rows in range(16, 0, -1):
        cut = Bands(PLACES // rows, rows)
        if cut.missed(similarity) <= MISSED:
            return cut
    raise ValueError(f"similarity {similarity:g}: too low to be searched for")


class Sketches:
    """Signatures of texts, in the order they were added."""

    def __init__(self, similarity: float) -> None:
        self.similarity = similarity
        self.bands = bands_for(similarity)
        self.count = 0
        random = np.random.default_rng(_SEED)
        size = self.bands.bands * self.bands.rows
        self._factors = random.integers(0, 2**32, size, dtype=np.uint32) | np.uint32(1)
        self._shifts = random.integers(0, 2**32, size, dtype=np.uint32)
        self._waiting: list[Numbers] = []
        self._done: list[NDArray[np.uint32]] = []

    def add(self, triples: Numbers) -> int:
        """Takes the next text and returns its number."""
        self._waiting.append(triples)
        self.count += 1
        if len(self._waiting) == _BLOCK:
            self._sketch()
        return self.count - 1

    def _sketch(self) -> None:
        # A text without words has no triple: it gets one of its own kind.
        texts = [t if len(t) else np.zeros(1, np.uint32) for t in self._waiting]
        joined = np.concatenate(texts)
        starts = np.cumsum([0, *(len(t) for t in texts[:-1])])
        found = np.empty((len(texts), len(self._factors)), np.uint32)
        for k, (factor, shift) in enumerate(zip(self._factors, self._shifts, strict=True)):
            mixed = (joined ^ shift) * factor
            mixed ^= mixed >> np.uint32(15)
            mixed *= np.uint32(0x2C1B3C6D)
            found[:, k] = np.minimum.reduceat(mixed, starts)
        self._done.append(found)
        self._waiting = []

    def links(
        self, alike: Callable[[int, int], float], others: int | None = None
    ) -> list[tuple[int, int, float]]:
        """(text, an earlier one that it is near to, how alike they are), sorted, one link a text at most.

        `alike` compares two texts by their numbers. With `others` the first so many texts are another
        collection: each later one is held against those alone.
        """
        if self._waiting:
            self._sketch()
        if not self._done:
            return []
        signatures = np.concatenate(self._done)
        found: dict[int, tuple[int, float]] = {}
        tried: set[tuple[int, int]] = set()
        for bucket in self._buckets(signatures):
            for place, later in enumerate(bucket):
                if later in found or later < (others or 0):
                    continue
                before = bucket[:place] if others is None else [e for e in bucket[:place] if e < others]
                for earlier in before[:COMPARED]:
                    if (later, earlier) in tried:
                        continue
                    tried.add((later, earlier))
                    similarity = alike(later, earlier)
                    if similarity >= self.similarity:
                        found[later] = earlier, similarity
                        break
        return [(later, *found[later]) for later in sorted(found)]

    def _buckets(self, signatures: NDArray[np.uint32]) -> Iterator[list[int]]:
        """Texts that agree in a band, two or more, by their numbers."""
        rows = self.bands.rows
        for band in range(self.bands.bands):
            keys = np.zeros(len(signatures), np.uint64)
            for k in range(band * rows, (band + 1) * rows):
                keys = (keys ^ signatures[:, k]) * np.uint64(0x9E3779B97F4A7C15)
                keys ^= keys >> np.uint64(31)
            order = np.argsort(keys, kind="stable")
            sorted_keys = keys[order]
            same = np.flatnonzero(sorted_keys[1:] == sorted_keys[:-1])
            if not len(same):
                continue
            breaks = np.flatnonzero(np.diff(same) > 1) + 1
            for run in np.split(same, breaks):
                yield order[run[0] : run[-1] + 2].tolist()
