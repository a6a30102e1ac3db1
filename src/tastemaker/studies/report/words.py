"""The verdict in plain words, from its numbers. "No winner" is an ordinary result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tastemaker.studies.report.numbers import finite, interval, number, score_digits, seed_count, title

BASELINES: Mapping[str, str] = {"sft_sampled": "SFT sampled", "sft_greedy": "SFT greedy"}
FEW_SEEDS = 3


def verdict_text(results: Mapping[str, Any]) -> str:
    """Headline and sentences as one text."""
    return " ".join([headline(results), *sentences(results)])


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def headline(results: Mapping[str, Any]) -> str:
    """Who wins, in one line."""
    arms = list(results["arms"])
    winner = results["verdict"]["winner"]
    if len(arms) == 1:
        return f"{title(arms[0])} ran alone, so there is nothing to win."
    if winner is None:
        if len(arms) == 2:
            return f"No winner: {listed([title(a) for a in arms])} are not told apart."
        return f"No winner among {listed([title(a) for a in arms])}."
    others = listed([title(a) for a in arms if a != winner])
    text = f"{title(winner)} comes out ahead of {others}"
    greedy = results["arms"][winner]["difference"].get("sft_greedy")
    if greedy is not None and not clearly_above(greedy):
        text += ", but not ahead of plain SFT decoded greedily"
    return text + "."


def sentences(results: Mapping[str, Any]) -> list[str]:
    """What the headline rests on, and what weakens it."""
    digits = score_digits(results)
    judge = results["judge"]
    found = [pair_words(pair, judge["name"], digits) for pair in results["verdict"]["pairs"]]
    found += [
        line for name, arm in results["arms"].items() if (line := arm_words(name, arm["difference"], digits))
    ]
    seeds = seed_count(results)
    if seeds < FEW_SEEDS:
        found.append(
            f"With {seeds} seed{'s' * (seeds != 1)} this is a first look, not a finding"
            + (": intervals allow for what other seeds might give and are wide." if seeds == 2 else ".")
        )
    if judge["kind"] == "proxy":
        found.append(f"The judge is a proxy ({judge['name']}), not the truth.")
    return found


def pair_words(pair: Mapping[str, Any], judge: str, digits: int) -> str:
    a, b, found, matched = title(pair["a"]), title(pair["b"]), pair["difference"], pair["matched_kl"]
    text = f"By the {judge}, each at its chosen setting, {a} − {b} is {interval(found, digits)}{meaning(found)}"
    if matched.get("comparable"):
        at = matched["difference"]
        return f"{text}; at equal KL ({number(matched['kl'])} nats) it is {interval(at, digits)}{meaning(at)}."
    return f"{text}; at equal KL they are not comparable: their settings reach no KL in common."


def meaning(found: Mapping[str, Any]) -> str:
    """What an interval says, as a subordinate clause."""
    if not finite(found.get("low")) or not finite(found.get("high")):
        return ", with an interval that cannot be known from so little"
    return "" if found["low"] > 0 or found["high"] < 0 else ", which includes zero"


def clearly_above(found: Mapping[str, Any]) -> bool:
    return finite(found.get("low")) and found["low"] > 0


def clearly_below(found: Mapping[str, Any]) -> bool:
    return finite(found.get("high")) and found["high"] < 0


def arm_words(name: str, against: Mapping[str, Mapping[str, Any]], digits: int) -> str:
    """How an arm stands to the policies that cost nothing."""
    parts: list[str] = []
    for baseline, found in against.items():
        relation = (
            "beats"
            if clearly_above(found)
            else "falls behind"
            if clearly_below(found)
            else "is not told apart from"
        )
        parts.append(f"{relation} {BASELINES.get(baseline, baseline)} ({interval(found, digits)})")
    return f"{title(name)}, sampled, {listed(parts)}." if parts else ""
