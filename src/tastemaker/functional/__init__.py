"""The mathematics of learning from preferences: pure functions on tensors. Needs torch alone."""

from tastemaker.functional.advantages import gae
from tastemaker.functional.kl import adaptive_kl_coef, exact_kl, kl_estimate
from tastemaker.functional.logps import chunked_logps
from tastemaker.functional.overoptimisation import GaoFit, fit_gao, gao_gain
from tastemaker.functional.pairwise import bradley_terry_loss, dpo_loss
from tastemaker.functional.policy_gradient import clipped_value_loss, ppo_clip_loss
from tastemaker.functional.statistics import (
    Interval,
    Spread,
    Tilted,
    best_of_n_expectation,
    best_of_n_kl,
    bootstrap_interval,
    mean_interval,
    paired_interval,
    paired_spread,
    standard_error,
    student_quantile,
    tilted_mean,
)
from tastemaker.functional.supervised import nll_loss
from tastemaker.functional.tensors import explained_variance, mean_and_variance, moments, segment_sum, whiten

__all__ = [
    "GaoFit",
    "Interval",
    "Spread",
    "Tilted",
    "adaptive_kl_coef",
    "best_of_n_expectation",
    "best_of_n_kl",
    "bootstrap_interval",
    "bradley_terry_loss",
    "chunked_logps",
    "clipped_value_loss",
    "dpo_loss",
    "exact_kl",
    "explained_variance",
    "fit_gao",
    "gae",
    "gao_gain",
    "kl_estimate",
    "mean_and_variance",
    "mean_interval",
    "moments",
    "nll_loss",
    "paired_interval",
    "paired_spread",
    "ppo_clip_loss",
    "segment_sum",
    "standard_error",
    "student_quantile",
    "tilted_mean",
    "whiten",
]
