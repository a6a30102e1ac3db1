"""The mathematics of learning from preferences: pure functions on tensors. Needs torch alone."""

from tastemaker.functional.advantages import (
    gae,
    group_advantages,
    group_statistics,
    leave_one_out_advantages,
    returns_to_go,
    soft_overlong_penalty,
)
from tastemaker.functional.agreement import (
    category_counts,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    raw_agreement,
)
from tastemaker.functional.calibration import (
    Reliability,
    brier_score,
    calibration_error,
    fit_temperature,
    log_loss,
    orient,
    reliability,
)
from tastemaker.functional.kl import adaptive_kl_coef, exact_kl, kl_estimate
from tastemaker.functional.length_control import LengthControl, controlled_rate, length_controlled_win_rate
from tastemaker.functional.listwise import plackett_luce_loss
from tastemaker.functional.logps import chunked_logps
from tastemaker.functional.off_policy import importance_weights, on_policy_enough
from tastemaker.functional.order import quantile
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
from tastemaker.functional.policy_gradient import (
    cispo_loss,
    clipped_value_loss,
    ppo_clip_loss,
    sapo_loss,
    sequence_logratio,
    vespo_weight,
)
from tastemaker.functional.querying import ensemble_disagreement, informative_order, pair_uncertainty
from tastemaker.functional.ratings import BradleyTerry, bradley_terry, elo, win_components, win_matrix
from tastemaker.functional.reference_free import alphapo_reward, log_odds_ratio, odds_ratio_loss, simpo_loss
from tastemaker.functional.selection import best_and_worst, best_of
from tastemaker.functional.sequential import (
    Course,
    betting_sequence,
    confidence_sequence,
    fixed_power,
    msprt,
    needed_values,
)
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
from tastemaker.functional.uniforms import gumbel, uniforms
from tastemaker.functional.unpaired import apo_zero_unpaired_loss, bco_loss, kto_loss
from tastemaker.functional.win_rates import (
    Corrected,
    WinRate,
    prediction_powered_mean,
    wilson_interval,
    win_rate,
)

__all__ = [
    "BradleyTerry",
    "Corrected",
    "Course",
    "GaoFit",
    "Interval",
    "LengthControl",
    "Reliability",
    "Spread",
    "Tilted",
    "WinRate",
    "adaptive_kl_coef",
    "aggregate_steps",
    "alphapo_reward",
    "apo_down_loss",
    "apo_zero_loss",
    "apo_zero_unpaired_loss",
    "bco_loss",
    "bco_pair_loss",
    "best_and_worst",
    "best_of",
    "best_of_n_expectation",
    "best_of_n_kl",
    "betting_sequence",
    "bootstrap_interval",
    "bradley_terry",
    "bradley_terry_loss",
    "brier_score",
    "calibration_error",
    "category_counts",
    "chunked_logps",
    "cispo_loss",
    "clipped_value_loss",
    "cohen_kappa",
    "confidence_sequence",
    "controlled_rate",
    "davidson_loss",
    "discopop_loss",
    "dpo_loss",
    "elo",
    "ensemble_disagreement",
    "exact_kl",
    "exo_pair_loss",
    "explained_variance",
    "f_divergence_score",
    "fit_gao",
    "fit_temperature",
    "fixed_power",
    "fleiss_kappa",
    "gae",
    "gao_gain",
    "group_advantages",
    "group_statistics",
    "gumbel",
    "hinge_loss",
    "importance_weights",
    "informative_order",
    "ipo_loss",
    "kl_estimate",
    "krippendorff_alpha",
    "kto_loss",
    "leave_one_out_advantages",
    "length_controlled_win_rate",
    "log_loss",
    "log_odds_ratio",
    "mean_and_variance",
    "mean_interval",
    "moments",
    "msprt",
    "nca_pair_loss",
    "needed_values",
    "nll_loss",
    "odds_ratio_loss",
    "on_policy_enough",
    "orient",
    "pair_uncertainty",
    "paired_interval",
    "paired_spread",
    "plackett_luce_loss",
    "ppo_clip_loss",
    "prediction_powered_mean",
    "quantile",
    "rao_kupper_loss",
    "raw_agreement",
    "reliability",
    "returns_to_go",
    "robust_dpo_loss",
    "sapo_loss",
    "segment_sum",
    "sequence_logratio",
    "simpo_loss",
    "soft_overlong_penalty",
    "sppo_hard_loss",
    "standard_error",
    "step_loss",
    "student_quantile",
    "tilted_mean",
    "uniforms",
    "vespo_weight",
    "whiten",
    "wilson_interval",
    "win_components",
    "win_matrix",
    "win_rate",
]
