"""How far the policy went from its start, and whether the KL weight suits it."""

from __future__ import annotations

import math

from tastemaker.studies.behaviour import noise
from tastemaker.studies.diagnosis.answers import excess, surprise
from tastemaker.studies.diagnosis.evidence import (
    ArmEvidence,
    Finding,
    graded,
    joined,
    mean_error,
    more_weight,
    percent,
)
from tastemaker.studies.diagnosis.limits import LIMITS
from tastemaker.studies.overoptimisation import finite


def reward_hacking(e: ArmEvidence) -> Finding | None:
    """The proxy rose while the judge fell."""
    if len(e.watch) < 3 or not e.curve["alarm"]:
        return None
    change = e.curve["change"][e.curve["since"]]
    peak = e.curve["peak"]["smoothed"]
    moved = {b["name"].removeprefix("parts/"): b["after"] for b in e.curve["behaviours"]}
    return Finding(
        "reward_hacking",
        "problem",
        e.curve["text"],
        {
            "peak_step": peak["step"],
            "peak_kl": peak["kl"],
            "score_before": change["score"]["before"],
            "score_after": change["score"]["after"],
            "proxy_before": change["proxy"]["before"],
            "proxy_after": change["proxy"]["after"],
            **moved,
        },
        (
            f"stop near step {peak['step']} (KL {peak['kl']:.1f} nats) or raise the KL weight; "
            if peak["step"]
            else "raise the KL weight; "
        )
        + "mend the reward where it pays for what moved",
    )


def beta_too_small(e: ArmEvidence) -> Finding | None:
    """Far from the start, and worse for it."""
    kl = e.mean("kl")
    passed = bool(len(e.watch) >= 3 and e.curve["peak"] and e.curve["peak"]["passed"])
    if kl is None or kl < LIMITS.far or not (e.outcome == "worse" or passed):
        return None
    numbers = {"kl": kl}
    words = [f"with {e.weight_words()} the policy went {kl:.1f} nats from the start", e.scores()]
    if passed:
        peak = e.curve["peak"]["smoothed"]
        numbers |= {"peak_step": peak["step"], "peak_kl": peak["kl"], "peak_score": peak["score"]}
        words.append(
            f"its best was {peak['score']:+.2f} at step {peak['step']}, {peak['kl']:.1f} nats"
            if peak["step"]
            else "on the prompts of its curve it was never clearly better than at the start"
        )
    margins = e.late("rewards/margins", 0.25)
    if margins and (margin := mean_error(margins)[0]) > LIMITS.huge_margin:
        numbers["margin"] = margin
        words.append(f"it takes the preferences for certain (beta x margin = {margin:.1f})")
    if e.weight is not None:
        numbers[e.weight[0]] = e.weight[1]
    aim = f", aiming at {numbers['peak_kl']:.1f} nats" if numbers.get("peak_kl", 0) > LIMITS.still else ""
    return Finding(
        "beta_too_small",
        "problem" if e.outcome == "worse" else "warning",
        joined(*words),
        numbers,
        f"{more_weight(e)}{aim}, or take fewer or smaller steps",
    )


def too_little(e: ArmEvidence) -> Finding | None:
    """Still at the start, without gain: held by the weight, or moved by nothing."""
    kl, score = e.mean("kl"), e.change("score")
    if kl is None or score is None or abs(kl) > LIMITS.still or score.z > LIMITS.gain:
        return None
    numbers = {"kl": kl, "gain": score.change, "gain_error": score.error}
    blamed, why = held_by_weight(e)
    numbers |= blamed
    text = f"the policy is still where it started (KL {kl:.3f} nats)"
    if why and e.weight is not None:
        return Finding(
            "beta_too_large",
            "warning",
            joined(text, e.scores(), f"{e.weight_words()} holds it there: {why}"),
            numbers,
            # at sd / sqrt(2) the optimum of a small tilt lies one nat away
            f"lower {e.weight[0]} (try {blamed.get('reward_sd', e.weight[1] / 10 * 2**0.5) / 2**0.5:.2g})",
        )
    rate = e.settings.get("learning_rate")
    parted = margin_nats(e)
    learned = parted is not None and parted > LIMITS.parted
    return Finding(
        "barely_moved",
        "warning",
        joined(
            text,
            e.scores(),
            f"it did learn the pairs (margin {parted:.1f} nats), but they do not concern its own answers"
            if learned
            else f"learning_rate {rate:g}"
            if finite(rate)
            else "",
        ),
        numbers,
        "use pairs sampled from this policy, or an online method"
        if learned
        else "raise the learning rate or train for more steps; the KL weight is not what holds it",
    )


def margin_nats(e: ArmEvidence) -> float | None:
    """The difference of log-ratios of chosen and rejected responses, late in training."""
    margins = e.late("rewards/margins")
    if not margins or e.weight is None or e.weight[1] <= 0:
        return None
    return mean_error(margins)[0] / e.weight[1]


def held_by_weight(e: ArmEvidence) -> tuple[dict[str, float], str]:
    """Whether the KL weight holds the policy at its start: numbers, and why (empty: it does not)."""
    if e.weight is None:
        return {}, ""
    name, value = e.weight
    numbers = {name: value}
    if margins := e.late("rewards/margins"):
        margin, nats = mean_error(margins)[0], margin_nats(e)
        done = margin > LIMITS.held and nats is not None and nats < LIMITS.parted
        return numbers | {"margin": margin}, f"beta x margin is {margin:.2f} already" if done else ""
    spread = reward_spread(e)
    if spread is None:
        return numbers, "it is far above what is usual" if value >= LIMITS.heavy else ""
    # for a small tilt the optimum of E[r] - c KL lies at KL = var(r) / 2 c^2
    reach = spread**2 / (2 * value**2) if value > 0 else math.inf
    words = f"rewards vary by {spread:.2g}, which is worth {reach:.2g} nats at this weight"
    return numbers | {"reward_sd": spread, "reachable_kl": reach}, words if reach < 2 * LIMITS.still else ""


def reward_spread(e: ArmEvidence) -> float | None:
    """Standard deviation of the reward between answers of the SFT policy: read, or from how the means of
    batches scatter.
    """
    read = e.sft.get("parts/proxy", {})
    error, n = read.get("se"), read.get("n")
    if error is not None and n is not None and finite(error) and finite(n):
        return error * math.sqrt(n)
    scores, episodes = e.series("objective/scores"), e.series("episode")
    if len(scores) < LIMITS.few or len(episodes) != len(scores):
        return None
    batch = (episodes[-1] - episodes[0]) / (len(episodes) - 1)
    return noise([{"score": s} for s in scores], "score") * math.sqrt(max(1.0, batch))


def kl_runaway(e: ArmEvidence) -> Finding | None:
    """The KL grows on, or the answers are no longer any that the start would give."""
    kl, length = e.mean("kl"), e.mean("length")
    if kl is None or length is None or length <= 0:
        return None
    numbers = {"kl": kl, "kl_per_token": kl / length}
    words: list[str] = []
    entropy = e.mean("entropy", "sft")
    if entropy is not None and kl / length > LIMITS.spent * entropy and kl > LIMITS.far:
        numbers["sft_entropy"] = entropy
        words.append(
            f"that is {percent(kl / length / entropy)} of the entropy that the start has for each token "
            f"({entropy:.2f})"
        )
    more = excess(e)
    found = surprise(e)
    if more is not None and found is not None:
        numbers |= {"surprise": found[0], "sft_surprise": found[1]}
        words.append(
            f"the SFT policy finds the answers far less likely than its own ({-found[0]:.2f} against "
            f"{-found[1]:.2f} nats per token)"
        )
    pace = growth(e, length)
    if pace is not None:
        numbers |= {"kl_last_third": pace}
        words.append(f"the KL did not slow down: {pace:.1f} nats came in the last third of the run")
    if not words:
        return None
    return Finding(
        "kl_runaway",
        graded(e, better="warning"),
        joined(f"the policy is {kl:.1f} nats from its start ({kl / length:.2f} per token)", *words),
        numbers,
        f"{more_weight(e)}, lower the learning rate, or "
        + ("set kl_target or kl_stop" if e.online else "train for fewer steps"),
    )


def growth(e: ArmEvidence, length: float) -> float | None:
    """Nats gained in the last third, where the KL is large and grows as fast as before; None otherwise."""
    values = [float(p["kl"]) for p in e.watch if finite(p.get("kl"))]
    if len(values) < 6:
        values = e.series("objective/kl")
    if len(values) < 6:
        return None
    width = max(1, len(values) // 10)
    stretches = [
        values[max(0, at - width) : at] for at in (len(values) // 3, 2 * len(values) // 3, len(values))
    ]
    first, middle, last = (sum(s) / len(s) for s in stretches)
    entropy = e.mean("entropy", "sft")
    large = last > LIMITS.runaway or (entropy is not None and last / length > LIMITS.runaway_share * entropy)
    error = noise([{"kl": v} for v in values], "kl") * math.sqrt(2 / width)
    gained = last - middle
    fast = gained > LIMITS.pace * (middle - first) and gained > LIMITS.last_third * last
    return gained if large and fast and gained > LIMITS.clear * error else None


def worse_than_start(e: ArmEvidence) -> Finding | None:
    """The judge likes the policy less than its start, whatever the cause."""
    score = e.change("score")
    if score is None or e.outcome != "worse":
        return None
    return Finding(
        "worse_than_start",
        "problem",
        f"the policy is worse than the SFT policy it started from: {e.scores()}",
        {"score": score.after, "sft_score": score.before, "error": score.error},
        "nothing else here explains it: look at the samples, and at how far "
        + ("the reward model" if e.online else "the pairs")
        + " and the judge agree",
    )
