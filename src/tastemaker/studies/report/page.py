"""The page: one HTML file that needs nothing beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tastemaker.studies.report import courses, diagnosis, quality, samples, spending, tables, words
from tastemaker.studies.report.curves import WINDOW
from tastemaker.studies.report.grid import Grid, Line, places
from tastemaker.studies.report.numbers import arm_title, largest_best_of_n, seed_count, title
from tastemaker.studies.report.svg import DARK, LIGHT, SANS

if TYPE_CHECKING:
    from tastemaker.studies.report.drawing import Picture


MANY = 12
"""Matches beyond which those of greedy answers are folded away."""


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
        figures=by_name,
        judge=results["judge"],
        judge_title=judge_title(results["judge"]),
        proxy=results["judge"]["kind"] != "gold",
        score_word=tables.score_word(results),
        seeds=seed_count(results),
        **verdict_parts(results),
        **quality_parts(results),
        **cost_parts(results),
        **training_parts(results, figures, by_name),
        **setting_parts(results, folder),
    )


def verdict_parts(results: Mapping[str, Any]) -> dict[str, Any]:
    """What the page says first, and the differences behind it."""
    best = largest_best_of_n(results)
    first, further = words.first_and_further(results)
    wins = quality.wins(results)
    return {
        "headline": words.headline(results),
        "sentences": [unbroken(s) for s in first],
        "further": [unbroken(s) for s in further],
        "facts": facts(results),
        "best": best,
        "tilted": bool(results["baselines"].get("tilted")),
        "baseline_prompts": results["settings"]["preset"]["baseline_prompts"],
        "main": main_grid(results),
        "powers": [unbroken(p) for p in quality.powers(results)],
        "power_grid": quality.power_grid(results),
        "wins": [w for w in wins if not w["greedy"] or len(wins) <= MANY],
        "more_wins": [w for w in wins if w["greedy"] and len(wins) > MANY],
        "many_pairs": len(results["verdict"]["pairs"]) > 1,
        "wins_grid": quality.wins_grid(results),
        "stability": quality.stability_grid(results),
        "stability_text": (results.get("stability") or {}).get("text", ""),
    }


def quality_parts(results: Mapping[str, Any]) -> dict[str, Any]:
    shown = samples.sample_list(results)
    return {
        "quality": quality.quality_grid(results),
        "behaviour": quality.behaviour_grid(results),
        "parts": quality.parts_grid(results),
        "held_out": quality.held_out_grid(results),
        "samples": samples.kinds_of(shown),
        "sample_count": len(shown),
    }


def cost_parts(results: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "costs": spending.cost_grid(results),
        "search": spending.search_grid(results),
        "stages": spending.stage_grid(results),
        "articles": spending.article_grid(results),
    }


def training_parts(
    results: Mapping[str, Any], figures: Sequence[Picture], by_name: Mapping[str, Any]
) -> dict[str, Any]:
    """Diagnoses, courses and training curves."""
    shown = [
        {
            "title": course.title,
            "name": course.name,
            "text": courses.sentence(course.summary["text"]),
            "readings": courses.readings_of(course),
            "figure": by_name.get(course.name),
            "alarm": bool(course.summary["alarms"]),
            "proxy": course.has_proxy,
        }
        for course in courses.courses(results)
    ]
    forced = bool((results.get("overoptimisation") or {}).get("stress"))
    return {
        "diagnoses": diagnosis.diagnoses(results),
        "courses": shown[:-1] if forced else shown,
        "stress": shown[-1] if forced else None,
        "stress_words": courses.stress_words(results) if forced else "",
        "courses_grid": courses.courses_grid(results),
        "curves": curve_groups(results, figures),
        "window": WINDOW,
    }


def setting_parts(results: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    return {
        "protocol": results["settings"]["protocol"],
        "settings": settings_blocks(results),
        "printed": ("Chosen settings", "Versions"),
        "runs": run_grid(results, folder),
    }


def page_title(results: Mapping[str, Any]) -> str:
    names = words.listed([title(a) for a in results["arms"]])
    return f"{names} on the same preferences"


def judge_title(judge: Mapping[str, Any]) -> str:
    """The judge's name to begin a sentence with; a proxy is called one."""
    name: str = judge["name"] + (" (proxy)" if judge["kind"] != "gold" and "proxy" not in judge["name"] else "")
    return name[:1].upper() + name[1:]


def unbroken(sentence: str) -> str:
    """With spaces inside `mean [low, high]` that do not break lines."""
    return re.sub(r"[+−]?[\d.]+%? \[[^\]]*\]", lambda m: m[0].replace(" ", "\u00a0"), sentence)


def facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was compared, at a glance."""
    asked, preset = results["settings"]["compare"], results["settings"]["preset"]
    where = (
        [("World", "the town")]
        if results["world"] == "town"
        else [("Model", str(asked["model"] or "the runs' own start")), ("Data", data_name(str(asked["data"])))]
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


def data_name(data: str) -> str:
    """A file without its folders, which are nobody else's business; other names whole."""
    path = Path(data)
    return path.name if path.suffix else data


def main_grid(results: Mapping[str, Any]) -> Grid:
    """The table of the terminal with policies as rows, costs apart."""
    at = places(results)
    heads = ["policy", *(column for column in tables.columns(results) if column not in tables.COSTS)]
    arms = [at.get(row.arm) if row.arm is not None else None for row in tables.rows(results)]
    return Grid(
        "table",
        "In numbers",
        heads,
        [Line(cells[: len(heads)], arm) for cells, arm in zip(tables.filled(results), arms, strict=True)],
        "± is 1.96 standard errors over prompts of the mean over seeds; brackets are 95% intervals over seeds "
        "and prompts. Arms are sampled unless said otherwise; of best of n the reward model keeps one of n "
        "samples.",
        ("arms.*.sampled", "arms.*.greedy", "arms.*.difference.sft_greedy", "baselines"),
    )


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


def run_grid(results: Mapping[str, Any], folder: Path) -> Grid:
    """Where the runs lie, seen from the report's folder."""
    at = places(results)
    lines = [
        Line([f"{arm_title(name, arm)}, {i + 1}", relative(str(run), folder)], at[name])
        for name, arm in results["arms"].items()
        for i, run in enumerate(arm["runs"])
    ]
    return Grid(
        "runs",
        "Runs",
        ["arm and seed, in order", "run folder"],
        lines,
        "The folders of the chosen setting's runs, beside this page.",
        ("arms.*.runs",),
        prose=True,
    )


def relative(run: str, folder: Path) -> str:
    """A path as seen from `folder` where it lies inside, else its last two parts."""
    path = Path(run)
    if not path.is_absolute():
        return path.as_posix()
    try:
        return str(path.resolve().relative_to(folder.resolve()))
    except ValueError:
        return str(Path(*path.parts[-2:]))
