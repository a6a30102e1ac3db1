"""The page of recorded verdicts: who wins, by how much, at equal length, and what to doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tastemaker.studies.pages import Page, Section
from tastemaker.studies.pages.drawings import forest, lines
from tastemaker.studies.report.grid import Grid, Line
from tastemaker.studies.written import ABSENT, counted, finite, number

COLUMNS = (
    *("model", "win_rate", "se", "low", "high", "length_controlled", "length_controlled_se", "discrete"),
    *("wins", "losses", "ties", "unparsed", "n", "elo", "elo_low", "elo_high"),
)


def points(value: Any, digits: int = 2) -> str:
    """A share in per cent."""
    return number(100 * value, digits) if finite(value) else ABSENT


def span(low: Any, high: Any, digits: int = 1, times: float = 100) -> str:
    if not (finite(low) and finite(high)):
        return ABSENT
    return f"[{number(times * low, digits)}, {number(times * high, digits)}]"


def judgements_page(results: Mapping[str, Any]) -> Page:
    """The page of `evaluation.recorded` results (keys `battles`, `ratings`, `two_orders`)."""
    battles = results.get("battles")
    sections: list[Section] = []
    sentences: list[str] = []
    if battles:
        sections += battle_sections(battles)
        sentences += battle_sentences(battles)
    if results.get("ratings"):
        sections.append(rating_section(results["ratings"]))
    if results.get("two_orders"):
        sections.append(order_section(results["two_orders"]))
    headline = battle_headline(battles) if battles else rating_headline(results)
    return Page(
        kind="evaluation",
        title=results["title"],
        headline=headline,
        sentences=sentences,
        facts=facts(results),
        sections=sections,
        warning=results.get("warning", ""),
        table=(COLUMNS, table_rows(battles)) if battles else ((), ()),
    )


def facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [("File", str(results["source"]))] if results.get("source") else []
    battles = results.get("battles")
    if battles:
        found += [
            ("Verdicts", number(battles["verdicts"], 0)),
            ("Prompts", number(battles["prompts"], 0)),
            ("Models", str(len(battles["names"]))),
            ("Not readable", str(battles["unparsed"])),
        ]
        if battles["baseline"]:
            found.append(("Baseline", battles["baseline"]))
    return found + [(name, str(value)) for name, value in results.get("facts", {}).items()]


def battle_headline(battles: Mapping[str, Any]) -> str:
    rows = battles["models"]
    if len(rows) == 1:
        row = rows[0]
        sure = row["low"] > 0.5 or row["high"] < 0.5 if finite(row["low"]) else False
        verb = ("beats" if row["win_rate"] > 0.5 else "loses to") if sure else "is not told apart from"
        return f"{row['model']} {verb} {battles['baseline']}: {points(row['win_rate'], 1)} % of verdicts"
    if rows:
        return f"{rows[0]['model']} wins most against {battles['baseline']}: {points(rows[0]['win_rate'], 1)} %"
    if battles["ratings"]:
        return f"{battles['ratings']['models'][0]['model']} comes first of {len(battles['names'])}"
    return f"{len(battles['names'])} models, and no common scale for them"


def battle_sentences(battles: Mapping[str, Any]) -> list[str]:
    said: list[str] = []
    for gap in battles["differences"][:3]:
        verdict = f"{gap['better']} is better" if gap["better"] else "no winner"
        text = f"{gap['a']} against {gap['b']}: {points(gap['difference'], 1)} points"
        said.append(f"{text} {span(gap['low'], gap['high'])} on {gap['prompts']} shared prompts: {verdict}.")
    return said


def battle_sections(battles: Mapping[str, Any]) -> list[Section]:
    found: list[Section] = []
    rows = battles["models"]
    if rows:
        bars = [(r["model"], r["win_rate"], r["low"], r["high"]) for r in rows]
        words = f"Win rates against {battles['baseline']} with 95% intervals"
        picture = forest("win_rates", words, bars, middle=0.5)
        found.append(
            Section("rates", "Win rates", pictures=[(picture, words + ".")], grids=[rate_grid(battles)])
        )
        tests = [sequential_line(r) for r in rows if r.get("sequential")]
        if tests:
            found.append(sequential_section(rows))
        if any(r.get("corrected") for r in rows):
            found.append(Section("people", "Corrected by people's labels", grids=[corrected_grid(rows)]))
    if battles["differences"]:
        found.append(Section("differences", "On the same prompts", grids=[difference_grid(battles)]))
    if battles["ratings"]:
        found.append(rating_scale(battles["ratings"]))
    if battles["categories"]:
        found.append(Section("categories", "By category", grids=[category_grid(battles)]))
    if battles["notes"] or finite(battles["bias"]["longer"]):
        found.append(Section("doubts", "What to doubt", list=[*battles["notes"], *bias_lines(battles["bias"])]))
    return found


def rate_grid(battles: Mapping[str, Any]) -> Grid:
    heads = ["model", "win rate, %", "95% interval", "standard error", "at equal length, %", "wins", "losses"]
    rows = [
        Line(
            [
                r["model"],
                points(r["win_rate"]),
                span(r["low"], r["high"]),
                points(r["se"]),
                equal_length(r),
                str(r["wins"]),
                str(r["losses"]),
                str(r["ties"]),
                str(r["unparsed"]),
                number(r.get("mean_length"), 0),
            ]
        )
        for r in battles["models"]
    ]
    how = (
        "A tie is half a win; a verdict that could not be read is in no rate. Intervals are percentile "
        "bootstrap over prompts. At equal length: the rate a logistic regression on length predicts for "
        "answers as long as the baseline's (Dubois et al. 2024), ± one standard error."
    )
    heads += ["ties", "unread", "mean length"]
    return Grid("rates-table", "Against the baseline", heads, rows, how, ("battles.models",))


def equal_length(row: Mapping[str, Any]) -> str:
    if not finite(row.get("length_controlled")):
        return ABSENT
    return f"{points(row['length_controlled'])} ± {points(row.get('length_controlled_se'), 1)}"


def difference_grid(battles: Mapping[str, Any]) -> Grid:
    rows = [
        Line(
            [
                f"{g['a']} − {g['b']}",
                points(g["difference"]),
                span(g["low"], g["high"]),
                str(g["prompts"]),
                g["better"] or "no winner",
            ]
        )
        for g in battles["differences"]
    ]
    how = "Differences of win rates, prompt by prompt; the bootstrap draws prompts."
    heads = ["models", "points", "95% interval", "prompts", "better"]
    return Grid("differences-table", "Paired differences", heads, rows, how, ("battles.differences",))


def rating_scale(ratings: Mapping[str, Any]) -> Section:
    styled = {m["model"]: m for m in (ratings.get("styled") or {}).get("models", ())}
    heads = ["model", "Elo", "95% interval", "battles"] + (["at equal style"] if styled else [])
    rows = [
        Line(
            [
                m["model"],
                number(m["elo"], 0),
                span(m["low"], m["high"], 0, 1),
                number(m["battles"], 0),
                *([number(styled[m["model"]]["elo"], 0)] if styled else []),
            ]
        )
        for m in ratings["models"]
    ]
    how = (
        "Bradley-Terry strengths, 1000 + 400/ln 10 per natural logit, mean 1000; ties are half wins. "
        f"Intervals: {ratings['interval']}. "
        + ("Regularised, because the graph of wins is not connected." if ratings["regularised"] else "")
    )
    text = [
        f"{e['name']}: {number(e['effect'], 3, sign=True)} ± {number(e['se'], 3)} natural logits."
        for e in [*ratings["effects"], *(ratings.get("styled") or {}).get("effects", ())]
    ]
    bars = [(m["model"], m["elo"], m["low"], m["high"]) for m in ratings["models"]]
    picture = forest("elo", "Elo with 95% intervals", bars, middle=1000, percent=False)
    grid = Grid("elo-table", "Ratings", heads, rows, how, ("battles.ratings",))
    return Section("ratings", "One scale", text, [(picture, "Elo with 95% intervals.")], [grid])


def category_grid(battles: Mapping[str, Any]) -> Grid:
    names = [r["model"] for r in battles["models"]]
    rows = [
        Line([c["category"], *(category_cell(c["models"][name]) for name in names)])
        for c in battles["categories"]
    ]
    how = "Win rates in per cent ± one standard error, and verdicts."
    return Grid(
        "categories-table", "Win rates by category", ["category", *names], rows, how, ("battles.categories",)
    )


def category_cell(cell: Mapping[str, Any]) -> str:
    return f"{points(cell['win_rate'], 1)} ± {points(cell['se'], 1)} ({cell['n']})" if cell["n"] else ABSENT


def corrected_grid(rows: Sequence[Mapping[str, Any]]) -> Grid:
    found = [
        Line(
            [
                r["model"],
                points(r["win_rate"], 1),
                points(r["corrected"]["rate"], 1),
                span(r["corrected"]["low"], r["corrected"]["high"]),
                span(r["corrected"]["labels_alone"][1], r["corrected"]["labels_alone"][2]),
                points(r["corrected"]["judge_bias"], 1),
                str(r["corrected"]["labels"]),
                number(r["corrected"]["effective_labels"], 0),
            ]
        )
        for r in rows
        if r.get("corrected")
    ]
    heads = ["model", "judge, %", "corrected, %", "95% interval", "labels alone", "people − judge, points"]
    heads += ["labels", "worth labels"]
    how = (
        "Prediction-powered inference (Angelopoulos et al. 2023): the judge's mean over all pairs, corrected "
        "by what people said of some, drawn at random. Worth labels: how many labels alone would be as precise."
    )
    return Grid("people-table", "Judge and people", heads, found, how, ("battles.models[].corrected",))


def sequential_line(row: Mapping[str, Any]) -> str:
    test = row["sequential"]
    said = f"{row['model']}: {test['reason']}; at the end {points(test['mean'], 1)} %"
    said += f" {span(test['interval'][0], test['interval'][1])}, valid at any stop"
    if finite(test["power"]):
        found = points(test["power"], 0)
        said += f". One look at {test['seen']} verdicts would find such a difference {found} times of 100; "
        said += f"80 of 100 need {test['needed']}"
    return said + "."


def sequential_section(rows: Sequence[Mapping[str, Any]]) -> Section:
    pictures = [
        (
            lines(
                f"course-{i}",
                f"Confidence sequence of {r['model']}",
                r["sequential"]["course"],
                middle=r["sequential"]["rule"]["null"],
            ),
            f"{r['model']}: mean so far and the confidence sequence, verdict by verdict.",
        )
        for i, r in enumerate(rows[:4])
        if r.get("sequential")
    ]
    rule = next(r["sequential"]["rule"]["words"] for r in rows if r.get("sequential"))
    return Section(
        "looks",
        "Looked at any time",
        [f"Rule: {rule}."],
        pictures,
        list=[sequential_line(r) for r in rows],
        beside=True,
    )


def bias_lines(bias: Mapping[str, Any]) -> list[str]:
    said: list[str] = []
    if finite(bias["longer"]):
        share, n = points(bias["longer"], 1), number(bias["longer_n"], 0)
        said.append(f"{share} % of {n} decided verdicts went to the longer answer.")
    if finite(bias["first"]):
        share, n = points(bias["first"], 1), number(bias["first_n"], 0)
        said.append(f"{share} % of {n} decided verdicts went to the answer shown first.")
    return said


def rating_headline(results: Mapping[str, Any]) -> str:
    if results.get("two_orders"):
        rows = results["two_orders"]
        mean = sum(r["accuracy"] for r in rows) / len(rows)
        return f"{counted(len(rows), 'judge')} read in both orders: right in {points(mean, 1)} % on average"
    rows = results["ratings"]
    known = [r for r in rows if finite(r["alpha"])]
    if not known:
        return "Agreement beyond chance is undefined: only one category was used"
    if len(known) == 1:
        return f"Raters agree with Krippendorff's alpha {number(known[0]['alpha'], 3)}"
    low, high = min(r["alpha"] for r in known), max(r["alpha"] for r in known)
    return f"Krippendorff's alpha from {number(low, 2)} to {number(high, 2)} over {len(rows)} sets of ratings"


def rating_section(rows: Sequence[Mapping[str, Any]]) -> Section:
    lines_ = [
        Line(
            [
                r["name"],
                number(r["alpha"], 4),
                span(r["alpha_interval"][0], r["alpha_interval"][1], 3, 1),
                number(r["fleiss"], 4),
                ", ".join(f"{pair}: {number(k, 4)}" for pair, k in r.get("cohen", {}).items()) or ABSENT,
                points(r["raw"], 1),
                number(r["units"], 0),
                number(r["ratings"], 0),
                str(r["missing"]),
            ],
            note=r["note"],
        )
        for r in rows
    ]
    heads = ["ratings", "alpha (nominal)", "95% interval", "Fleiss' kappa", "Cohen's kappa", "raw agreement, %"]
    heads += ["units", "ratings given", "missing"]
    how = (
        "Alpha and kappas are agreement beyond chance: 1 perfect, 0 chance, undefined (–) where only one "
        "category was used. Fleiss' kappa needs equally many ratings of every unit. The interval draws units."
    )
    return Section("agreement", "Agreement", grids=[Grid("alpha", "Raters", heads, lines_, how, ("ratings",))])


def order_section(rows: Sequence[Mapping[str, Any]]) -> Section:
    lines_ = [
        Line(
            [
                r["name"],
                points(r["accuracy"], 1),
                points(r["swap_agreement"], 1),
                number(r["kappa"], 3),
                number(r["kappa_all"], 3),
                points(r["first_wins"], 1),
                str(r["pairs"]),
                str(r["unparsed"]),
            ]
        )
        for r in rows
    ]
    heads = [
        "judge",
        "right, %",
        "same in both orders, %",
        "kappa",
        "kappa, all classes",
        "first shown wins, %",
    ]
    heads += ["pairs", "unread"]
    how = "Right: over both orders. Kappa as LLMBar counts it, every answer but output 1 as one class."
    return Section("orders", "Both orders", grids=[Grid("swap", "Judges", heads, lines_, how, ("two_orders",))])


def table_rows(battles: Mapping[str, Any]) -> list[list[object]]:
    elo = {m["model"]: m for m in (battles["ratings"] or {}).get("models", ())}
    rows: list[list[object]] = []
    for r in battles["models"]:
        m = elo.get(r["model"], {})
        rows.append([*(r.get(c) for c in COLUMNS[:13]), m.get("elo"), m.get("low"), m.get("high")])
    if not rows:
        rows = [[m["model"], *[None] * 12, m["elo"], m["low"], m["high"]] for m in elo.values()]
    return rows
