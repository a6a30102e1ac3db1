"""What the pages of online rounds show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tastemaker.studies.pages import Page, Section
from tastemaker.studies.pages.drawings import forest
from tastemaker.studies.report.grid import Grid, Line
from tastemaker.studies.written import ABSENT, counted, finite, number

if TYPE_CHECKING:
    from tastemaker.studies.report.drawing import Picture

ROLES: Mapping[str, str] = {
    "start": "first policy",
    "before": "policy before the round",
    "after": "policy after the round",
}
FIGURES: Mapping[str, str] = {"score": "score", "reward": "reward", "kl": "KL, nats", "tokens": "tokens"}
PROXY = "A proxy for what people want: what it overlooks is overlooked here."
NO_JUDGE = (
    "Nobody says whose answers are better: report.judge or report.reward in the recipe would. What is known is "
    "how far the policy moved and how it was labelled."
)


# ------------------------------------------------------------------------------------------ one round


def round_page(found: Mapping[str, Any]) -> Page:
    """The page of one round."""
    sections = [
        policy_section(found),
        label_section(found["labels"], found["learned_from"]),
        cost_section(found["costs"]),
        sample_section(found["samples"]),
        lineage_section(found["lineage"]),
    ]
    return Page(
        kind="online round",
        title=f"Round {found['round']}",
        headline=headline(found),
        sentences=[how_it_learns(found["settings"])],
        facts=[
            ("Policy", f"{found['policy']['name']} {str(found['policy']['weights'])[:12]}"),
            ("Responses by", f"{found['sampler']['name']} {str(found['sampler']['weights'])[:12]}"),
            ("New labels", number(found["labels"]["labels"], 0)),
            ("Learned from", counted(found["learned_from"], "label")),
            ("Read on", f"{found['prompts']} prompts, {found['test']}"),
            ("Judged by", found["judge"] or "nobody"),
        ],
        sections=sections,
        warning=warning(found["judge"]),
        table=csv_table([found]),
    )


def headline(found: Mapping[str, Any]) -> str:
    """The win rates in a sentence; without a judge the distance."""
    kl = number(found["policies"]["after"]["kl"]["mean"])
    wins = found["wins"]
    if wins["before"] is None:
        return f"Round {found['round']} is {kl} nats from the first policy"
    parts = [f"{rate(wins['before'])} against the policy before it"]
    if found["round"] > 1:
        parts.append(f"{rate(wins['start'])} against the first")
    return f"Round {found['round']} wins {' and '.join(parts)}, at {kl} nats from the first"


def how_it_learns(settings: Mapping[str, Any]) -> str:
    labels = "all labels so far" if settings["learn_from"] == "all" else "the labels of the round alone"
    held = "the first policy" if settings["reference"] == "first" else "the policy before it"
    afresh = settings["learn_from"] == "all" and settings["reference"] == "first"
    begins = "begins at the first policy again" if afresh else "goes on from the policy before it"
    prompts = "the same prompts" if settings["same_prompts"] else "prompts that no other round asks"
    return (
        f"Every round asks {settings['prompts_per_round']} prompts, {prompts}; it learns from {labels}, "
        f"{begins} and is held to {held}."
    )


def warning(judge: str) -> str:
    if not judge:
        return NO_JUDGE
    return "" if "gold" in judge else f"Judged by {judge}. {PROXY}"


def policy_section(found: Mapping[str, Any]) -> Section:
    policies = found["policies"]
    columns = [k for k in FIGURES if k in policies["after"]]
    names = [n for n in ROLES if not (n == "before" and found["round"] == 1)]
    lines = [Line([ROLES[n], *(mean(policies[n][k]) for k in columns)]) for n in names]
    heads = ["", *(figure(k, found["judge"]) for k in columns)]
    how = (
        "Means with 95% intervals over prompts, one sampled answer to each. KL: from the first policy, "
        "estimated on the answers themselves."
    )
    if "reward" in columns:
        how += " Reward: by the round's own reward model, which the policy was trained against."
    grid = Grid("policies-table", "Policies on held-out prompts", heads, lines, how, ("policies",))
    pictures = []
    bars = [
        (f"against the {ROLES[k] if k == 'start' else 'policy before'}", w["mean"], w["low"], w["high"])
        for k, w in found["wins"].items()
        if w is not None and not (k == "before" and found["round"] == 1)
    ]
    if bars:
        words = "Win rate of the policy after the round, ties as halves"
        pictures = [(forest("wins", words, bars, middle=0.5), words + "; 95% intervals over prompts.")]
    return Section("policies", "What changed", pictures=pictures, grids=[grid])


def label_section(labels: Mapping[str, Any], learned_from: int) -> Section:
    agreed = labels["agreement"]
    rows = [
        ("labels of this round", number(labels["labels"], 0)),
        ("ties among them", number(labels["ties"], 0)),
        ("learned from, in all", number(learned_from, 0)),
        ("agree with the town's gold", percent(labels["gold"])),
        ("agree with each other", valued(agreed["raw"]) if agreed["items"] else "every item has one label"),
        ("Krippendorff's alpha", valued(agreed["alpha"])),
        ("preferred what was shown first", percent(labels["first_shown"])),
        ("preferred the longer one", percent(labels["longer"])),
    ]
    whose = [(who, number(n, 0)) for who, n in labels["by"].items()]
    how = "Shares are of labels that prefer one of two responses, with 95% intervals."
    grids = [Grid("labels-table", "The labels", ["", ""], lines_of(rows), how, ("labels",))]
    grids.append(Grid("annotators-table", "By whom", ["who", "labels"], lines_of(whose), "", ("labels",)))
    return Section("labels", "Labels", grids=grids)


def cost_section(costs: Sequence[Mapping[str, Any]]) -> Section:
    lines = [
        Line(
            [
                f"{c['stage']} ({c['method']})",
                number(c.get("wall_seconds"), 1),
                number(c.get("cpu_seconds"), 1),
                f"{c['flops']:.2e}" if c.get("flops") else ABSENT,
                number(c.get("asked"), 0),
                number(c.get("cost"), 4),
                number(c.get("people_seconds"), 0),
            ]
        )
        for c in costs
    ]
    heads = ["stage", "wall, s", "CPU, s", "FLOPs", "judge asked", "its price", "people, s"]
    how = (
        "Of a stage that makes something: of its last start alone. FLOPs are counted in trainings. People's "
        "seconds are those from being shown a pair to answering."
    )
    return Section(
        "cost", "Cost", grids=[Grid("cost-table", "What the round took", heads, lines, how, ("costs",))]
    )


def sample_section(samples: Sequence[Mapping[str, Any]]) -> Section:
    names = [n for n in ROLES if n in samples[0]["answers"]]
    lines = [Line([s["prompt"], *(s["answers"][n] for n in names)]) for s in samples]
    heads = ["prompt", *(ROLES[n] for n in names)]
    how = "Taken at equal distances, not chosen."
    grid = Grid("samples-table", "Answers as they came", heads, lines, how, ("samples",), prose=True)
    return Section("samples", "Some answers", grids=[grid])


def lineage_section(tree: Sequence[str]) -> Section:
    """The policy down to the labels and who wrote what was labelled."""
    lines = [Line([line.replace("   ", "\u2003")]) for line in tree]
    how = "Policy, reward model, labels, and the policies whose responses were labelled, with their hashes."
    grid = Grid("lineage-table", "What went into the policy", [""], lines, how, ("lineage",), prose=True)
    return Section("lineage", "Where it came from", grids=[grid])


# ---------------------------------------------------------------------------------------- all rounds


def summary_page(results: Mapping[str, Any]) -> Page:
    """The page over all rounds so far."""
    rounds = results["rounds"]
    last = rounds[-1]
    course = [
        ("first policy", rounds[0]["policies"]["start"]),
        *((f"round {r['round']}", r["policies"]["after"]) for r in rounds),
    ]
    columns = [k for k in ("score", "kl", "tokens") if k in course[0][1]]
    lines = [
        Line([name, *(mean(read[k]) for k in columns), *(wins_of(rounds[i - 1]) if i else [ABSENT] * 4)])
        for i, (name, read) in enumerate(course)
    ]
    heads = [
        "after",
        *(FIGURES[k] for k in columns),
        "wins against before",
        "against first",
        "new labels",
        "CPU, s",
    ]
    how = "Means with 95% intervals over prompts. The pages of single rounds lie in reports/round-N."
    grid = Grid("rounds-table", "Rounds", heads, lines, how, ("rounds",))
    pictures = [
        picture_of(course, key, figure(key, results["judge"])) for key in ("score", "kl") if key in columns
    ]
    labels = sum(r["labels"]["labels"] for r in rounds)
    return Page(
        kind="online rounds",
        title=f"{counted(len(rounds), 'round')} of {results['settings']['rounds']}",
        headline=headline(last),
        sentences=[how_it_learns(results["settings"])],
        facts=[
            ("Policy", f"{last['policy']['name']} {str(last['policy']['weights'])[:12]}"),
            ("Labels", number(labels, 0)),
            ("Read on", f"{results['prompts']} prompts, {results['test']}"),
            ("Judged by", results["judge"] or "nobody"),
        ],
        sections=[
            Section("rounds", "Round by round", pictures=pictures, grids=[grid]),
            lineage_section(last["lineage"]),
        ],
        warning=warning(results["judge"]),
        table=csv_table(rounds),
    )


def picture_of(course: Sequence[tuple[str, Mapping[str, Any]]], key: str, called: str) -> tuple[Picture, str]:
    bars = [(name, read[key]["mean"], read[key]["low"], read[key]["high"]) for name, read in course]
    words = f"{called[0].upper()}{called[1:]} after every round, with 95% intervals over prompts"
    picture = forest(f"{key}-by-round", words, bars, middle=bars[0][1], percent=False)
    return picture, f"{words}; the line is at the first policy."


def wins_of(found: Mapping[str, Any]) -> list[str]:
    wins = found["wins"]
    cpu = sum(c.get("cpu_seconds") or 0 for c in found["costs"])
    return [rate(wins["before"]), rate(wins["start"]), number(found["labels"]["labels"], 0), number(cpu, 0)]


def csv_table(rounds: Sequence[Mapping[str, Any]]) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    """A row a round."""
    names = [k for k in FIGURES if k in rounds[0]["policies"]["after"]]
    heads = ["round", "labels", "learned_from", *names, "win_before", "win_start"]
    rows: list[list[object]] = []
    for r in rounds:
        after, wins = r["policies"]["after"], r["wins"]
        means = [after[k]["mean"] for k in names]
        won = [None if wins[k] is None else wins[k]["mean"] for k in ("before", "start")]
        rows.append([r["round"], r["labels"]["labels"], r["learned_from"], *means, *won])
    return heads, rows


# -------------------------------------------------------------------------------------------- cells


def figure(key: str, judge: str) -> str:
    """What a figure is called."""
    return "gold" if key == "score" and "gold" in judge else FIGURES[key]


def lines_of(rows: Sequence[tuple[str, str]]) -> list[Line]:
    return [Line(list(row)) for row in rows]


def mean(found: Mapping[str, Any]) -> str:
    return spanned(found, 2, 1)


def rate(found: Mapping[str, Any] | None) -> str:
    """A win rate in per cent."""
    return ABSENT if found is None else f"{spanned(found, 0, 100)} %"


def percent(found: Mapping[str, Any] | None) -> str:
    return ABSENT if found is None else f"{spanned(found, 0, 100)} % of {number(found['n'], 0)}"


def valued(found: Mapping[str, Any] | None) -> str:
    return ABSENT if found is None else spanned({**found, "mean": found["value"]}, 2, 1)


def spanned(found: Mapping[str, Any], digits: int, times: float) -> str:
    if not finite(found["mean"]):
        return ABSENT
    low, high = (number(times * found[k], digits) for k in ("low", "high"))
    return f"{number(times * found['mean'], digits)} [{low}, {high}]"
