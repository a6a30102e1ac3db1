"""What responses look like as strings of tokens: how much they repeat themselves and each other.

Both are shares between 0 and 1 over runs of tokens, so that they need no language and no judge.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from tastemaker.types import Bundles

RUN = 3
"""Tokens in a run for `repetition`."""


def repetition(response: Tensor) -> float:
    """Share of a response's runs of three tokens that occurred in it before; 0 where it has fewer than two.

    1 - distinct-3 (Li et al. 2016) of one response. `response`: [L] token ids.
    """
    runs = _runs(response, RUN)
    total = sum(runs.values())
    return 1 - len(runs) / total if total > 1 else 0.0


def difference(a: Tensor, b: Tensor) -> float:
    """How different two responses are: 1 - the Dice overlap of their pairs of neighbouring tokens.

    0 for equal responses, 1 where they share no pair; a response of one token counts as that token.
    """
    one, other = _runs(a, 2), _runs(b, 2)
    total = sum(one.values()) + sum(other.values())
    return 1 - 2 * sum((one & other).values()) / total


def repetitions(batch: Bundles) -> Tensor:
    """[R] float64: `repetition` of every response."""
    found = [repetition(r) for tree in batch.trees for r in tree.responses]
    return torch.tensor(found, dtype=torch.float64)


def diversity(batch: Bundles) -> Tensor:
    """[B] float64: mean `difference` of all pairs of responses to one prompt; NaN with fewer than two."""
    found: list[float] = []
    for tree in batch.trees:
        k = len(tree.responses)
        pairs = [difference(tree.responses[i], tree.responses[j]) for i in range(k) for j in range(i)]
        found.append(sum(pairs) / len(pairs) if pairs else float("nan"))
    return torch.tensor(found, dtype=torch.float64)


def _runs(response: Tensor, length: int) -> Counter[tuple[int, ...]]:
    ids: list[int] = response.tolist()
    if len(ids) < length:
        return Counter([tuple(ids)])
    return Counter(tuple(ids[i : i + length]) for i in range(len(ids) - length + 1))
