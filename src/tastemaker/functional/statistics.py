"""Honest intervals, and what a policy would score elsewhere on the frontier. float64, seeded, torch alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK = 2**22
"""Resampled entries held at once."""


class Interval(NamedTuple):
    """An estimate and its confidence interval. Bounds are NaN where the data cannot tell; every comparison
    with NaN is false, so such an interval claims nothing.
    """

    estimate: float
    low: float
    high: float


class Tilted(NamedTuple):
    """What importance weights say about a tilted policy, per prompt, each [P] float64."""

    mean: Tensor
    kl: Tensor
    """KL(tilted || sampled) in nats; the estimate cannot exceed ln N."""
    effective_samples: Tensor
    """1 / sum of squared weights, from 1 (one sample speaks for all) to N."""


class Spread(NamedTuple):
    """Variance components of paired differences (not standard deviations)."""

    seeds: float
    """Of a seed's difference over infinitely many prompts, between seeds."""
    prompts: float
    """Of a prompt's difference, where every seed has the same prompts; else 0."""
    within: float
    """Of one difference around these: the prompts' own part, where each seed has its own."""


def standard_error(values: Tensor) -> float:
    """Standard deviation (ddof 1) over sqrt(n). Shapes: `values` [n]; NaN for n < 2."""
    n = values.numel()
    return float(values.double().std(correction=1)) / math.sqrt(n) if n > 1 else math.nan


def mean_interval(values: Tensor, *, confidence: float = 0.95) -> Interval:
    """Mean with its normal interval, mean -+ z standard errors. Shapes: `values` [n], independent.

    For large n; below some 30 values `paired_interval` of this one row widens it as Student does. Bounds are
    NaN for n < 2.
    """
    mean = float(values.double().mean())
    half = NormalDist().inv_cdf(0.5 + _level(confidence) / 2) * standard_error(values)
    return Interval(mean, mean - half, mean + half)


def bootstrap_interval(
    values: Tensor, *, resamples: int = 2000, confidence: float = 0.95, seed: int
) -> Interval:
    """Mean with its percentile bootstrap interval (Efron and Tibshirani 1993, chapter 13).

    Shapes: `values` [n], independent. The same seed gives the same interval. Bounds are NaN for n < 2. With few
    values it is too narrow, by sqrt((n - 1)/n) and the lack of Student's tails.
    """
    values = values.double().cpu()
    mean = float(values.mean())
    if values.numel() < 2:
        return Interval(mean, math.nan, math.nan)
    means = _resampled_means(values, resamples, _generator(seed))
    return Interval(mean, *_percentiles(means, confidence))


def paired_interval(
    differences: Sequence[Tensor], *, shared_prompts: bool, confidence: float = 0.95
) -> Interval:
    """Mean paired difference between two arms, over training seeds and prompts alike.

    `differences[s]` [P_s] holds, for each prompt, arm A minus arm B of training seed s. The estimate is the
    mean over seeds of their means over prompts. With S seeds, m the mean of one and w^2 the variance of its P:

        half^2 = max(t[S-1]^2 var(m) / S,  t[sum (P-1)]^2 mean(w^2 / P) / S)

    The first is Student's t on the seed means. Where every seed has prompts of its own their luck is in the
    scatter of the seed means already, so the interval is exact for normal means, whatever seeds and prompts
    contribute. The second is a floor: seed means that happen to lie closer together than drawing prompts alone
    would let them are luck, of which S = 2 has much.

    `shared_prompts`: entry p is the same prompt in every seed (then all P_s are equal), which says no more
    about new prompts than it does in one seed. Crossed effects (Scheffe 1959, chapter 7): w^2 is then the
    interaction's mean square, and t[P-1]^2 times the prompts' own variance over P, with the interaction taken
    out, joins half^2.

    t[1] = 12.7, t[2] = 4.3, t[4] = 2.8: two seeds show next to nothing and three only a large effect, which is
    the truth about them. A bootstrap would not say so: it draws S seeds from S values, understates their
    variance by (S-1)/S and knows no Student tails, so that where seeds differ most its nominal 95% interval
    covers about 63% at S = 2, 76% at S = 3, 85% at S = 5. With one seed only prompts are drawn: the interval
    then speaks of these two trained models, not of their methods. Bounds are NaN where there is one seed with
    one prompt, or one shared prompt.
    """
    found = _paired(differences, shared_prompts)
    half = _half_width(found, _level(confidence))
    return Interval(found.estimate, found.estimate - half, found.estimate + half)


def paired_spread(differences: Sequence[Tensor], *, shared_prompts: bool) -> Spread:
    """Where paired differences get their variance from: seeds, shared prompts, and the rest.

    Unbiased moments (Searle, Casella and McCulloch 1992, chapter 3), cut at zero. Arguments as for
    `paired_interval`; `seeds` is NaN for one seed, since it cannot show how much seeds differ.
    """
    found = _paired(differences, shared_prompts)
    seeds = len(found.sizes)
    return Spread(
        seeds=max(0.0, found.scatter - seeds * found.luck) if seeds > 1 else math.nan,
        prompts=found.prompts,
        within=found.within,
    )


@lru_cache(maxsize=1024)
def student_quantile(probability: float, df: int) -> float:
    """The quantile of Student's t with a whole number of degrees of freedom.

    Inverts Abramowitz and Stegun 26.7.3-4 (the finite series for P(|T| < t)) by bisection to 1e-12. `df` beyond
    10,000 count as normal (a relative error under 1e-4).
    """
    if not 0 < probability < 1 or df < 1:
        raise ValueError(f"student_quantile: probability {probability} in (0, 1), df {df} >= 1")
    if df > 10_000:
        return NormalDist().inv_cdf(probability)
    central = abs(2 * probability - 1)
    # bisect the angle atan(t / sqrt(df)) in [0, pi/2], which is bounded where t is not
    low, high = 0.0, math.pi / 2
    while high - low > 1e-15 * max(high, 1e-300) and (middle := (low + high) / 2) not in (low, high):
        if _student_central(middle, df) < central:
            low = middle
        else:
            high = middle
    return math.copysign(math.tan((low + high) / 2) * math.sqrt(df), probability - 0.5)


def best_of_n_expectation(values: Tensor, scores: Tensor, n: int) -> Tensor:
    """The expected value of the best of n samples by score, estimated without bias from N samples.

        sum_i C(i-1, n-1) / C(N, n) value_(i)      value_(i): of the sample with the i-th lowest score

    The mean over all subsets of n (Nakano et al. 2021, arXiv:2112.09332, appendix I). Samples with the same
    score share their weights: best-of-n picks among them at random. Shapes: `values` (gold, say) and `scores`
    (proxy) [..., N], 1 <= n <= N -> [...] float64. n = 1 is the mean, n = N the value of the best score.
    """
    total = scores.shape[-1]
    if values.shape != scores.shape or not 1 <= n <= total:
        raise ValueError(
            f"best_of_n: values {list(values.shape)}, scores {list(scores.shape)}, 1 <= n = {n} <= {total}"
        )
    subsets = math.comb(total, n)
    # cumulative[i]: the probability that the best of n is among the i lowest; a ratio of integers, so exact
    cumulative = torch.tensor(
        [math.comb(i, n) / subsets for i in range(total + 1)], dtype=torch.float64, device=values.device
    )
    ordered, order = scores.sort(-1)
    first = torch.searchsorted(ordered, ordered, right=False)
    last = torch.searchsorted(ordered, ordered, right=True)
    weights = (cumulative[last] - cumulative[first]) / (last - first)
    return (weights * values.double().gather(-1, order)).sum(-1)


def best_of_n_kl(n: int) -> float:
    """KL of the best-of-n policy from the one sampled: ln n - (n - 1)/n, in nats.

    Exact where scores have no ties, else an upper bound (Beirami et al. 2024, arXiv:2401.01879). The KL
    of whole responses.
    """
    if n < 1:
        raise ValueError(f"best_of_n_kl: n = {n} must be at least 1")
    return math.log(n) - (n - 1) / n


def tilted_mean(values: Tensor, scores: Tensor, beta: float) -> Tilted:
    """What the policy pi exp(score / beta) / Z, the optimum of KL-regularised RL, would get of `values`.

        w = softmax(scores / beta) over N samples of pi;  mean = sum w value,  KL = ln N + sum w ln w,
        effective samples = 1 / sum w^2

    Self-normalised importance sampling (the optimum: Rafailov et al. 2023, arXiv:2305.18290, equation 4).
    Shapes: `values`, `scores` [P, N] for N samples of each prompt -> `Tilted` of [P]; the error of an average
    over prompts is that of `mean_interval` of the means. Bias is of order 1 / effective samples, and the KL
    saturates at ln N: trust it only where KL is well under ln N. Equal scores, or beta = inf, give the plain
    mean and KL 0.
    """
    if beta <= 0 or values.shape != scores.shape:
        raise ValueError(
            f"tilted_mean: beta = {beta} > 0, values {list(values.shape)}, scores {list(scores.shape)}"
        )
    log_weights = torch.log_softmax(scores.double() / beta, -1)
    weights = log_weights.exp()
    entropy = torch.special.entr(weights).sum(-1)
    return Tilted(
        mean=(weights * values.double()).sum(-1),
        kl=(math.log(scores.shape[-1]) - entropy).clamp(min=0),
        effective_samples=weights.square().sum(-1).reciprocal(),
    )


def _level(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1); got {confidence}")
    return confidence


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _percentiles(means: Tensor, confidence: float) -> tuple[float, float]:
    tail = (1 - _level(confidence)) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=means.dtype)).tolist()
    return low, high


class _Paired(NamedTuple):
    """Paired differences, summed up. Variances of single values, not of means; df 0: not known."""

    estimate: float
    sizes: list[int]
    scatter: float
    """Of the seed means."""
    within: float
    within_df: int
    prompts: float
    """What shared prompts add, the interaction taken out."""

    @property
    def luck(self) -> float:
        """Variance of the estimate from drawing prompts within seeds."""
        return self.within * sum(1 / n for n in self.sizes) / len(self.sizes) ** 2


def _paired(differences: Sequence[Tensor], shared_prompts: bool) -> _Paired:
    sizes = [d.numel() for d in differences]
    if not sizes or 0 in sizes or any(d.dim() != 1 for d in differences):
        raise ValueError("one non-empty [P] tensor of differences per seed")
    if shared_prompts and len(set(sizes)) > 1:
        raise ValueError(f"shared prompts must be as many in every seed; got {sizes}")
    rows = [d.double().cpu() for d in differences]
    means = torch.stack([row.mean() for row in rows])
    estimate = float(means.mean())
    scatter = float(means.var(correction=1)) if len(rows) > 1 else 0.0
    if not shared_prompts or len(rows) == 1:
        squares = sum(float((row - mean).square().sum()) for row, mean in zip(rows, means, strict=True))
        df = sum(sizes) - len(sizes)
        return _Paired(estimate, sizes, scatter, squares / max(1, df), df, 0.0)
    table = torch.stack(rows)
    by_prompt = table.mean(0)
    df = (len(rows) - 1) * (sizes[0] - 1)
    rest = float((table - means[:, None] - by_prompt + estimate).square().sum()) / max(1, df)
    # one prompt cannot show how much prompts differ
    spread = float(by_prompt.var(correction=1)) if sizes[0] > 1 else math.nan
    return _Paired(estimate, sizes, scatter, rest, df, max(spread - rest / len(rows), 0.0))


def _half_width(found: _Paired, confidence: float) -> float:
    seeds = len(found.sizes)

    def squared(df: int, variance: float) -> float:
        return student_quantile(0.5 + confidence / 2, df) ** 2 * variance if df else variance

    if seeds == 1 and not found.within_df:
        return math.nan
    own = max(squared(seeds - 1, found.scatter / seeds), squared(found.within_df, found.luck))
    return math.sqrt(own + squared(found.sizes[0] - 1, found.prompts / found.sizes[0]))


def _student_central(angle: float, df: int) -> float:
    """P(|T| < sqrt(df) tan(angle)), Abramowitz and Stegun 26.7.3 (odd df) and 26.7.4 (even df)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = df % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(df // 2):
        total += term
        term *= cosine * cosine * ((2 * k + 2) / (2 * k + 3) if odd else (2 * k + 1) / (2 * k + 2))
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def _resampled_means(values: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    """Means of `resamples` draws with replacement from `values` [n] -> [resamples]."""
    n = values.numel()
    means: list[Tensor] = []
    step = max(1, _BLOCK // n)
    for start in range(0, resamples, step):
        draws = torch.randint(n, (min(step, resamples - start), n), generator=generator)
        means.append(values[draws].mean(1))
    return torch.cat(means)
