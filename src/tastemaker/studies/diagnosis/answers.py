"""What the answers look like now, against the SFT policy's."""

from __future__ import annotations

import math

from tastemaker.studies.behaviour import BEHAVIOURS
from tastemaker.studies.diagnosis.evidence import ArmEvidence, Finding, graded, joined, percent
from tastemaker.studies.diagnosis.limits import LIMITS


def no_eos(e: ArmEvidence) -> Finding | None:
    """Answers that run into the limit."""
    change = e.change("ended")
    if change is None or -change.change < LIMITS.unended or -change.z < LIMITS.clear:
        return None
    missing, before = 1 - change.after, 1 - change.before
    greedy = e.mean("ended", "greedy")
    limit = e.settings.get("response_length")
    return Finding(
        "no_eos",
        "problem" if missing > LIMITS.many_unended else graded(e, better="warning"),
        joined(
            f"{percent(missing)} of answers no longer end by themselves (SFT: {percent(before)})"
            + (f" within {limit} tokens" if limit else ""),
            "" if greedy is None else f"greedily {percent(1 - greedy)}",
        ),
        {"unended": missing, "sft_unended": before},
        "raise missing_eos_penalty and the KL weight; a reward that adds up over tokens pays for not ending"
        if e.online
        else "see that chosen responses keep their end token (the receipt counts lost ones); raise beta",
    )


def repetition(e: ArmEvidence) -> Finding | None:
    """Answers that say the same again."""
    change = e.change("repetition")
    if change is None or change.change < LIMITS.repetition or change.z < LIMITS.clear:
        return None
    greedy = e.mean("repetition", "greedy")
    return Finding(
        "repetition",
        "problem" if change.after > LIMITS.much_repetition else graded(e, better="warning"),
        joined(
            f"{percent(change.after)} of runs of three tokens repeat within an answer (SFT: "
            f"{percent(change.before)})",
            "" if greedy is None else f"greedily {percent(greedy)}",
        ),
        {"repetition": change.after, "sft_repetition": change.before},
        "look at the samples: the reward pays for repeating; penalise it there, raise the KL weight, or stop "
        "earlier"
        if e.online
        else "raise beta or train for fewer steps; look at the samples",
    )


def entropy_collapse(e: ArmEvidence) -> Finding | None:
    """A policy that says one thing."""
    entropy, diversity = e.change("entropy"), e.change("diversity")
    lost = entropy is not None and entropy.after < LIMITS.entropy * entropy.before and -entropy.z > LIMITS.clear
    alike = (
        diversity is not None
        and diversity.after < LIMITS.diversity * diversity.before
        and -diversity.z > LIMITS.clear
    )
    if not lost and not alike:
        return None
    numbers: dict[str, float] = {}
    words: list[str] = []
    if entropy is not None:
        numbers |= {"entropy": entropy.after, "sft_entropy": entropy.before}
        words.append(f"entropy is {entropy.after:.2f} nats per token (SFT: {entropy.before:.2f})")
    if diversity is not None:
        numbers |= {"diversity": diversity.after, "sft_diversity": diversity.before}
        words.append(
            f"two answers to one prompt differ by {percent(diversity.after)} (SFT: {percent(diversity.before)})"
        )
    return Finding(
        "entropy_collapse",
        graded(e, better="warning", same="warning"),
        "the policy has become nearly deterministic: " + ", ".join(words),
        numbers,
        "raise the KL weight, lower the learning rate or stop earlier"
        + ("; with few distinct answers there is little left to learn from" if e.online else ""),
    )


def length_change(e: ArmEvidence) -> Finding | None:
    """Answers that grew or shrank."""
    change = e.change("length")
    if change is None or min(change.before, change.after) <= 0 or abs(change.z) < LIMITS.clear:
        return None
    ratio = change.after / change.before
    if LIMITS.shorter < ratio < LIMITS.longer:
        return None
    grew = ratio > 1
    numbers = {"length": change.after, "sft_length": change.before, "ratio": ratio}
    taught = ""
    if e.pairs is not None and not e.online:
        train = e.pairs["train"]
        numbers |= {name: float(train[name]) for name in ("chosen_length", "rejected_length")}
        taught = (
            f"chosen responses have {train['chosen_length']:.0f} tokens, rejected ones "
            f"{train['rejected_length']:.0f}"
        )
    pays = "the reward may pay for length" if grew else "the reward may pay for saying little"
    return Finding(
        "length_growth" if grew else "length_collapse",
        graded(e),
        joined(BEHAVIOURS["length"].words(change.before, change.after), taught, e.scores()),
        numbers,
        f"{pays}: compare scores at equal length, and raise the KL weight"
        if e.online
        else "balance the lengths of chosen and rejected responses, or raise beta",
    )


def surprise(e: ArmEvidence) -> tuple[float, float] | None:
    """(of the arm's answers, of the SFT policy's own): how unlikely SFT finds them, nats per token."""
    after, before = e.mean("reference_logps"), e.mean("reference_logps", "sft")
    if after is not None and before is not None:
        return -after, -before
    # cross-entropy = KL + entropy, which is close to it where lengths do not vary much
    kl, length, entropy, start = e.mean("kl"), e.mean("length"), e.mean("entropy"), e.mean("entropy", "sft")
    if kl is None or length is None or entropy is None or start is None or length <= 0:
        return None
    return kl / length + entropy, start


def excess(e: ArmEvidence) -> float | None:
    """Surprise above the SFT policy's own, where it is more than sharpening brings; None otherwise."""
    found, read = surprise(e), e.change("reference_logps")
    if found is None or (read is not None and -read.z < LIMITS.clear):
        return None
    more = found[0] - found[1]
    large = more > LIMITS.surprise * found[1] and more > LIMITS.surprise_nats
    return more if large and math.isfinite(more) else None
