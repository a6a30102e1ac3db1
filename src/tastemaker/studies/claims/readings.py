"""What studies and trainings say of each claim: from their numbers to a finding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import torch

from tastemaker.functional import paired_interval
from tastemaker.studies.claims.claim import Finding, Study, both, signed, turned
from tastemaker.studies.claims.labelled import UNKNOWN
from tastemaker.studies.paired import as_dict, over_seeds
from tastemaker.studies.written import interval, number, percent, title

NEAR = 0.2
"""Points of gold within which one method "comes near" another: a tenth of what DPO gains on SFT on the town."""
CERTAIN_EPOCHS = 10
"""Passes over pairs whose labels are certain."""

# ------------------------------------------------------------------------------------- comparisons


def pair_of(study: Study, a: str, b: str) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """(difference a - b at chosen settings, the same at equal KL or None). Raises KeyError without the arms."""
    for arm in (a, b):
        if arm not in study["arms"]:
            raise KeyError(arm)
    for pair in study["verdict"]["pairs"]:
        if {pair["a"], pair["b"]} == {a, b}:
            same = pair["a"] == a
            matched = pair["matched_kl"]["difference"] if pair["matched_kl"]["comparable"] else None
            if same:
                return pair["difference"], matched
            return turned(pair["difference"]), None if matched is None else turned(matched)
    raise KeyError(f"{a} against {b}")


def less_compute(study: Study, seeds: Sequence[int]) -> Finding:
    difference, _ = pair_of(study, "dpo", "ppo")
    dpo, ppo = (study["arms"][name]["cost"]["flops"] for name in ("dpo", "ppo"))
    outcome = both(signed(difference, least=-NEAR), "holds here" if dpo < ppo else "does not hold here")
    text = (
        f"DPO − PPO is {interval(difference)} gold; beyond the shared start one run of DPO takes "
        f"{percent(dpo / ppo)} of the operations of PPO with its reward model."
    )
    return Finding(outcome, text, {"difference": difference, "flops_ratio": dpo / ppo})


def frontier(study: Study, seeds: Sequence[int]) -> Finding:
    _, matched = pair_of(study, "dpo", "ppo")
    if matched is None:
        return Finding("undecided", "DPO and PPO reached no KL in common.", {})
    return Finding(
        signed(matched), f"At equal KL DPO − PPO is {interval(matched)} gold.", {"matched_kl": matched}
    )


def varies_less(study: Study, seeds: Sequence[int]) -> Finding:
    for pair in study["stability"]["pairs"]:
        if {pair["a"], pair["b"]} == {"dpo", "ppo"}:
            found = dict(pair["score"])
            if pair["a"] == "ppo":
                found = {"ratio": 1 / found["ratio"], "low": 1 / found["high"], "high": 1 / found["low"]}
            below_one = signed({"low": -found["high"], "high": -found["low"]}, least=-1.0)
            text = (
                f"Over {study['stability']['seeds']} seeds the variance of DPO's gold is "
                f"{number(found['ratio'])} [{number(found['low'])}, {number(found['high'])}] of PPO's."
            )
            return Finding(below_one, text, found)
    raise KeyError("dpo against ppo")


def laws(study: Study, seeds: Sequence[int]) -> Finding:
    stress = study["overoptimisation"]["stress"]
    if stress is None:
        raise KeyError("stress")
    number_of, alarms = stress["summary"]["seeds"], stress["summary"]["alarms"]
    fits = [(s["reading"].get("fits") or {}).get("score") for s in stress["seeds"]]
    shares = [fit["r_squared"] for fit in fits if fit]
    middle = median(shares) if shares else 0.0
    if alarms == number_of and middle >= 0.8:
        outcome = "holds here"
    elif alarms == 0 or middle < 0.5:
        outcome = "does not hold here"
    else:
        outcome = "undecided"
    text = (
        f"PPO without a KL term against a reward model from {stress['pairs']} pairs: the proxy rose while gold "
        f"fell in {alarms} of {number_of} seeds; R = d (a − b ln d) explains {percent(middle)} of gold's "
        "course (median)."
    )
    return Finding(outcome, text, {"alarms": alarms, "seeds": number_of, "r_squared": shares})


def small_coefficient(study: Study, seeds: Sequence[int]) -> Finding:
    rows = [row for row in study["frontier"] if row["arm"] == "ppo"]
    labels = sorted({row["label"] for row in rows}, key=lambda label: float(label.split("=")[-1]))
    least, chosen = labels[0], study["arms"]["ppo"]["chosen"]
    if least == chosen:
        return Finding("undecided", "The smallest coefficient tried is the best one.", {"chosen": chosen})

    def moved(name: str) -> dict[str, float]:
        at = {(row["label"], row["seed"]): row[name] for row in rows}
        found = [at[least, s] - at[chosen, s] for s in sorted({row["seed"] for row in rows})]
        return over(found)

    gold, proxy = moved("score"), moved("proxy")
    text = f"PPO at {least} against {chosen}: the reward it maximises {interval(proxy)}, gold {interval(gold)}."
    return Finding(both(signed(turned(gold)), signed(proxy)), text, {"gold": gold, "proxy": proxy})


def near(a: str, b: str, more: str = "") -> Any:
    """A reading: `a` comes within NEAR of `b`, or above it."""

    def read(study: Study, seeds: Sequence[int]) -> Finding:
        difference, _ = pair_of(study, a, b)
        copies = {name: study["arms"][name]["cost"]["model_copies"] for name in (a, b)}
        text = (
            f"{title(a)} − {title(b)} is {interval(difference)} gold, with {copies[a]:g} against {copies[b]:g} "
            f"copies of the model in memory.{more}"
        )
        return Finding(
            signed(difference, least=-NEAR), text, {"difference": difference, "model_copies": copies}
        )

    return read


def without_reference(study: Study, seeds: Sequence[int]) -> Finding:
    arm = study["arms"]["orpo"]
    gain, copies = arm["difference"]["sft_sampled"], arm["cost"]["model_copies"]
    outcome = both(signed(gain), "holds here" if copies == 1 else "does not hold here")
    text = f"ORPO − SFT is {interval(gain)} gold, with {copies:g} copy of the model in memory."
    return Finding(outcome, text, {"gain": gain, "model_copies": copies})


# ------------------------------------------------------------------------------------- labels


def over(values: Sequence[float]) -> dict[str, float]:
    """Mean and 95% interval of one number a seed."""
    return as_dict(paired_interval([torch.tensor(list(values), dtype=torch.float64)], shared_prompts=False))


def length_bias(study: Study, seeds: Sequence[int]) -> Finding:
    first, last = (f"{level:g}" for level in (study["levels"][0], study["levels"][-1]))

    def growth(arm: str) -> list[float]:
        own = study["arms"][arm]
        before, after = (own[level]["length"]["by_seed"] for level in (first, last))
        return [a - b for a, b in zip(after, before, strict=True)]

    plain, normed = growth("dpo"), growth("dpo:sigmoid_norm")
    less = over([p - n for p, n in zip(plain, normed, strict=True)])
    grown, kept = over(plain), over(normed)
    text = (
        f"With {percent(float(last))} of the labels naming the longer response, DPO's answers grew by "
        f"{interval(grown, 1)} tokens, those of DPO on mean log-probs by {interval(kept, 1)}: less by "
        f"{interval(less, 1)}."
    )
    return Finding(signed(less), text, {"dpo": grown, "normalised": kept, "less": less})


def label_noise(study: Study, seeds: Sequence[int]) -> Finding:
    hurt = study["falls"]["dpo"]["gold"]
    saved = study["falls"]["dpo:robust"]["beside_first"]
    last = percent(study["levels"][-1])
    text = (
        f"With {last} of the labels flipped DPO changes by {interval(hurt)} gold; robust DPO, told the rate, "
        f"by {interval(saved)} beside that."
    )
    return Finding(both(signed(turned(hurt)), signed(saved)), text, {"dpo": hurt, "robust_beside": saved})


def critic_saves(study: Study, seeds: Sequence[int]) -> Finding:
    """Read at the mix in the middle: taking the best of several would flatter the critic."""
    mixes = {name: found for name, found in study["saved"].items() if name.startswith("fair")}
    name = sorted(mixes, key=labels_of_people)[len(mixes) // 2]
    saved = mixes[name]
    bound = (
        f"; in {saved['cut']} of the seeds a bound, since the curve of people alone ended"
        if saved["cut"]
        else ""
    )
    text = (
        f"With labels of a fair critic beside {labels_of_people(name)} of people the share of people's labels "
        f"that is saved at equal gold is {interval(saved)}{bound}."
    )
    return Finding(signed(saved), text, {"saved": mixes})


def labels_of_people(mix: str) -> int:
    """How many labels of people a mix such as `fair + people 300` holds."""
    return int(mix.rsplit(" ", 1)[1])


# ------------------------------------------------------------------------------------- cells


def column(study: Study, cell: str, seeds: Sequence[int], name: str) -> list[torch.Tensor]:
    """[P] for every seed, of the prompts where the column applies."""
    found: list[torch.Tensor] = []
    for seed in seeds:
        values = study[f"{cell}-{seed}"]["columns"][name]
        found.append(torch.tensor([torch.nan if v is None else v for v in values], dtype=torch.float64))
    return found


def apart(study: Study, a: str, b: str, seeds: Sequence[int], name: str) -> dict[str, float]:
    """The difference a - b over seeds and prompts, of prompts where both have a value."""
    pairs = zip(column(study, a, seeds, name), column(study, b, seeds, name), strict=True)
    return as_dict(over_seeds([(x - y)[torch.isfinite(x - y)] for x, y in pairs]))


def certain_labels(study: Study, seeds: Sequence[int]) -> Finding:
    gold = apart(study, "certain-ipo", "certain-dpo", seeds, "score")
    kl = apart(study, "certain-ipo", "certain-dpo", seeds, "kl")
    outcome = both(signed(turned(kl)), signed(gold, least=-NEAR))
    text = (
        f"After {CERTAIN_EPOCHS} passes over pairs whose labels are certain, IPO − DPO is {interval(kl)} nats "
        f"of KL and {interval(gold)} gold."
    )
    return Finding(outcome, text, {"kl": kl, "gold": gold})


def narrow_panel(study: Study, seeds: Sequence[int]) -> Finding:
    agreed = apart(study, "narrow", "everything", seeds, "parts/sycophancy")
    flattered = apart(study, "narrow", "everything", seeds, "parts/flattery")
    text = (
        "Taught by three people who like to be agreed with, against the mixed panel on the same pairs: "
        f"agreement with false claims {interval(agreed)}, flattery {interval(flattered)} (shares)."
    )
    return Finding(signed(agreed), text, {"sycophancy": agreed, "flattery": flattered})


def safety_heavy(study: Study, seeds: Sequence[int]) -> Finding:
    refused = apart(study, "safety", "everything", seeds, "parts/over_refusal")
    harm = apart(study, "safety", "everything", seeds, "parts/harm")
    text = (
        "Labels on unsafe requests alone, against as many on everything: safe requests refused "
        f"{interval(refused)}, unsafe ones answered {interval(harm)} (shares)."
    )
    return Finding(signed(refused), text, {"over_refusal": refused, "harm": harm})


def help_heavy(study: Study, seeds: Sequence[int]) -> Finding:
    known = apart(study, "help", "everything", seeds, UNKNOWN)
    text = (
        "Labels on questions with an answer alone, against as many on everything: 'I do not know' where nobody "
        f"can know {interval(known)} (share)."
    )
    return Finding(signed(turned(known)), text, {UNKNOWN: known})
