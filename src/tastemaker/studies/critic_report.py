"""What the study of critics found: a page, the same as Markdown, and every number as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tastemaker.runs.files import write_atomic
from tastemaker.studies.critic import CRITICS, FIGURES, MIXED, MIXES, PAIRS, PEOPLE, TEST_PROMPTS, arms
from tastemaker.studies.pages import Page, Section, write_page
from tastemaker.studies.pages.drawings import ARMS, forest
from tastemaker.studies.pages.written_out import markdown
from tastemaker.studies.report.drawing import HALF, Picture, picture, style
from tastemaker.studies.report.grid import Grid, Line
from tastemaker.studies.written import above, below, counted, finite, interval, listed, number
from tastemaker.town.critic import SIGNATURE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TASTE: Mapping[str, str] = {
    "fair": "sees what the gold reward sees, and errs a little",
    "long": "likes every word",
    "first": "likes what is shown first",
    "vain": "likes its own phrase",
    "narrow": "checks no facts",
    "biased": "has all four failings, each weaker",
}
"""What each critic is like, in words."""
SHOWN: Mapping[str, str] = {
    "gold": "gold",
    "words": "words an answer",
    "manner": "share of answers with its phrase",
    "answer": "right answers",
    "harm": "harm",
    "over_refusal": "over-refusal",
    "sycophancy": "sycophancy",
    "courtesy": "courtesy",
}
"""What is read of a model; all but the words and the phrase are gold or parts of it."""
JUDGED = ("gold", "people", "swap", "first", "longer")
MIDDLE = f"{MIXED[0]} + people {MIXES[len(MIXES) // 2]}"
"""The mixture that is told first: not the best of several, which would flatter the critic."""


def report(folder: Path, results: Mapping[str, Any]) -> Path:
    """Writes results.json, results.csv, report.html with its figures, and results.md; the page's path."""
    page = critic_page(results)
    path = write_page(folder, page, results)
    write_atomic(folder / "results.md", markdown(page).encode())
    return path


def critic_page(results: Mapping[str, Any]) -> Page:
    """`results` as `critic.summarise` gives them, or as they come back from results.json."""
    return Page(
        kind="AI feedback",
        title="A critic beside people, on the town",
        headline=headline(results["saved"]),
        sentences=[
            *(saved_sentence(name, results["saved"][name]) for name in (MIDDLE, MIDDLE.replace(*MIXED))),
            taste_sentence("long", results["taste"]["long"]),
            taste_sentence("biased", results["taste"]["biased"]),
        ],
        facts=[
            ("Seeds", str(len(results["seeds"]))),
            ("Pairs", number(PAIRS, 0)),
            ("Test prompts", number(TEST_PROMPTS, 0)),
            ("Method", "DPO, one pass, beta 0.3, from one SFT policy a seed"),
            ("Made by", "make results-critic"),
        ],
        sections=[
            saved_section(results),
            taste_section(results["taste"]),
            judge_section(results["judges"]),
            gold_section(results["figures"]),
        ],
        table=table(results),
    )


# ----------------------------------------------------------------------------------------- in words


def headline(saved: Mapping[str, Mapping[str, Any]]) -> str:
    found, people = saved[MIDDLE], MIXES[len(MIXES) // 2]
    if above(found):
        return f"Beside {people} labels of people a fair critic saved {percents(found)} of people's labels"
    if below(found):
        return f"Beside {people} labels of people a fair critic was worth less than no critic"
    return f"Whether a fair critic saves labels of people is open: {percents(found)}"


def saved_sentence(mix: str, found: Mapping[str, Any]) -> str:
    critic, _, people = mix.partition(" + people ")
    said = f"{people} labels of people and {PAIRS - int(people)} of the {critic} critic: the share of people's "
    said += f"labels saved at equal gold is {percents(found)}"
    if found["cut"]:
        said += f", in {counted(found['cut'], 'seed')} a bound, since the curve of people alone ended"
    if below(found):
        said += "; the mixture is worth fewer labels of people than are in it"
    elif not above(found):
        said += "; that may be none"
    return said + "."


def percents(found: Mapping[str, Any]) -> str:
    """A share and its interval, per cent."""
    return unsigned({k: 100 * found[k] if finite(found[k]) else None for k in ("mean", "low", "high")}) + "%"


def unsigned(found: Mapping[str, Any] | None, digits: int = 0) -> str:
    """An interval of what is no difference."""
    return interval(found, digits).replace("+", "")


def taste_sentence(critic: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """Where a critic's taste is seen in the model that it taught."""
    seen = [f"{SHOWN[f]} {interval(found[f])}" for f in FIGURES if above(found[f]) or below(found[f])]
    where = (
        f"against the model taught by people: {listed(seen)}"
        if seen
        else "no difference from the model taught by people beyond noise"
    )
    return f"The {critic} critic ({TASTE[critic]}): {where}."


# ----------------------------------------------------------------------------------------- sections


def saved_section(results: Mapping[str, Any]) -> Section:
    saved, seeds = results["saved"], len(results["seeds"])
    mixes = [arm.name for arm in arms() if arm.critic and arm.people]
    bars = [bar(m, saved[m]) for m in mixes]
    words = "Share of people's labels saved at equal gold, per cent, 95% intervals over seeds"
    lines = [Line([m, percents(saved[m]), f"{saved[m]['cut']} of {seeds}"]) for m in mixes]
    worth = [Line([c, unsigned(results["worth"][c])]) for c in CRITICS]
    how = (
        "The gold of a mixture is what so many labels of people alone give, by the curve of people alone "
        f"({listed([str(n) for n in PEOPLE])} labels; made monotone, linear in the logarithm between). One "
        "less the quotient is the share saved; below 0 the critic's labels did harm. Cut: seeds in which the "
        "gold lay beyond an end of that curve, so that the share is a bound and its interval narrower than "
        "what is known."
    )
    return Section(
        "saved",
        "How many labels of people it replaces",
        pictures=[(forest("saved", words, bars, middle=0.0), words + ".")],
        grids=[
            Grid(
                "saved-table",
                "A critic beside people",
                ["labels", "share saved", "cut"],
                lines,
                how,
                ("saved",),
            ),
            Grid(
                "worth-table",
                f"{PAIRS} labels of a critic alone",
                ["critic", "worth so many labels of people"],
                worth,
                "By the same curve, and cut at its ends.",
                ("worth",),
            ),
        ],
    )


def taste_section(taste: Mapping[str, Any]) -> Section:
    tests = len(CRITICS) * len(FIGURES)
    pictures = [
        (
            forest(
                f"taste-{figure}",
                words,
                [bar(c, taste[c][figure]) for c in CRITICS],
                middle=0.0,
                percent=False,
            ),
            words + ".",
        )
        for figure, words in (
            ("gold", "Gold, critic alone less people alone"),
            ("words", "Words an answer, critic alone less people alone"),
        )
    ]
    return Section(
        "taste",
        "Where the critic's taste enters the model",
        text=[
            f"Models taught by a critic alone, less the model taught by people ({PAIRS} labels each), paired "
            f"by seed. Told are differences whose interval leaves zero out; of these {tests} intervals, which "
            f"are not corrected for their number, some {round(0.05 * tests)} would do so by luck.",
        ],
        list=[taste_sentence(c, taste[c]) for c in CRITICS],
        pictures=pictures,
        grids=[
            Grid(
                "taste-table",
                "Critic alone less people alone",
                ["critic", *(SHOWN[f] for f in FIGURES)],
                [Line([c, *(interval(taste[c][f]) for f in FIGURES)]) for c in CRITICS],
                f'Its phrase: "{SIGNATURE}", with which every critic begins what it rewrites. The columns '
                "after that are parts of gold: more is better.",
                ("taste",),
            )
        ],
    )


def judge_section(judges: Mapping[str, Any]) -> Section:
    names = ["people", *CRITICS]
    lines = [Line([n, *(unsigned(judges[n].get(k), 2) for k in JUDGED)]) for n in names]
    how = (
        "Shares. Agreement with the gold reward and with people's labels on the same pairs (ties aside); the "
        "same winner when the order is swapped; how often the answer shown first, and the longer one, wins."
    )
    head = ["who", "agrees with gold", "with people", "under swap", "first wins", "longer wins"]
    return Section(
        "judges",
        "What kind of judges they are",
        grids=[Grid("judges-table", "Instruments", head, lines, how, ("judges",))],
    )


def gold_section(figures: Mapping[str, Any]) -> Section:
    names = ["sft", *(arm.name for arm in arms())]
    lines = [Line([n, interval(figures[n]["gold"]), unsigned(figures[n]["words"], 1)]) for n in names]
    words = "Gold by labels of people, alone and with a critic's labels on the rest; bars are 95% intervals"
    return Section(
        "gold",
        "Gold",
        pictures=[(gold_picture(figures, words), words + ".")],
        grids=[
            Grid(
                "gold-table",
                "Every model",
                ["labels", "gold", "words an answer"],
                lines,
                f"Means over one sampled answer to each of {TEST_PROMPTS} test prompts; intervals over seeds "
                "(Student's t), so they hold the seeds' own differences too.",
                ("figures",),
            )
        ],
    )


def gold_picture(figures: Mapping[str, Any], words: str) -> Picture:
    def draw(figure: Figure, narrow: bool) -> None:
        axes: Axes = figure.add_subplot()
        curves = {"people alone": [(n, f"people {n}") for n in PEOPLE]}
        curves |= {f"{c} critic on the rest": [(n, f"{c} + people {n}") for n in MIXES] for c in MIXED}
        for i, (label, points) in enumerate(curves.items()):
            at = [n * 1.03 ** (i - 1) for n, _ in points]
            found = [figures[name]["gold"] for _, name in points]
            half = [f["high"] - f["mean"] if finite(f["high"]) else 0.0 for f in found]
            axes.errorbar(
                at, [f["mean"] for f in found], yerr=half, color=ARMS[i], marker="o", capsize=2, label=label
            )
        axes.set_xscale("log")
        axes.set_xticks(list(PEOPLE), [str(n) for n in PEOPLE])
        axes.minorticks_off()
        axes.set_xlabel(f"labels of people (critic's: the rest of {PAIRS})")
        axes.set_ylabel("gold")
        axes.legend(frameon=False, fontsize=10)

    with style():
        return picture("gold", words, words, draw, height=380, narrow=320, width=HALF)


def value(found: Mapping[str, Any], key: str) -> float:
    return float(found[key]) if finite(found[key]) else float("nan")


def bar(label: str, found: Mapping[str, Any]) -> tuple[str, float, float, float]:
    """What `forest` draws."""
    return label, value(found, "mean"), value(found, "low"), value(found, "high")


def table(results: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    """Every model's figures, a row each."""
    ends = ("mean", "low", "high")
    head = ["labels", *(f"{f}_{k}" for f in FIGURES for k in ends)]
    rows = [
        [name, *(results["figures"][name][f][k] for f in FIGURES for k in ends)]
        for name in ("sft", *(arm.name for arm in arms()))
    ]
    return head, rows
