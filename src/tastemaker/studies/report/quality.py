"""Tables of what the policies are like: scores, who wins, behaviours, the gold reward's parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tastemaker.studies.report import tables
from tastemaker.studies.report.grid import Grid, Line, places, policies
from tastemaker.studies.report.numbers import (
    ABSENT,
    entry,
    finite,
    half,
    interval,
    mean,
    number,
    percent,
    score_digits,
    title,
    with_half,
)
from tastemaker.studies.report.words import BASELINES

WAYS = ("sampled", "greedy")
GOLD = "parts/gold/"
TEXTS: Mapping[str, tuple[str, str]] = {
    "length": ("length", "tokens with the end token"),
    "entropy": ("entropy", "nats per token, mean over the answer"),
    "diversity": ("diversity", "1 − overlap of two samples of one prompt"),
    "repetition": ("repetition", "share of runs of three tokens that came before"),
    "ended": ("ended", "answers that ended within the limit"),
}
"""What is read of any text: name and what it is."""
SHARES = ("diversity", "repetition", "ended")
HELD_OUT: Mapping[str, str] = {
    "pairs": "held-out pairs",
    "accuracy": "orders them as the labels do",
    "gold_pairs": "of these with different gold",
    "gold_accuracy": "orders those as gold does",
    "label_gold_agreement": "labels agree with gold",
    "gold_correlation": "correlation with gold",
}


def quality_grid(results: Mapping[str, Any]) -> Grid:
    """Scores with their errors and differences to both ways of decoding SFT."""
    digits, word = score_digits(results), tables.score_word(results)
    head = ["policy", f"{word}, sampled", "by seed", "− SFT sampled [95%]", "− SFT greedy [95%]"]
    head += ["greedy − SFT greedy [95%]", "KL, nats"]
    found: list[Line] = []
    for name, place, policy in policies(results):
        score, against = entry(policy, "sampled", "score"), policy.get("difference", {})
        cells = [
            name,
            with_half(mean(policy, "sampled", "score"), half(score), digits),
            ", ".join(number(v, digits) for v in score.get("by_seed", ())),
            *(interval(against.get(key), digits) for key in BASELINES),
            interval(policy.get("greedy_difference"), digits),
            with_half(mean(policy, "sampled", "kl"), half(entry(policy, "sampled", "kl"))),
        ]
        found.append(Line(cells, place))
    return Grid(
        "scores",
        "Scores and differences to SFT",
        head,
        found,
        "± is 1.96 standard errors over prompts; brackets are 95% intervals of paired differences over seeds "
        "and prompts.",
        ("arms.*.sampled", "arms.*.greedy", "arms.*.difference", "arms.*.greedy_difference", "baselines.sft"),
    )


# ------------------------------------------------------------------------------------------- who wins


def wins(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every match of two policies, as words and as shares for a bar."""
    at, found = places(results), list[dict[str, Any]]()
    for match in results["verdict"].get("wins") or ():
        total = match["wins"] + match["ties"] + match["losses"]
        if not total:
            continue
        found.append(
            {
                "name": match_name(match),
                "greedy": match["how"] == "greedy",
                "arm": at.get(match["a"]),
                "other": at.get(match["b"]),
                "shares": [100 * match[key] / total for key in ("wins", "ties", "losses")],
                "counts": [number(match[key], 0) for key in ("wins", "ties", "losses")],
                "rate": rate_interval(match["rate"]),
            }
        )
    return found


def match_name(match: Mapping[str, Any]) -> str:
    """Who meets whom, and how they were read where that is not plain sampling."""
    a, b = title(match["a"]), BASELINES.get(match["b"], title(match["b"]))
    if match["how"] != "greedy":
        return f"{a} against {b}"
    return f"{a} against {title('sft') if match['b'] == 'sft_greedy' else b}, both greedy"


def rate_interval(rate: Mapping[str, Any]) -> str:
    bounds = f" [{percent(rate.get('low'))}, {percent(rate.get('high'))}]" if finite(rate.get("low")) else ""
    return percent(rate.get("mean")) + bounds


def wins_grid(results: Mapping[str, Any]) -> Grid | None:
    """Win rates as a plain table."""
    rows = wins(results)
    if not rows:
        return None
    cells = [[w["name"], *w["counts"], w["rate"]] for w in rows]
    return Grid(
        "wins",
        "Prompt by prompt",
        ["match", "wins", "ties", "losses", "win rate [95%]"],
        [Line(line, row["arm"]) for line, row in zip(cells, rows, strict=True)],
        "How often the judge scores the first answer above the second on the same prompt, over all seeds; in "
        "the rate ties count half. A small edge on every prompt wins often; a large one on few wins little.",
        ("verdict.wins",),
    )


# ------------------------------------------------------------------------------------------- behaviours


def behaviour_grid(results: Mapping[str, Any]) -> Grid:
    """What the answers are like, and the judge's rates where it knows any."""
    rates: Mapping[str, str] = results["judge"].get("rates") or {}
    lines = [
        Line([name, *cells_of(results, key, percent if key in SHARES else number)], note=what)
        for key, (name, what) in TEXTS.items()
        if known(results, key)
    ]
    lines += [
        Line([tables.RATES.get(key, key), *cells_of(results, f"parts/{key}", percent)], note=what)
        for key, what in rates.items()
        if known(results, f"parts/{key}")
    ]
    spread = " In brackets the lowest and the highest seed, where they differ." if rates else ""
    return Grid(
        "behaviour",
        "Behaviour",
        ["", *both_ways(results)],
        lines,
        "Means over the test prompts that each line is about, then over seeds." + spread,
        ("arms.*.sampled", "arms.*.greedy", "baselines.sft", "judge.rates"),
        over_policies(results),
    )


def parts_grid(results: Mapping[str, Any]) -> Grid | None:
    """What the gold reward is made of; None where it has no parts."""
    names = [n for n in results["baselines"]["sft"].get("sampled", {}) if n.startswith(GOLD)]
    if not names:
        return None
    digits = score_digits(results)

    def signed(value: Any) -> str:
        return number(value, digits, sign=True)

    lines = [Line([n.removeprefix(GOLD).replace("_", "-"), *cells_of(results, n, signed)]) for n in names]
    lines.append(Line([f"{results['judge']['name']}, their sum", *cells_of(results, "score", signed)]))
    return Grid(
        "parts",
        "What the gold reward is made of",
        ["", *both_ways(results)],
        lines,
        "Mean points per answer that each part gives or takes; the columns add up to the last line.",
        ("arms.*.sampled.parts/gold/*", "arms.*.greedy.parts/gold/*", "baselines.sft"),
        over_policies(results),
    )


def known(results: Mapping[str, Any], key: str) -> bool:
    return any(mean(policy, how, key) is not None for _, _, policy in policies(results) for how in WAYS)


def both_ways(results: Mapping[str, Any]) -> list[str]:
    return [how for _ in policies(results) for how in WAYS]


def over_policies(results: Mapping[str, Any]) -> list[tuple[str, int, int | None]]:
    return [(name, len(WAYS), place) for name, place, _ in policies(results)]


def cells_of(results: Mapping[str, Any], key: str, say: Any) -> list[str]:
    """A reading of every policy, sampled and greedy."""
    found: list[str] = []
    for _, _, policy in policies(results):
        for how in WAYS:
            reading = entry(policy, how, key)
            found.append(rate_cell(reading) if say is percent else say(reading.get("mean")))
    return found


def rate_cell(found: Mapping[str, Any]) -> str:
    """Mean over seeds, with the lowest and the highest seed where they differ: policies flip whole."""
    shares = [v for v in found.get("by_seed", ()) if finite(v)]
    text = percent(found.get("mean"))
    if not shares or percent(min(shares)) == percent(max(shares)):
        return text
    return f"{text} ({100 * min(shares):.0f}–{100 * max(shares):.0f})"


def held_out_grid(results: Mapping[str, Any]) -> Grid | None:
    """How well the reward models order pairs they did not learn from."""
    models: Mapping[str, Mapping[str, Any]] = results["reward_model"]
    if not models:
        return None
    shown = [key for key in HELD_OUT if any(key in figures for figures in models.values())]
    lines: list[Line] = []
    for role, figures in models.items():
        means = {k: v.get("mean") for k, v in figures.items()}
        name = "reward model" if role == "reward" else "judge (proxy)"
        lines.append(Line([name, *(held_out_cell(k, means) for k in shown)]))
    return Grid(
        "held-out",
        "Reward model on held-out pairs",
        ["model", *(HELD_OUT[k] for k in shown)],
        lines,
        "Means over seeds. Where gold is known, the agreement of the labels with it shows how noisy they are.",
        ("reward_model",),
    )


def held_out_cell(key: str, means: Mapping[str, Any]) -> str:
    value = means.get(key)
    if key.endswith("pairs"):
        return number(value, 0)
    if key == "gold_correlation":
        return number(value)
    if key == "accuracy" and finite(means.get("low")) and finite(means.get("high")):
        return f"{percent(value)} [{percent(means['low'])}, {percent(means['high'])}]"
    return percent(value)


# ------------------------------------------------------------------------------------------- seeds


def stability_grid(results: Mapping[str, Any]) -> Grid | None:
    """How much every arm varies over seeds, and the ratios of variances; None with one seed."""
    found = results.get("stability")
    if not found or found["seeds"] < 2:
        return None
    digits, at = score_digits(results), places(results)
    lines = [
        Line(
            [
                title(name),
                spread_cell(arm.get("score"), digits),
                number((arm.get("score") or {}).get("sd_prompts"), digits),
                number((arm.get("score") or {}).get("sd_seeds"), digits),
                spread_cell(arm.get("kl"), 2),
                f"{arm['stopped']} of {arm['runs']}" if arm["runs"] else number(None),
            ],
            at.get(name),
        )
        for name, arm in found["arms"].items()
    ]
    few = len(found["pairs"]) == 1
    ratios = [ratio_words(pair) for pair in found["pairs"]] if few else []
    return Grid(
        "stability",
        "Spread over seeds",
        ["arm", "score: sd [95%]", "of it from prompts", "left for seeds", "KL: sd [95%]", "stopped early"],
        lines,
        "Standard deviation of the seeds' means; what drawing prompts alone would cause is taken out of what "
        "is left for seeds." + "".join(ratios),
        ("stability",),
    )


def spread_cell(found: Mapping[str, Any] | None, digits: int) -> str:
    if not found or not finite(found.get("sd")):
        return number(None)
    low, high = (number(found.get(key), digits) for key in ("low", "high"))
    return f"{number(found['sd'], digits)} [{low}, {high}]"


def ratio_words(pair: Mapping[str, Any]) -> str:
    """The ratio of two arms' variances, as a sentence that follows others."""
    told = [
        f"{word} {number(r['ratio'])} [{number(r.get('low'))}, {number(r.get('high'))}]"
        for name, word in (("score", "of the score"), ("kl", "of KL"))
        if finite((r := pair.get(name) or {}).get("ratio"))
    ]
    if not told:
        return ""
    names = f"{title(pair['a'])} over that of {title(pair['b'])}"
    return f" Variance of {names}: {', '.join(told)}; 1 is no difference."


def power_grid(results: Mapping[str, Any]) -> Grid | None:
    """What this study could have found, where there are several pairs; None otherwise."""
    pairs = [pair for pair in results["verdict"]["pairs"] if pair.get("power")]
    if len(pairs) < 2:
        return None
    digits = score_digits(results)
    lines = [
        Line(
            [
                f"{title(pair['a'])} − {title(pair['b'])}",
                interval(pair["difference"], digits),
                "yes" if pair.get("apart") else "no",
                number(pair["power"]["detectable"], digits),
                number(pair["power"]["seeds_needed"], 0),
                number(pair["power"]["prompts_needed"], 0),
            ]
        )
        for pair in pairs
    ]
    head = ["pair", "difference [95%]", "told apart", "could be found", "seeds it takes", "prompts it takes"]
    return Grid(
        "power",
        "What this study could find",
        head,
        lines,
        "Told apart by Holm's procedure over all pairs. What could be found: the difference that as many seeds "
        "and prompts find with 80% probability. What it takes: to find the difference seen here, more seeds of "
        f"as many prompts, or as many seeds of more prompts ({ABSENT} where unknown, or where no number would "
        "do).",
        ("verdict.pairs",),
    )


def powers(results: Mapping[str, Any]) -> Sequence[str]:
    """What this study could have found, pair by pair."""
    return [
        f"{title(pair['a'])} and {title(pair['b'])}: {pair['power']['text']}"
        for pair in results["verdict"]["pairs"]
        if pair.get("power", {}).get("text")
    ]
