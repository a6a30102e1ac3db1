"""Studies whose truth is known: invented readings that go through the comparison's own choice and verdict.

What a policy scores on a prompt is the sum of the arm's true level, the luck of this training run (one for
each arm, setting and seed), what the prompt is worth to any policy, and what this one answer to it came to.
The luck of a run is what its tuning prompts and its test prompts have in common, so the best-looking setting
is luckier than it deserves: choosing is part of what is simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tastemaker.studies.verdict import Point, choose, verdict


@dataclass(frozen=True, kw_only=True)
class Design:
    """How a simulated study is laid out; spreads are standard deviations."""

    levels: Sequence[float] = (0.0, 0.0)
    """True mean of each arm."""
    seeds: int = 3
    prompts: int = 384
    tuning: int = 256
    settings: Sequence[int] = (2, 2)
    """Settings that each arm tries, all equally good."""
    runs: float | Sequence[float] = 0.15
    """Luck of a training run; of each arm where several are given."""
    starts: float = 0.2
    """What a seed's start makes of all its policies."""
    answers: float = 2**0.5
    """Of one answer, so that a difference between two has a standard deviation of 2."""
    heavy: bool = False
    """Answers follow Student's t with 3 degrees of freedom (scaled) instead of a normal."""


def study(design: Design, generator: torch.Generator) -> dict[str, Any]:
    """What `verdict` says of one study."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def answers(*shape: int) -> Tensor:
        if not design.heavy:
            return design.answers * normal(*shape)
        scale = normal(3, *shape).square().sum(0).div(3).sqrt()
        return design.answers / 3**0.5 * normal(*shape) / scale

    arms, seeds, most = len(design.levels), design.seeds, max(design.settings)
    spread = design.runs if isinstance(design.runs, Sequence) else [design.runs] * arms
    levels = torch.tensor(design.levels, dtype=torch.float64)[:, None, None]
    runs = levels + torch.tensor(spread, dtype=torch.float64)[:, None, None] * normal(arms, most, seeds)
    runs = runs + design.starts * normal(seeds)
    tuned = runs + design.answers * normal(arms, most, seeds) / design.tuning**0.5
    worth = normal(seeds, design.prompts)
    read = runs[..., None] + worth + answers(arms, most, seeds, design.prompts)
    kls = torch.arange(1, most + 1)[:, None] * (0.2 * normal(arms, most, seeds)).exp()
    plain = [worth[s] - 1.5 + answers(2, design.prompts) for s in range(seeds)]
    scores: dict[str, list[Tensor]] = {}
    points: dict[str, list[list[Point]]] = {}
    for a, tried in enumerate(design.settings):
        chosen = int(choose({str(k): tuned[a, k].tolist() for k in range(tried)}))
        scores[f"arm{a}"] = list(read[a, chosen])
        points[f"arm{a}"] = [
            [Point(float(kls[a, k, s]), read[a, k, s], 0.1) for k in range(tried)] for s in range(seeds)
        ]
    baselines = {"sft_sampled": [p[0] for p in plain], "sft_greedy": [p[1] for p in plain]}
    return verdict(scores, baselines, points, "gold reward", scores)


def rate_of_winners(design: Design, studies: int, seed: int, winner: str | None = None) -> float:
    """The share of studies that name a winner (this one, where it is given)."""
    generator = torch.Generator().manual_seed(seed)
    named = [study(design, generator)["winner"] for _ in range(studies)]
    return sum(name is not None and winner in (None, name) for name in named) / studies
