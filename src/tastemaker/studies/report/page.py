"""The page: one HTML file that needs nothing beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tastemaker.studies.report import tables, words
from tastemaker.studies.report.curves import WINDOW
from tastemaker.studies.report.numbers import (
    ABSENT,
    arm_title,
    entry,
    finite,
    half,
    interval,
    largest_best_of_n,
    mean,
    megabytes,
    number,
    percent,
    score_digits,
    seconds,
    seed_count,
    title,
    with_half,
)
from tastemaker.studies.report.svg import DARK, LIGHT, SANS

if TYPE_CHECKING:
    from tastemaker.studies.report.figures import Picture

Table = dict[str, Any]
"""head: list of texts; rows: list of {cells: list of texts, arm: number or None, strong: bool}."""

HELD_OUT: Mapping[str, str] = {
    "pairs": "held-out pairs",
    "accuracy": "orders them as the labels do",
    "gold_pairs": "of these with different gold",
    "gold_accuracy": "orders those as gold does",
    "label_gold_agreement": "labels agree with gold",
    "gold_correlation": "correlation with gold",
}


def render_page(results: Mapping[str, Any], figures: Sequence[Picture], folder: Path) -> str:
    """The whole page. `results` without NaN; everything in it is treated as text, never as markup."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("tastemaker.studies.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    here = Path(__file__).parent
    # Markup only for what this package itself wrote: its style, its script, its figures.
    by_name = {f.name: {"wide": Markup(f.inline), "narrow": Markup(f.narrow)} for f in figures}
    return environment.get_template("page.html.j2").render(
        title=page_title(results),
        light=LIGHT,
        dark=DARK,
        sans=Markup(SANS),
        style=Markup((here / "style.css").read_text("utf-8")),
        script=Markup((here / "page.js").read_text("utf-8")),
        headline=words.headline(results),
        sentences=[unbroken(s) for s in words.sentences(results)],
        facts=facts(results),
        judge=results["judge"],
        judge_title=judge_title(results["judge"]),
        proxy=results["judge"]["kind"] != "gold",
        score_word=tables.score_word(results),
        figures=by_name,
        curves=curve_groups(results, figures),
        window=WINDOW,
        arms=[{"name": title(n), "place": i % 6} for i, n in enumerate(results["arms"])],
        seeds=seed_count(results),
        main=main_table(results),
        quality=quality_table(results),
        behaviour=behaviour_table(results),
        costs=cost_table(results),
        stages=stage_table(results),
        held_out=held_out_table(results),
        samples=sample_groups(results),
        sample_count=len(results["samples"]),
        protocol=results["settings"]["protocol"],
        settings=settings_blocks(results),
        runs=run_table(results, folder),
        best=largest_best_of_n(results),
        tilted=bool(results["baselines"].get("tilted")),
        baseline_prompts=results["settings"]["preset"]["baseline_prompts"],
    )


def page_title(results: Mapping[str, Any]) -> str:
    names = words.listed([title(a) for a in results["arms"]])
    return f"{names} on the same preferences"


def judge_title(judge: Mapping[str, Any]) -> str:
    """The judge's name to begin a sentence with; a proxy is called one."""
    name: str = judge["name"] + (" (proxy)" if judge["kind"] != "gold" and "proxy" not in judge["name"] else "")
    return name[:1].upper() + name[1:]


def unbroken(sentence: str) -> str:
    """With spaces inside `mean [low, high]` that do not break lines."""
    return re.sub(r"[+−]?[\d.]+ \[[^\]]*\]", lambda m: m[0].replace(" ", "\u00a0"), sentence)


def facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was compared, at a glance."""
    asked, preset = results["settings"]["compare"], results["settings"]["preset"]
    where = (
        [("World", "the town")]
        if results["world"] == "town"
        else [("Model", str(asked["model"])), ("Data", str(asked["data"]))]
    )
    tried = ", ".join(f"{title(n)} {s['settings']}" for n, s in results["search"].items())
    return [
        *where,
        ("Judge", results["judge"]["name"]),
        ("Seeds", str(seed_count(results))),
        ("Test prompts", f"{preset['test_prompts']} per seed"),
        ("Settings tried", tried),
        ("Size", str(asked["preset"])),
    ]


def table(head: Sequence[str], rows: Sequence[tuple[Sequence[str], int | None]]) -> Table:
    return {"head": list(head), "rows": [{"cells": list(cells), "arm": arm} for cells, arm in rows]}


def places(results: Mapping[str, Any]) -> dict[str, int]:
    """Every arm's colour number."""
    return {name: i % 6 for i, name in enumerate(results["arms"])}


def main_table(results: Mapping[str, Any]) -> Table:
    at = places(results)
    arms = [at.get(row.arm) if row.arm is not None else None for row in tables.rows(results)]
    return table(["policy", *tables.columns(results)], list(zip(tables.filled(results), arms, strict=True)))


def quality_table(results: Mapping[str, Any]) -> Table:
    """Scores with their errors and differences to both ways of decoding SFT."""
    digits, word = score_digits(results), tables.score_word(results)
    head = ["policy", f"{word}, sampled", "by seed", "− SFT sampled [95%]", "− SFT greedy [95%]"]
    head += [f"{word}, greedy", "entropy, nats per token", "ended"]
    found: list[tuple[Sequence[str], int | None]] = []
    policies: list[tuple[str, int | None, Mapping[str, Any], Mapping[str, Any]]] = [
        ("SFT", None, results["baselines"]["sft"], {})
    ]
    for name, arm in results["arms"].items():
        policies.append((arm_title(name, arm), places(results)[name], arm, arm["difference"]))
    for name, place, policy, against in policies:
        score = entry(policy, "sampled", "score")
        cells = [
            name,
            with_half(mean(policy, "sampled", "score"), half(score), digits),
            ", ".join(number(v, digits) for v in score.get("by_seed", ())),
            *(interval(against.get(key), digits) for key in ("sft_sampled", "sft_greedy")),
            with_half(mean(policy, "greedy", "score"), half(entry(policy, "greedy", "score")), digits),
            number(mean(policy, "sampled", "entropy")),
            percent(mean(policy, "sampled", "ended")),
        ]
        found.append((cells, place))
    return table(head, found)


def behaviour_table(results: Mapping[str, Any]) -> Table | None:
    """The judge's rates, sampled and greedy; None where it knows none."""
    rates: Mapping[str, str] = results["judge"].get("rates") or {}
    if not rates:
        return None
    policies = {"SFT": (results["baselines"]["sft"], None)} | {
        arm_title(n, a): (a, places(results)[n]) for n, a in results["arms"].items()
    }
    found: list[tuple[Sequence[str], int | None]] = []
    for name, (policy, place) in policies.items():
        for how in ("sampled", "greedy"):
            cells = [rate_cell(entry(policy, how, f"parts/{key}")) for key in rates]
            found.append(([f"{name} · {how}", *cells], place))
    heads = [f"{tables.RATES.get(key, key)}: {what}" for key, what in rates.items()]
    return table(["policy", *heads], found)


def rate_cell(found: Mapping[str, Any]) -> str:
    """Mean over seeds, with the lowest and the highest seed where they differ: policies flip whole."""
    shares = [v for v in found.get("by_seed", ()) if finite(v)]
    text = percent(found.get("mean"))
    if not shares or percent(min(shares)) == percent(max(shares)):
        return text
    return f"{text} ({100 * min(shares):.0f}–{100 * max(shares):.0f})"


def cost_table(results: Mapping[str, Any]) -> Table:
    """What each arm asks for."""
    head = ["arm", "phases", "reward model", "data", "model copies", "peak memory", "wall time", "CPU time"]
    head += ["settings × seeds", "CPU time of the search"]
    found: list[tuple[Sequence[str], int | None]] = []
    for name, arm in results["arms"].items():
        cost, search = arm["cost"], results["search"].get(name, {})
        settings = search.get("settings") or 1
        cells = [
            title(name),
            number(cost["phases"], 0),
            "yes" if cost["needs_reward_model"] else "no",
            "online" if cost["online"] else "offline",
            number(cost["model_copies"], 0),
            megabytes(cost["peak_rss_bytes"]),
            seconds(cost["wall_seconds"]),
            seconds(cost["cpu_seconds"]),
            f"{settings} × {round(search.get('runs', settings) / settings)}",
            seconds(search.get("cpu_seconds")),
        ]
        found.append((cells, places(results)[name]))
    return table(head, found)


def stage_table(results: Mapping[str, Any]) -> Table:
    """The cost of every stage after SFT, the mean over the arm's runs."""
    head = [
        "arm",
        "stage",
        "steps",
        "tokens",
        "episodes",
        "model copies",
        "peak memory",
        "wall time",
        "CPU time",
    ]
    found: list[tuple[Sequence[str], int | None]] = []
    groups: list[tuple[str, int | None, Mapping[str, Any]]] = [("every arm", None, results["start"]["stages"])]
    for arm, its in results["arms"].items():
        groups.append((title(arm), places(results)[arm], its["cost"]["stages"]))
    for name, place, stages in groups:
        for stage, cost in stages.items():
            cells = [
                name,
                "Pretraining" if stage == "base" else title(stage),
                number(cost.get("steps"), 0),
                number(cost.get("tokens"), 0),
                number(cost.get("episodes"), 0) if cost.get("episodes") else ABSENT,
                number(cost.get("model_copies"), 0),
                megabytes(cost.get("peak_rss_bytes")),
                seconds(cost.get("wall_seconds")),
                seconds(cost.get("cpu_seconds")),
            ]
            found.append((cells, place))
    return table(head, found)


def held_out_table(results: Mapping[str, Any]) -> Table | None:
    """How well the reward models order pairs they did not learn from."""
    models: Mapping[str, Mapping[str, Any]] = results["reward_model"]
    if not models:
        return None
    shown = [key for key in HELD_OUT if any(key in figures for figures in models.values())]
    rows: list[tuple[Sequence[str], int | None]] = []
    for role, figures in models.items():
        means = {k: v.get("mean") for k, v in figures.items()}
        name = "reward model" if role == "reward" else "judge (proxy)"
        rows.append(([name, *(held_out_cell(k, means) for k in shown)], None))
    return table(["model", *(HELD_OUT[k] for k in shown)], rows)


def held_out_cell(key: str, means: Mapping[str, Any]) -> str:
    value = means.get(key)
    if key.endswith("pairs"):
        return number(value, 0)
    if key == "gold_correlation":
        return number(value)
    if key == "accuracy" and finite(means.get("low")) and finite(means.get("high")):
        return f"{percent(value)} [{percent(means['low'])}, {percent(means['high'])}]"
    return percent(value)


def curve_groups(results: Mapping[str, Any], figures: Sequence[Picture]) -> list[dict[str, Any]]:
    """Small multiples by arm."""
    from markupsafe import Markup

    found: list[dict[str, Any]] = []
    for name, arm in results["arms"].items():
        own = [{"metric": f.title, "svg": Markup(f.inline)} for f in figures if f.group == name]
        stopped = [str(why) for why in arm["stopped"] if why]
        if own or stopped:
            found.append({"name": arm_title(name, arm), "panels": own, "stopped": stopped})
    return found


def sample_groups(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Samples by kind, in the order in which kinds first come."""
    groups: dict[str, list[dict[str, Any]]] = {}
    at, digits = places(results), score_digits(results)
    for sample in results["samples"]:
        answers = [
            {
                "name": title(name),
                "arm": at.get(name),
                "text": text,
                "score": number(sample["scores"].get(name), digits),
            }
            for name, text in sample["responses"].items()
        ]
        groups.setdefault(sample["kind"] or "", []).append({"prompt": sample["prompt"], "answers": answers})
    return [{"kind": kind or "prompts", "samples": of_kind} for kind, of_kind in groups.items()]


def settings_blocks(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(heading, JSON) of everything that was set."""
    chosen = {name: {arm["chosen"]: arm["tried"].get(arm["chosen"])} for name, arm in results["arms"].items()}
    tried = {name: arm["tried"] for name, arm in results["arms"].items()}
    settings = results["settings"]
    blocks = [
        ("Chosen settings", chosen),
        ("All settings tried", tried),
        ("What was asked for", settings["compare"]),
        ("Preset", {k: v for k, v in settings["preset"].items() if k != "arms"}),
        ("The town", settings.get("town")),
        ("Versions", settings["versions"]),
    ]
    return [
        (heading, json.dumps(value, indent=2, ensure_ascii=False))
        for heading, value in blocks
        if value is not None
    ]


def run_table(results: Mapping[str, Any], folder: Path) -> Table:
    """Where the runs lie, seen from the report's folder."""
    rows: list[tuple[Sequence[str], int | None]] = []
    for name, arm in results["arms"].items():
        for i, run in enumerate(arm["runs"]):
            rows.append(([arm_title(name, arm), str(i + 1), relative(str(run), folder)], places(results)[name]))
    return table(["arm", "seed, in order", "run folder"], rows)


def relative(run: str, folder: Path) -> str:
    """A path as seen from `folder` where it lies inside, else its last two parts."""
    path = Path(run)
    try:
        return str(path.resolve().relative_to(folder.resolve()))
    except ValueError:
        return str(Path(*path.parts[-2:]))
