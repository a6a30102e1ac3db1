"""Active selection: which pairs people should label next, by a reward model's doubt and by how unlike they are.

A pair's worth is p (1 - p) under one reward model, or what the heads of an ensemble disagree about. Pairs are
then taken one after another, each where worth is high and the reward model's features are unlike those of pairs
that are labelled or taken already (`functional.informative_order`). Labels are never looked at: only which
pairs have some. Selected pairs are a biased sample: read accuracy on pairs drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tastemaker.data import tokenise
from tastemaker.errors import TastemakerError
from tastemaker.functional.querying import ensemble_disagreement, informative_order, pair_uncertainty
from tastemaker.models import RoleModels
from tastemaker.models.states import last_states
from tastemaker.types import Comparison

Rule = Literal["uncertainty", "disagreement"]
"""uncertainty: p (1 - p). disagreement: of an ensemble's heads (BALD)."""


@dataclass(frozen=True)
class ReadPairs:
    """What a reward model makes of pairs."""

    rows: tuple[int, ...]
    """Which of the pairs given: those that the model cannot tell apart or read are missing."""
    leads: Tensor
    """[Q, H]: reward of the first response less the second's, by each head (H = 1 without an ensemble)."""
    features: Tensor
    """[Q, d]: the difference of what the head reads."""


def read_pairs(models: RoleModels, pairs: Sequence[Comparison], *, features: bool = True) -> ReadPairs:
    """Scores pairs without their labels. `models` hold the role `reward`; features are left empty if not
    wanted.

    Raises TastemakerError: a record that is no pair, a reward model with several objectives or that scores
    steps.
    """
    for pair in pairs:
        if len(pair.responses) != 2:
            raise TastemakerError(
                f"row {pair.row}: has {len(pair.responses)} responses; pairs can be selected."
            )
    head = models.table()["reward"].head
    if head in ("objectives", "step"):
        raise TastemakerError(f"this reward model's head ({head}) gives no one score a response to select by.")
    blank = [
        Comparison(prompt=p.prompt, responses=p.responses, ranking=(0, 1), row=str(i))
        for i, p in enumerate(pairs)
    ]
    tokens = tokenise(blank, models.tokenizer)
    batch = tokens.batch(range(len(tokens))).to(models.device)
    scores = models.score("reward", batch).rewards
    assert scores is not None
    sides = scores.reshape(len(tokens), 2, -1).double().cpu()
    states = (
        last_states(models, batch).double().cpu().reshape(len(tokens), 2, -1) if features else sides[..., :0]
    )
    rows = tuple(int(record.row) for record in tokens.records)
    return ReadPairs(rows, sides[:, 0] - sides[:, 1], states[:, 0] - states[:, 1])


def usual_rule(models: RoleModels) -> Rule:
    """Disagreement where the reward model has several heads, else uncertainty."""
    return "disagreement" if models.table()["reward"].head == "ensemble" else "uncertainty"


def select_pairs(
    models: RoleModels,
    pool: Sequence[Comparison],
    count: int,
    *,
    labelled: Sequence[Comparison] = (),
    rule: Rule | None = None,
) -> list[int]:
    """Which `count` pairs of the pool to label next, the most informative first. `labelled`: pairs that have
    labels already, which are not looked at. `rule`: `usual_rule` unless given.

    Raises TastemakerError as `read_pairs` does, and for disagreement without an ensemble.
    """
    rule = rule or usual_rule(models)
    own = read_pairs(models, pool)
    before = read_pairs(models, labelled) if labelled else None
    if rule == "disagreement" and own.leads.shape[1] < 2:
        raise TastemakerError(
            "rule disagreement needs an ensemble: train the reward model with --ensemble 4, or take "
            "uncertainty."
        )
    order = informative_order(
        worth_of(own.leads, rule),
        own.features,
        count,
        seen_worth=None if before is None else worth_of(before.leads, rule),
        seen=None if before is None else before.features,
    )
    return [own.rows[i] for i in order.tolist()]


def worth_of(leads: Tensor, rule: Rule) -> Tensor:
    """[Q] of leads [Q, H]."""
    if not len(leads):
        return torch.zeros(0, dtype=torch.float64)
    return pair_uncertainty(leads) if rule == "uncertainty" else ensemble_disagreement(leads)
