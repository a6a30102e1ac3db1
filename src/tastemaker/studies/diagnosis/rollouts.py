"""Findings in the rollouts an online method learned from, as its own metrics tell of them.

Where the policy's answers were read apart from training, those readings decide (see `answers`). A run that
nobody read has its rollouts: their first quarter stands for the start, their last for what became of it.
"""

from __future__ import annotations

from collections.abc import Callable

from tastemaker.studies.diagnosis.evidence import (
    ArmEvidence,
    Finding,
    between,
    graded,
    joined,
    mean_error,
    more_weight,
    percent,
)
from tastemaker.studies.diagnosis.limits import LIMITS
from tastemaker.studies.overoptimisation import Difference

Find = Callable[[ArmEvidence], Finding | None]
REWARDS = ("objective/scores", "reward")
MISMATCH = "sampling/sampling_logp_difference/mean"
UNEQUAL = "frac_reward_zero_std"


def course(e: ArmEvidence, *names: str) -> Difference | None:
    """The last quarter of the first of these metrics that is there, less the first quarter."""
    name = next((n for n in names if n in e.columns), None)
    values = e.series(name) if name else []
    quarter = len(values) // 4
    if not e.online or quarter < LIMITS.few:
        return None
    return between(values[:quarter], values[-quarter:])


def converged(e: ArmEvidence) -> Finding | None:
    """Groups of equal rewards because everything has been learned, not because nothing can be."""
    late, reward = e.late(UNEQUAL, 0.25), course(e, *REWARDS)
    if len(late) < LIMITS.few or reward is None or reward.z < LIMITS.clear:
        return None
    share, _ = mean_error(late)
    before, _ = mean_error(e.series(UNEQUAL)[: max(1, len(e.series(UNEQUAL)) // 4)])
    if share < LIMITS.silent or before > LIMITS.silent:
        return None
    return Finding(
        "converged",
        graded(e, better="note", same="note", worse="warning"),
        joined(
            f"the reward rose from {reward.before:.2f} to {reward.after:.2f}, and in {percent(share)} of "
            "groups all answers now get the same: nothing is left to learn from these prompts",
            e.scores(),
        ),
        {"groups_without_spread": share, "reward": reward.after, "first_reward": reward.before},
        "end here; or go on with harder prompts",
    )


def engine_mismatch(e: ArmEvidence) -> Finding | None:
    """Engine and trainer disagree about how likely the sampled tokens were."""
    values = e.series(MISMATCH)
    if len(values) < LIMITS.few:
        return None
    mean, _ = mean_error(values)
    if mean < LIMITS.mismatch:
        return None
    peaks = e.series(MISMATCH.replace("mean", "max"))
    return Finding(
        "engine_mismatch",
        graded(e),
        joined(
            f"engine and trainer differ by {mean:.3f} nats per token about what was sampled"
            + (f" (single tokens by up to {max(peaks):.1f})" if peaks else ""),
            e.scores(),
        ),
        {"mismatch": mean, "largest": max(peaks, default=mean)},
        "correct it by importance weights (vllm_importance_sampling_correction), compute both in one number "
        "format, and see that temperature, template and weights are the same on both sides",
    )


def reward_missing(e: ArmEvidence) -> Finding | None:
    """Most answers got no reward at all."""
    values = e.late("rewards/missing")
    if len(values) < LIMITS.few:
        return None
    share, _ = mean_error(values)
    if share < LIMITS.unscored:
        return None
    return Finding(
        "reward_missing",
        graded(e, better="warning"),
        f"no reward applied to {percent(share)} of the answers, so nothing was learned from them",
        {"missing": share},
        "look at the answers the reward says nothing of (samples.jsonl with log_completions_steps), or let "
        "it say 0",
    )


def rollouts_cut(e: ArmEvidence) -> Finding | None:
    """Rollouts that run into the limit, from the first or by and by."""
    change = course(e, "completions/clipped_ratio")
    if e.change("ended") is not None or change is None:
        return None
    rose = change.change >= LIMITS.unended and change.z >= LIMITS.clear
    if not rose and change.after < LIMITS.many_unended:
        return None
    limit = e.settings.get("response_length")
    came = "no longer end" if rose else "never ended"
    return Finding(
        "no_eos",
        "problem" if change.after > LIMITS.many_unended else graded(e, better="warning"),
        f"{percent(change.after)} of rollouts {came} by themselves (first quarter of the run: "
        f"{percent(change.before)})" + (f" within {limit} tokens" if limit else ""),
        {"unended": change.after, "first_unended": change.before},
        "raise missing_eos_penalty and the KL weight; a reward that adds up over tokens pays for not ending"
        if rose
        else "raise response_length, or see that SFT taught the policy to end",
    )


def rollouts_entropy(e: ArmEvidence) -> Finding | None:
    """A policy that says one thing, by the entropy of its rollouts."""
    change = course(e, "entropy", "policy/entropy_avg")
    if e.change("entropy") is not None or change is None:
        return None
    if change.after >= LIMITS.entropy * change.before or -change.z < LIMITS.clear:
        return None
    return Finding(
        "entropy_collapse",
        graded(e, better="warning", same="warning"),
        f"the policy has become nearly deterministic: entropy is {change.after:.2f} nats per token "
        f"(first quarter of the run: {change.before:.2f})",
        {"entropy": change.after, "first_entropy": change.before},
        "raise the KL weight, clip higher (epsilon_high), lower the learning rate or stop earlier; with few "
        "distinct answers there is little left to learn from",
    )


def rollouts_length(e: ArmEvidence) -> Finding | None:
    """Rollouts that grew or shrank."""
    change = course(e, "completions/mean_length")
    if e.change("length") is not None or change is None or change.before <= 0 or abs(change.z) < LIMITS.clear:
        return None
    ratio = change.after / change.before
    if LIMITS.shorter < ratio < LIMITS.longer:
        return None
    grew = ratio > 1
    return Finding(
        "length_growth" if grew else "length_collapse",
        graded(e),
        f"rollouts went from {change.before:.0f} to {change.after:.0f} tokens",
        {"length": change.after, "first_length": change.before, "ratio": ratio},
        f"the reward may pay for {'length' if grew else 'saying little'}: compare scores at equal length; "
        "losses that divide by each answer's own length favour long wrong answers (dr_grpo does not)",
    )


def rollouts_kl(e: ArmEvidence) -> Finding | None:
    """A KL that is large and grows on, by the run's own estimate."""
    if e.mean("kl") is not None or not e.online:
        return None
    values = e.series("objective/kl") or e.series("kl")
    if len(values) < 4 * LIMITS.few:
        return None
    third, tenth = len(values) // 3, max(1, len(values) // 10)
    end, _ = mean_error(values[-tenth:])
    before, _ = mean_error(values[-third - tenth : -third])
    gained = end - before
    if end < LIMITS.runaway or gained < LIMITS.last_third * end:
        return None
    return Finding(
        "kl_runaway",
        graded(e, better="warning"),
        f"the KL to the start is {end:.1f} nats per response and did not slow down: {gained:.1f} of them came "
        "in the last third of the run",
        {"kl": end, "kl_last_third": gained},
        f"{more_weight(e)}, lower the learning rate, or set kl_target or kl_stop",
    )


def either(*finds: Find) -> Find:
    """The first that finds something."""
    return lambda e: next((found for find in finds if (found := find(e)) is not None), None)
