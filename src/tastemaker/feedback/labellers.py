"""Whoever labels, as one: people's files, judges, simulated annotators and programs.

All give `Comparison` records that say who judged (`annotator`, `source`), when, and in which order the
responses were shown; so they can be put side by side, and mixed by weight. `feedback.judge.Judge` is a labeller
as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from tastemaker.data import read_records
from tastemaker.feedback.judge.fence import spoken
from tastemaker.types import Comparison, TastemakerError, Text

Scores = Callable[[Text, Sequence[str]], Sequence[float | None]]
"""(prompt, responses) -> how good each is; None where the program cannot tell."""


class Labeller(Protocol):
    """Orders responses."""

    @property
    def name(self) -> str: ...

    def label(self, records: Sequence[Comparison]) -> list[Comparison]:
        """The records with this labeller's ranking; those it says nothing of are left out, and those on which
        several people were asked come once for each.
        """
        ...


class People:
    """Labels that were given before: a file of comparisons, or the comparisons themselves.

    A record is found by its prompt and responses, in whichever order they stand in the file.
    """

    def __init__(self, source: str | Path | Sequence[Comparison], name: str = "people") -> None:
        """Raises TastemakerError as `read_records` does."""
        self.name = name
        given = read_records(source, Comparison).records if isinstance(source, str | Path) else source
        self._given: dict[tuple[Text, frozenset[Text]], list[Comparison]] = {}
        for record in given:
            if isinstance(record, Comparison):
                self._given.setdefault(_matter(record), []).append(record)

    def label(self, records: Sequence[Comparison]) -> list[Comparison]:
        return [_turned(found, record) for record in records for found in self._given.get(_matter(record), ())]


class Program:
    """A function that scores responses: checks, rules, a length, a reward model."""

    def __init__(
        self, scores: Scores, name: str, *, margin: float = 0.0, now: Callable[[], datetime] | None = None
    ) -> None:
        """`margin`: scores that differ by no more than this are a tie."""
        self.name = name
        self._scores = scores
        self._margin = margin
        self._now = now or (lambda: datetime.now(UTC))

    def label(self, records: Sequence[Comparison]) -> list[Comparison]:
        """Raises TastemakerError where the function gives another number of scores."""
        when = self._now().isoformat(timespec="milliseconds")
        labelled: list[Comparison] = []
        for record in records:
            texts = [spoken(r) for r in record.responses]
            scores = list(self._scores(record.prompt, texts))
            if len(scores) != len(texts):
                raise TastemakerError(
                    f"{self.name}: gave {len(scores)} scores for the {len(texts)} responses of row "
                    f"{record.row or '?'}"
                )
            read = [s for s in scores if s is not None]
            if len(read) == len(scores):
                labelled.append(
                    replace(
                        record,
                        ranking=self._ranks(read),
                        strength=max(read) - min(read),
                        source="program",
                        annotator=self.name,
                        when=when,
                        shown_order=tuple(range(len(texts))),
                    )
                )
        return labelled

    def _ranks(self, scores: Sequence[float]) -> tuple[int, ...]:
        order = sorted(range(len(scores)), key=lambda k: -scores[k])
        ranks = {order[0]: 0}
        for before, k in pairwise(order):
            ranks[k] = ranks[before] + (scores[before] - scores[k] > self._margin)
        return tuple(ranks[k] for k in range(len(scores)))


def mix(
    shares: Sequence[tuple[Labeller, float]], records: Sequence[Comparison], *, seed: int = 0
) -> list[Comparison]:
    """Every record labelled by one labeller, drawn by weight from the seed and the record's own text; the order
    of the records is kept. Weight 0 is as if the labeller were not there.

    Raises:
        TastemakerError: weights that are negative or all 0, or two labellers of one name.
    """
    if any(weight < 0 for _, weight in shares) or not sum(weight for _, weight in shares):
        raise TastemakerError(
            f"weights {', '.join(f'{labeller.name} {weight:g}' for labeller, weight in shares)}: should be 0 "
            "or more, one of them above 0"
        )
    kept = [(labeller, weight) for labeller, weight in shares if weight > 0]
    names = [labeller.name for labeller, _ in kept]
    if len(set(names)) < len(names):
        raise TastemakerError(
            f"labellers {', '.join(names)}: should have different names, so that labels tell whose"
        )
    total = sum(weight for _, weight in kept)
    share: list[list[int]] = [[] for _ in kept]
    for i, record in enumerate(records):
        draw = _uniform(seed, record) * total
        at = 0
        while at < len(kept) - 1 and draw >= kept[at][1]:
            draw -= kept[at][1]
            at += 1
        share[at].append(i)
    labelled: list[tuple[int, Comparison]] = []
    for (labeller, _), own in zip(kept, share, strict=True):
        by_matter: Mapping[tuple[Text, frozenset[Text]], int] = {_matter(records[i]): i for i in own}
        for label in labeller.label([records[i] for i in own]):
            labelled.append((by_matter[_matter(label)], label))
    labelled.sort(key=lambda pair: pair[0])
    return [label for _, label in labelled]


def chosen_first(pair: Comparison) -> Comparison:
    """The same comparison of two with the preferred response in front, as files of pairs have them."""
    if pair.ranking != (1, 0):
        return pair
    shown = None if pair.shown_order is None else tuple(1 - k for k in pair.shown_order)
    return replace(pair, responses=pair.responses[::-1], ranking=(0, 1), shown_order=shown)


def _matter(record: Comparison) -> tuple[Text, frozenset[Text]]:
    return record.prompt, frozenset(record.responses)


def _turned(found: Comparison, wanted: Comparison) -> Comparison:
    """`found` with its responses in the order of `wanted`, under its row."""
    place = {response: k for k, response in enumerate(found.responses)}
    order = [place[response] for response in wanted.responses]
    new = {k: i for i, k in enumerate(order)}
    shown = None if found.shown_order is None else tuple(new[k] for k in found.shown_order)
    ranking = tuple(found.ranking[k] for k in order)
    return replace(found, responses=wanted.responses, ranking=ranking, shown_order=shown, row=wanted.row)


def _uniform(seed: int, record: Comparison) -> float:
    digest = hashlib.sha256(str(seed).encode())
    for text in sorted(spoken(t) for t in record.responses):
        digest.update(text.encode("utf-8", "backslashreplace") + b"\0")
    digest.update(spoken(record.prompt).encode("utf-8", "backslashreplace"))
    return int.from_bytes(digest.digest()[:8], "big") / 2**64
