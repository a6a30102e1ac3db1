"""Reading a policy: what it answers on test prompts, what a judge says of it, how far it has moved.

KL to the start is estimated from the policy's own samples at temperature 1, per response in nats: the
log-ratio log pi - log ref of the whole response (k1, Schulman 2020), unbiased, with its standard error over
prompts. k3 is unbiased too and kept beside it, but its tail is heavy: a token that the policy has made rare
and the start likes weighs exp(log-ratio). On the town its error was 0.9 to 8 times k1's (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from tastemaker.evaluation.behaviour import diversity, repetitions
from tastemaker.functional import kl_estimate
from tastemaker.types import Bundles, Generator, Models, Record, Reward, Sampling


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One response to each of P prompts, judged. All tensors [P], float64."""

    sampling: Sampling
    scores: Tensor
    parts: Mapping[str, Tensor]
    """The judge's named parts; NaN where a part does not apply to a prompt."""
    lengths: Tensor
    """Response tokens, the end token included."""
    ended: Tensor
    entropy: Tensor
    """Mean entropy per token, nats."""
    repetition: Tensor
    """Share of a response's runs of three tokens that occurred in it before."""
    diversity: Tensor | None
    """How different two samples for the same prompt are, 0 to 1; None for greedy responses."""
    kl: Tensor | None
    """k1 estimate; None for greedy responses, of which no KL can be estimated."""
    kl_k3: Tensor | None
    reference_logps: Tensor
    """Mean log-probability per token under the reference: how usual the response is for it."""
    responses: Bundles
    texts: tuple[str, ...]

    def columns(self) -> dict[str, Tensor]:
        """Everything with a value per prompt, by name."""
        named = {
            "score": self.scores,
            "length": self.lengths,
            "ended": self.ended,
            "entropy": self.entropy,
            "repetition": self.repetition,
            "reference_logps": self.reference_logps,
        }
        if self.diversity is not None:
            named["diversity"] = self.diversity
        if self.kl is not None and self.kl_k3 is not None:
            named |= {"kl": self.kl, "kl_k3": self.kl_k3}
        return named | {f"parts/{name}": values for name, values in self.parts.items()}

    def summary(self) -> dict[str, dict[str, float]]:
        """Mean, standard error and number of prompts of every column, over prompts where it applies."""
        return {name: mean_and_error(values) for name, values in self.columns().items()}


def mean_and_error(values: Tensor) -> dict[str, float]:
    """Mean and its standard error (ddof 1) over entries that are not NaN."""
    kept = values[~values.isnan()]
    n = len(kept)
    if n == 0:
        return {"mean": float("nan"), "se": float("nan"), "n": 0}
    error = float(kept.std(correction=1)) / n**0.5 if n > 1 else float("nan")
    return {"mean": float(kept.mean()), "se": error, "n": n}


def evaluate_policy(
    models: Models,
    generator: Generator,
    prompts: Bundles,
    records: Sequence[Record],
    judge: Reward,
    *,
    sampling: Sampling,
    seed: int,
    decode: Callable[[Tensor], str],
) -> Evaluation:
    """Lets the policy answer every prompt once and reads the answers.

    `models` must hold the roles policy and reference. Sampled policies draw a second response to every
    prompt, for `diversity` alone. At temperature 0 (greedy) no KL and no diversity are given.
    """
    sampled = sampling.temperature > 0
    drawn = generator.generate(prompts, replace(sampling, n=2 if sampled else 1), seed=seed)
    responses = first_of(drawn).to(models.device)
    judged = judge(responses, records)
    policy = models.score("policy", responses, entropy=True)
    reference = models.score("reference", responses)
    assert policy.logps is not None
    assert policy.entropy is not None
    assert reference.logps is not None
    ours, theirs = policy.logps, reference.logps

    def per_response(kind: Literal["k1", "k3"]) -> Tensor:
        return responses.sum_by_response(kl_estimate(ours, theirs, kind)).double().cpu()

    lengths = responses.lengths.double()
    return Evaluation(
        sampling=sampling,
        scores=judged.total.double().cpu(),
        parts={name: values.double().cpu() for name, values in judged.parts.items()},
        lengths=lengths.cpu(),
        ended=responses.ended.double().cpu(),
        entropy=(responses.sum_by_response(policy.entropy).double() / lengths).cpu(),
        repetition=repetitions(responses),
        diversity=diversity(drawn) if sampled else None,
        kl=per_response("k1") if sampled else None,
        kl_k3=per_response("k3") if sampled else None,
        reference_logps=(responses.sum_by_response(theirs).double() / lengths).cpu(),
        responses=responses,
        texts=tuple(
            decode(r[:-1] if ended else r)
            for t in responses.trees
            for r, ended in zip(t.responses, t.ended, strict=True)
        ),
    )


def first_of(batch: Bundles) -> Bundles:
    """Every tree with its first response alone."""
    trees = tuple(replace(t, responses=t.responses[:1], ended=t.ended[:1]) for t in batch.trees)
    return Bundles(trees=trees, tree_columns=batch.tree_columns, device=batch.device)


def stacked(summaries: Sequence[Mapping[str, Mapping[str, float]]], name: str) -> Tensor:
    """[seeds]: the mean of one column in every seed's summary."""
    return torch.tensor([s[name]["mean"] for s in summaries], dtype=torch.float64)
