"""How reward grows and turns over with distance from the start: the laws of Gao, Schulman and Hilton.

With d = sqrt(KL(policy || start)), KL in nats of whole responses, and R the gain over the start
(arXiv:2210.10760, section 3.1):

    best-of-n:               R = d (a - b d)        peak at d* = a / 2b,         R* = a^2 / 4b
    reinforcement learning:  R = d (a - b ln d)     peak at d* = exp(a/b - 1),   R* = b d*

Both are linear in (a, b), so least squares gives them in closed form. Rafailov et al. 2024
(arXiv:2406.02900) find that the second form also fits DPO and its kin.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Form = Literal["rl", "best_of_n"]


class GaoFit(NamedTuple):
    """A fitted law. Numbers that do not exist (see each) are None."""

    form: Form
    a: float
    b: float
    a_error: float
    """Standard errors, enlarged where the points scatter more than their own errors allow."""
    b_error: float
    r_squared: float | None
    """1 - residual / total weighted sum of squares about the mean gain: below 0 where the law fits worse than
    a constant; None where all gains are equal."""
    residual_sd: float
    """Standard deviation of the points about the curve, unweighted, with n - 2 degrees of freedom."""
    points: int
    """Points that were used."""
    peak_distance: float | None
    """d*; None where b <= 0 (the curve never turns), where it starts by falling (best-of-n with a <= 0), or
    beyond what a float can hold."""
    peak_distance_error: float | None
    """By the delta method."""
    peak_kl: float | None
    """d* squared, in nats."""
    peak_gain: float | None
    """R*."""
    inside: bool
    """The peak lies between the smallest and the largest measured d; beyond them it is a guess."""


def fit_gao(
    kl: Tensor, gain: Tensor, *, form: Form = "rl", errors: Tensor | None = None, shared_error: float = 0.0
) -> GaoFit | None:
    """Weighted least squares of `gain` on sqrt(`kl`), by either law.

    Shapes: `kl`, `gain`, `errors` [n]; `gain` is the score less the score of the start. `errors` are the
    standard errors of the scores; `shared_error` is that of the start's score, which enters every gain alike
    (the points' covariance is then diag(errors^2) + shared_error^2, and generalised least squares is used).
    Without `errors` all points weigh the same and their scatter about the curve gives the errors of (a, b).
    With them the errors of (a, b) follow from them, times the square root of chi^2 / (n - 2) where that is
    above 1: a law that does not hold exactly must not look exact. KL is taken as exact.

    Points that say nothing are left out: NaN or infinite ones, errors of 0, and KL <= 0 (the start itself
    has R = 0 under both laws, and a KL estimated as negative has no root). None where fewer than 3 points are
    left, or where all lie at one distance. float64 throughout.
    """
    if kl.shape != gain.shape or kl.dim() != 1 or (errors is not None and errors.shape != kl.shape):
        raise ValueError("fit_gao: kl, gain and errors must be [n], all of one length")
    kl, gain = kl.double().cpu(), gain.double().cpu()
    error = torch.ones_like(kl) if errors is None else errors.double().cpu()
    usable = kl.isfinite() & gain.isfinite() & error.isfinite() & (kl > 0) & (error > 0)
    kl, gain, error = kl[usable], gain[usable], error[usable]
    if len(kl) < 3:
        return None
    distance = kl.sqrt()
    design = torch.stack([distance, -distance * _curvature(distance, form)], dim=1)
    spread = error.diag() ** 2
    if errors is not None:
        spread = spread + shared_error**2
    factor = torch.linalg.cholesky(spread)
    white = torch.linalg.solve_triangular(factor, torch.cat([design, gain[:, None]], dim=1), upper=False)
    if _singular(white[:, :2]):
        return None
    inverse = torch.linalg.inv(white[:, :2].T @ white[:, :2])
    found = inverse @ (white[:, :2].T @ white[:, 2])
    residual = gain - design @ found
    free = len(kl) - 2
    scatter = float((white[:, 2] - white[:, :2] @ found).square().sum()) / free
    covariance = inverse * (scatter if errors is None else max(1.0, scatter))
    return _described(form, found, covariance, distance, gain, residual, error)


def gao_gain(kl: Tensor, a: float, b: float, *, form: Form = "rl") -> Tensor:
    """The law's gain at `kl` (any shape, nats, >= 0) in float64; 0 at KL 0."""
    distance = kl.double().sqrt()
    return distance * (a - b * _curvature(distance, form))


def _curvature(distance: Tensor, form: Form) -> Tensor:
    """What b multiplies, besides d itself; ln d counts as 0 at d = 0, where d ln d -> 0."""
    return distance if form == "best_of_n" else distance.where(distance > 0, 1.0).log()


def _singular(white: Tensor) -> bool:
    """Whether the two columns cannot be told apart: points at one distance."""
    scaled = white / white.norm(dim=0).clamp(min=torch.finfo(white.dtype).tiny)
    return bool(torch.linalg.matrix_rank(scaled, rtol=1e-9) < 2)


def _described(
    form: Form,
    found: Tensor,
    covariance: Tensor,
    distance: Tensor,
    gain: Tensor,
    residual: Tensor,
    error: Tensor,
) -> GaoFit:
    a, b = found.tolist()
    weights = error**-2
    centred = gain - (weights * gain).sum() / weights.sum()
    total = float((weights * centred**2).sum())
    unexplained = float((weights * residual**2).sum())
    at, gradient = _peak(a, b, form)
    peak_gain = None
    error_at = None
    if at is not None:
        peak_gain = a * a / (4 * b) if form == "best_of_n" else b * at
        error_at = math.sqrt(max(0.0, float(gradient @ covariance @ gradient)))
    return GaoFit(
        form=form,
        a=a,
        b=b,
        a_error=math.sqrt(float(covariance[0, 0])),
        b_error=math.sqrt(float(covariance[1, 1])),
        r_squared=1 - unexplained / total if total > 0 else None,
        residual_sd=math.sqrt(float(residual.square().sum()) / (len(gain) - 2)),
        points=len(gain),
        peak_distance=at,
        peak_distance_error=error_at,
        peak_kl=at * at if at is not None else None,
        peak_gain=peak_gain,
        inside=at is not None and float(distance.min()) <= at <= float(distance.max()),
    )


def _peak(a: float, b: float, form: Form) -> tuple[float | None, Tensor]:
    """(d*, its gradient in (a, b))."""
    none = torch.zeros(2, dtype=torch.float64)
    if b <= 0:
        return None, none
    if form == "best_of_n":
        at = a / (2 * b)
        if not 0 < at < _LARGEST:
            return None, none
        return at, torch.tensor([1 / (2 * b), -at / b], dtype=torch.float64)
    if not a / b - 1 < math.log(_LARGEST):
        return None, none
    at = math.exp(a / b - 1)
    return at, torch.tensor([at / b, -at * a / b**2], dtype=torch.float64)


_LARGEST = 1e100
"""A d* beyond this is no place on any curve; its square would soon overflow."""
