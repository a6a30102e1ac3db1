"""Pairs under a policy and its reference: every figure against plain arithmetic."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from tastemaker.evaluation.preferences import clustered_mean, read_own, read_pairs
from tastemaker.models import build_roles, word_model
from tastemaker.rollout import LocalGenerator
from tastemaker.types import Bundles, Sampling, Scores, TastemakerError, Tree
from worlds import Table, pair, pairs_batch

REFERENCE = torch.tensor([[0.5, -0.3, 0.0, 1.0], [0.0, 0.8, -0.6, 0.2]], dtype=torch.float64)
PAIRS = [(0, 0, 1), (0, 3, 2), (1, 1, 0), (1, 2, 3), (1, 3, 0)]


def table() -> Table:
    """A policy that has moved towards response 0 and 1 in context 0, and away from 3 in context 1."""
    moved = Table(REFERENCE)
    with torch.no_grad():
        moved.logits += torch.tensor([[1.0, 0.4, 0.0, -0.2], [0.0, 0.2, 0.3, -1.5]], dtype=torch.float64)
    return moved


def log_softmax(row: list[float], at: int) -> float:
    return row[at] - math.log(sum(math.exp(x) for x in row))


def test_figures_are_those_of_plain_arithmetic():
    models = table()
    read = read_pairs(models, pairs_batch([pair(*p) for p in PAIRS]))
    chosen: list[float] = []
    rejected: list[float] = []
    for context, better, worse in PAIRS:
        new, old = models.logits[context].tolist(), REFERENCE[context].tolist()
        chosen.append(log_softmax(new, better) - log_softmax(old, better))
        rejected.append(log_softmax(new, worse) - log_softmax(old, worse))
    margins = [c - r for c, r in zip(chosen, rejected, strict=True)]
    assert read["margin"] == pytest.approx(statistics.mean(margins))
    assert read["margin_se"] == pytest.approx(statistics.stdev(margins) / 5**0.5)
    assert read["chosen_logratio"] == pytest.approx(statistics.mean(chosen))
    assert read["chosen_logratio_se"] == pytest.approx(statistics.stdev(chosen) / 5**0.5)
    assert read["rejected_logratio"] == pytest.approx(statistics.mean(rejected))
    assert [round(m, 6) for m in margins] == [0.6, -0.2, 0.2, 1.8, -1.5]
    assert read["accuracy"] == pytest.approx(3 / 5)
    reference = [log_softmax(REFERENCE[c].tolist(), b) for c, b, _ in PAIRS]
    assert read["reference_chosen_logp_per_token"] == pytest.approx(statistics.mean(reference))
    policy = [log_softmax(models.logits[c].tolist(), w) for c, _, w in PAIRS]
    assert read["rejected_logp_per_token"] == pytest.approx(statistics.mean(policy))
    assert read["pairs"] == read["trees"] == 5


def test_an_untrained_policy_has_no_opinion():
    read = read_pairs(Table(REFERENCE), pairs_batch([pair(*p) for p in PAIRS]))
    assert read["accuracy"] == 0.5
    assert read["margin"] == read["chosen_logratio"] == read["rejected_logratio"] == 0


class Fixed:
    """Log-probs as given, per role."""

    device = torch.device("cpu")

    def __init__(self, policy: list[float], reference: list[float]):
        self.logps = {"policy": torch.tensor(policy), "reference": torch.tensor(reference)}

    def score(self, role: str, batch: Bundles, **options: object) -> Scores:
        return Scores(logps=self.logps[role])


def ragged() -> Bundles:
    """Two trees: three ranked responses of 1, 2 and 3 tokens, and two of 2 and 1; one token is not trained."""
    sizes = ((1, 2, 3), (2, 1))
    masks = [[torch.ones(n, dtype=torch.bool) for n in group] for group in sizes]
    masks[0][2][0] = False
    trees = tuple(
        Tree(
            prompt=torch.tensor([1]),
            responses=tuple(torch.full((n,), 5) for n in group),
            trained=tuple(mask),
            ended=(True,) * len(group),
            row=i,
        )
        for i, (group, mask) in enumerate(zip(sizes, masks, strict=True))
    )
    return Bundles(trees=trees, response_columns={"rank": torch.tensor([1, 0, 2, 0, 1])})


def test_lengths_masks_and_pairs_of_one_tree():
    models = Fixed(
        policy=[-1.0, -2.0, -3.0, 99.0, -1.0, -1.0, -4.0, -1.0, -2.0],
        reference=[-1.5, -2.5, -2.5, -99.0, -2.0, -3.0, -3.0, -3.0, -1.0],
    )
    read = read_pairs(models, ragged())  # pyright: ignore[reportArgumentType]
    # log-ratios of the five responses: .5, 0, 3 (its first token does not count), 1, -1
    margins = [0 - 0.5, 0 - 3.0, 0.5 - 3.0, 1 - -1]
    assert read["margin"] == pytest.approx(statistics.mean(margins))
    assert read["accuracy"] == 0.25
    assert read["chosen_logratio"] == pytest.approx((0 + 0 + 0.5 + 1) / 4)
    assert read["chosen_length"] == pytest.approx((2 + 2 + 1 + 2) / 4)
    assert read["rejected_length"] == pytest.approx((1 + 2 + 2 + 1) / 4)
    assert read["rejected_logratio_per_token"] == pytest.approx((0.5 / 1 + 3 / 2 + 3 / 2 + -1 / 1) / 4)
    assert read["chosen_logp_per_token"] == pytest.approx((-5 / 2 + -5 / 2 + -1 + -5 / 2) / 4)
    assert (read["pairs"], read["trees"]) == (4, 2)
    mean = statistics.mean(margins)
    sums = [sum(margins[:3]) - 3 * mean, margins[3] - mean]
    assert read["margin_se"] == pytest.approx(math.sqrt(2 * (sums[0] ** 2 + sums[1] ** 2)) / 4)


def test_errors_cover_pairs_that_depend_on_each_other():
    """600 experiments with 20 clusters of 1 to 4 values that share a part: the stated error is the spread."""
    generator = torch.Generator().manual_seed(1)
    cluster = torch.tensor([c for c in range(20) for _ in range(1 + c % 4)])
    means, errors = [], []
    for _ in range(600):
        shared = torch.randn(20, generator=generator, dtype=torch.float64)[cluster]
        own = torch.randn(len(cluster), generator=generator, dtype=torch.float64)
        mean, error = clustered_mean(shared + 0.5 * own, cluster)
        means.append(mean)
        errors.append(error)
    ratio = math.sqrt(statistics.mean(e * e for e in errors)) / statistics.stdev(means)
    assert 0.9 < ratio < 1.1
    assert math.isnan(clustered_mean(torch.ones(3), torch.zeros(3))[1])


def test_own_samples_set_the_level_that_pairs_are_compared_with():
    """Pairs drawn from the reference lie at the level of its own samples; foreign ones far below."""
    torch.manual_seed(0)
    # logits of normal size, unlike a random initialisation's, so that texts differ in likelihood
    models = build_roles(
        ("policy", "reference"),
        (),
        policy=word_model([f"w{i}" for i in range(12)], seed=0, hidden=16, heads=2, initializer_range=0.4),
    )
    prompts = Bundles(trees=tuple(Tree(prompt=torch.tensor([1, 3, 5 + i % 12, 4]), row=i) for i in range(64)))
    generator = LocalGenerator(models, models.tokenizer)
    sampling = Sampling(max_new_tokens=12, n=2)
    own = read_own(models, generator.generate(prompts, sampling, seed=1))
    other = generator.generate(prompts, sampling, seed=2)
    ranks = torch.tensor([0, 1] * 64)
    near = read_pairs(models, other.with_responses(rank=ranks))
    apart = abs(near["reference_chosen_logp_per_token"] - own["logp_per_token"])
    assert apart < 4 * math.hypot(near["reference_chosen_logp_per_token_se"], own["logp_per_token_se"])
    foreign = Bundles(
        trees=tuple(
            Tree(
                prompt=t.prompt,
                responses=tuple(torch.randint(5, 17, (8,)) for _ in range(2)),
                ended=(True, True),
                row=t.row,
            )
            for t in prompts.trees
        ),
        response_columns={"rank": ranks},
    )
    far = read_pairs(models, foreign)
    gap = own["logp_per_token"] - far["reference_chosen_logp_per_token"]
    assert gap > 6 * math.hypot(far["reference_chosen_logp_per_token_se"], own["logp_per_token_se"])


def test_nothing_but_ties_is_refused():
    batch = pairs_batch([pair(0, 0, 1)]).with_responses(rank=torch.tensor([0, 0]))
    with pytest.raises(TastemakerError, match="different rank"):
        read_pairs(Table(REFERENCE), batch)
