"""A judge as an instrument: does it contradict itself, does it prefer a place or length, do people agree.

Definitions reproduce published figures: positional agreement and accuracy are LLMBar's (Zeng et al. 2023,
"Evaluating large language models at evaluating instruction following"), kappa between annotators is PandaLM's
(Wang et al. 2023).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tastemaker.feedback.judge.fence import spoken
from tastemaker.feedback.judge.opinions import Opinion, Shown
from tastemaker.functional import cohen_kappa

Winner = int | None
"""0 or 1: that response; -1: a tie; None: no verdict could be read."""
TIED = -1


@dataclass(frozen=True, slots=True)
class Share:
    """`hits` of `n`; ties may be half hits."""

    hits: float
    n: int

    @property
    def value(self) -> float | None:
        """None of nothing."""
        return self.hits / self.n if self.n else None


@dataclass(frozen=True, slots=True)
class Instrument:
    """What a judge is like: verdicts over all records, the rest over pairs."""

    records: int
    pairs: int
    """Of the records those with two responses."""
    answers: int
    unparsed: int
    """Answers in which no verdict could be read, those that were refused aside."""
    refused: int
    ties: int
    """Records on which no response was better than another, of those with a verdict."""
    swap: Share
    """Pairs shown in both orders of which the same response won, or a tie came, both times."""
    first: Share
    """Answers in which the response shown first won; ties aside."""
    longer: Share
    """Pairs of unequal length of which the longer response won; ties aside."""


def instrument(opinions: Sequence[Opinion]) -> Instrument:
    """The figures of what a judge thinks of some records."""
    pairs = [o for o in opinions if len(o.record.responses) == 2]
    shown = [s for o in pairs for s in o.shown if len(s.order) == 2]
    decided = [s for s in shown if s.ranks is not None and s.ranks[0] != s.ranks[1]]
    answers = [s for o in opinions for s in o.shown]
    both = [(winner(s.order, s.ranks), winner(t.order, t.ranks)) for o in pairs for s, t in _swapped(o)]
    longer: list[bool] = []
    for opinion in pairs:
        a, b = (len(spoken(r)) for r in opinion.record.responses)
        if opinion.ranking is not None and a != b and opinion.ranking[0] != opinion.ranking[1]:
            longer.append((a > b) == (opinion.ranking[0] < opinion.ranking[1]))
    unread = [s for s in answers if s.ranks is None]
    return Instrument(
        records=len(opinions),
        pairs=len(pairs),
        answers=len(answers),
        unparsed=sum(not s.kept.reply.refused for s in unread),
        refused=sum(bool(s.kept.reply.refused) for s in answers),
        ties=sum(o.ranking is not None and len(set(o.ranking)) == 1 for o in opinions),
        swap=agreement_under_swap([a for a, _ in both], [b for _, b in both]),
        first=Share(sum(s.ranks == (0, 1) for s in decided), len(decided)),
        longer=Share(sum(longer), len(longer)),
    )


def winner(order: Sequence[int], ranks: Sequence[int] | None) -> Winner:
    """Which response of a pair won, by the record's own order."""
    if ranks is None:
        return None
    return TIED if ranks[0] == ranks[1] else order[0] if ranks[0] < ranks[1] else order[1]


def _swapped(opinion: Opinion) -> list[tuple[Shown, Shown]]:
    by_order = {s.order: s for s in opinion.shown}
    return [(by_order[0, 1], by_order[1, 0])] if {(0, 1), (1, 0)} <= by_order.keys() else []


def agreement_under_swap(first: Sequence[Winner], second: Sequence[Winner]) -> Share:
    """Pairs with the same winner in both orders, winners being named by response and not by place. A pair
    without a verdict in either order is no agreement.
    """
    same = sum(a == b and a is not None for a, b in zip(first, second, strict=True))
    return Share(same, len(first))


def accuracy(said: Sequence[Winner], labels: Sequence[Winner]) -> Share:
    """How often the winner is the one that people name; no verdict is no hit. With both orders of a pair given
    one after the other this is LLMBar's accuracy, the mean over both.
    """
    return Share(sum(s == label for s, label in zip(said, labels, strict=True)), len(labels))


def kappa(a: Sequence[Winner], b: Sequence[Winner]) -> float | None:
    """Cohen's kappa, unweighted, over all classes that occur (ties, and "no verdict", are classes of their
    own). None where both always say the same one thing, of which chance agreement is 1.
    """
    classes = list({str(x): None for x in (*a, *b)})
    if len(classes) < 2:
        return None
    table = torch.zeros(len(classes), len(classes), dtype=torch.float64)
    for x, y in zip(a, b, strict=True):
        table[classes.index(str(x)), classes.index(str(y))] += 1
    return cohen_kappa(table)


def majority(labels: Sequence[Winner]) -> Winner:
    """What most say; a tie where no single answer has the most votes."""
    votes = Counter(labels).most_common()
    return votes[0][0] if len(votes) == 1 or votes[0][1] > votes[1][1] else TIED
