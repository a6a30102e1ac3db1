"""The mathematics of learning from preferences: pure functions on tensors. Needs torch alone."""

from tastemaker.functional.advantages import gae
from tastemaker.functional.kl import adaptive_kl_coef, exact_kl, kl_estimate
from tastemaker.functional.listwise import plackett_luce_loss
from tastemaker.functional.logps import chunked_logps
from tastemaker.functional.overoptimisation import GaoFit, fit_gao, gao_gain
from tastemaker.functional.pair_rewards import (
    apo_down_loss,
    apo_zero_loss,
    bco_pair_loss,
    f_divergence_score,
    nca_pair_loss,
    sppo_hard_loss,
)
from tastemaker.functional.pairwise import (
    bradley_terry_loss,
    discopop_loss,
    dpo_loss,
    exo_pair_loss,
    hinge_loss,
    ipo_loss,
    robust_dpo_loss,
)
from tastemaker.functional.policy_gradient import clipped_value_loss, ppo_clip_loss
from tastemaker.functional.reference_free import alphapo_reward, log_odds_ratio, odds_ratio_loss, simpo_loss
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
from tastemaker.functional.steps import aggregate_steps, step_loss
from tastemaker.functional.supervised import nll_loss
from tastemaker.functional.tensors import explained_variance, mean_and_variance, moments, segment_sum, whiten
from tastemaker.functional.ties import davidson_loss, rao_kupper_loss
from tastemaker.functional.unpaired import apo_zero_unpaired_loss, bco_loss, kto_loss

__all__ = [
    "GaoFit",
    "Interval",
    "Spread",
    "Tilted",
    "adaptive_kl_coef",
    "aggregate_steps",
    "alphapo_reward",
    "apo_down_loss",
    "apo_zero_loss",
    "apo_zero_unpaired_loss",
    "bco_loss",
    "bco_pair_loss",
    "best_of_n_expectation",
    "best_of_n_kl",
    "bootstrap_interval",
    "bradley_terry_loss",
    "chunked_logps",
    "clipped_value_loss",
    "davidson_loss",
    "discopop_loss",
    "dpo_loss",
    "exact_kl",
    "exo_pair_loss",
    "explained_variance",
    "f_divergence_score",
    "fit_gao",
    "gae",
    "gao_gain",
    "hinge_loss",
    "ipo_loss",
    "kl_estimate",
    "kto_loss",
    "log_odds_ratio",
    "mean_and_variance",
    "mean_interval",
    "moments",
    "nca_pair_loss",
    "nll_loss",
    "odds_ratio_loss",
    "paired_interval",
    "paired_spread",
    "plackett_luce_loss",
    "ppo_clip_loss",
    "rao_kupper_loss",
    "robust_dpo_loss",
    "segment_sum",
    "simpo_loss",
    "sppo_hard_loss",
    "standard_error",
    "step_loss",
    "student_quantile",
    "tilted_mean",
    "whiten",
]
