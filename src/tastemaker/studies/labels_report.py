"""What a study of spoilt labels found: numbers, sentences, a table and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tastemaker.runs import plain
from tastemaker.runs.environment import versions
from tastemaker.runs.files import write_atomic
from tastemaker.studies.labels import LabelStudy
from tastemaker.studies.paired import Scores, as_dict, over_seeds, subtracted
from tastemaker.studies.report.drawing import picture, style
from tastemaker.studies.report.numbers import laid_out, strict
from tastemaker.studies.report.svg import LIGHT
from tastemaker.studies.written import above, below, counted, interval, listed, number, percent, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Runs = Mapping[str, Mapping[str, Any]]
SPOILT: Mapping[str, str] = {
    "flipped": "labels flipped at random",
    "longer": "labels that name the longer response",
}
MARKS = ("o", "s", "^", "D")


def findings(study: LabelStudy, seeds: Sequence[int], runs: Runs) -> dict[str, Any]:
    """`arms`: arm -> level -> gold, KL and length over seeds, and gold against the first arm at that level (95%
    interval, paired by seed and prompt); `falls`: what each arm lost from the first level to the last, and what
    it lost beside the first arm.
    """
    first, *_ = study.arms
    ends = (study.levels[0], study.levels[-1])
    arms: dict[str, Any] = {}
    falls: dict[str, Any] = {}
    for arm in study.arms:
        own = {level: gold(runs, arm.name, level, seeds) for level in study.levels}
        against = {level: gold(runs, first.name, level, seeds) for level in study.levels}
        arms[arm.name] = {
            f"{level:g}": {
                "gold": means(own[level]),
                "difference": None
                if arm is first
                else as_dict(over_seeds(subtracted(own[level], against[level]))),
                "kl": means(column(runs, arm.name, level, seeds, "kl")),
                "length": means(column(runs, arm.name, level, seeds, "length")),
            }
            for level in study.levels
        }
        fall, usual = (subtracted(g[ends[1]], g[ends[0]]) for g in (own, against))
        falls[arm.name] = {
            "gold": as_dict(over_seeds(fall)),
            "beside_first": None if arm is first else as_dict(over_seeds(subtracted(fall, usual))),
        }
    return {
        "study": study.name,
        "seeds": list(seeds),
        "levels": list(study.levels),
        "arms": arms,
        "falls": falls,
        "cpu_seconds": sum({r["run"]: r["cpu_seconds"] for r in runs.values()}.values()),
        "settings": plain(study),
        "versions": versions(),
    }


def column(runs: Runs, arm: str, level: float, seeds: Sequence[int], name: str) -> list[Tensor]:
    """[P] for every seed."""
    return [torch.tensor(runs[f"{arm}@{level}-{seed}"]["columns"][name], dtype=torch.float64) for seed in seeds]


def gold(runs: Runs, arm: str, level: float, seeds: Sequence[int]) -> list[Tensor]:
    return column(runs, arm, level, seeds, "score")


def means(values: Scores) -> dict[str, Any]:
    """The mean over seeds, and every seed's own."""
    each = [float(v.mean()) for v in values]
    return {"mean": sum(each) / len(each), "by_seed": each}


# ------------------------------------------------------------------------------------------- in words


def words(study: LabelStudy, found: Mapping[str, Any]) -> list[str]:
    """What the numbers say of every arm but the first, as they are."""
    first, *others = study.arms
    said: list[str] = []
    last = found["falls"][first.name]["gold"]
    span = f"from {percent(study.levels[0])} to {percent(study.levels[-1])} {SPOILT[study.spoiling]}"
    said.append(f"{title(first.name)} changes by {interval(last)} in gold reward {span}{certainty(last)}.")
    for arm in others:
        by_level = found["arms"][arm.name]
        better = [level for level in study.levels if above(by_level[f"{level:g}"]["difference"])]
        worse = [level for level in study.levels if below(by_level[f"{level:g}"]["difference"])]
        parts = [
            f"{word} at {listed([percent(level) for level in levels])}"
            for word, levels in (("above it", better), ("below it", worse))
            if levels
        ]
        beside = found["falls"][arm.name]["beside_first"]
        said.append(
            f"{title(arm.name)} is {listed(parts) if parts else 'not told apart from it at any level'}; its "
            f"change {span} differs from {title(first.name)}'s by {interval(beside)}{certainty(beside)}."
        )
    return said


def certainty(found: Mapping[str, Any]) -> str:
    return "" if above(found) or below(found) else ", which includes zero"


def markdown(study: LabelStudy, found: Mapping[str, Any]) -> str:
    """The page: what was done, what came of it, the table."""
    seeds = counted(len(found["seeds"]), "seed")
    first = study.arms[0]
    lines = [
        f"# {study.title}",
        "",
        f"On the [town](../../town.md): {study.pairs} pairs, {seeds}, {study.prompts} test prompts a seed, "
        f"judged by the gold reward. A share of {SPOILT[study.spoiling]}; the panel's own labels are the level "
        "0 and already err. One setting an arm, fixed beforehand: nothing was tuned, so an arm may do better "
        "at another. Losses that ask for the share of wrong labels are told it.",
        "",
        *([study.note, ""] if study.note else []),
        *(f"- {text}" for text in words(study, found)),
        "",
        f"| arm | level | gold | by seed | − {title(first.name)} [95%] | KL, nats | length, tokens |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for arm in study.arms:
        for level in study.levels:
            own = found["arms"][arm.name][f"{level:g}"]
            cells = [
                title(arm.name),
                percent(level),
                number(own["gold"]["mean"]),
                ", ".join(number(v) for v in own["gold"]["by_seed"]),
                interval(own["difference"]),
                number(own["kl"]["mean"]),
                number(own["length"]["mean"], 1),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"![Gold reward by level]({study.name}.svg)",
        "",
        "Intervals are at 95%, paired by seed and prompt, seeds the outer unit (Student's t); they are not "
        "corrected for the number of levels and arms. Settings and every number: "
        f"[{study.name}.json]({study.name}.json). The runs took {found['cpu_seconds'] / 60:.0f} CPU minutes.",
    ]
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------------------- the figure


def draw(axes: Axes, study: LabelStudy, found: Mapping[str, Any]) -> None:
    """One line an arm, every seed a pale mark, names beside the last level."""
    for i, arm in enumerate(study.arms):
        color, mark = LIGHT[f"arm{i % 6}"], MARKS[i % len(MARKS)]
        own = [found["arms"][arm.name][f"{level:g}"]["gold"] for level in study.levels]
        shift = (i - (len(study.arms) - 1) / 2) * 0.012 * (study.levels[-1] - study.levels[0])
        at = [level + shift for level in study.levels]
        axes.plot(at, [g["mean"] for g in own], mark + "-", color=color, markersize=7, label=title(arm.name))
        for x, each in zip(at, own, strict=True):
            axes.plot([x] * len(each["by_seed"]), each["by_seed"], mark, color=color, markersize=4, alpha=0.4)
    axes.set_xlabel(f"share of {SPOILT[study.spoiling]}")
    axes.set_title("gold reward", loc="left", fontsize=12, color=LIGHT["muted"], pad=10)
    axes.set_xticks(study.levels, [percent(level) for level in study.levels])
    axes.legend(frameon=False, fontsize=11, loc="best")


def write_study(folder: Path, study: LabelStudy, seeds: Sequence[int], runs: Runs) -> dict[str, Any]:
    """Writes NAME.json, NAME.md, NAME.svg and NAME.png into `folder`, and returns the numbers."""
    found: dict[str, Any] = strict(findings(study, seeds, runs))

    def onto(figure: Figure, narrow: bool) -> None:
        draw(figure.add_subplot(), study, found)

    with style():
        drawn = picture(study.name, study.title, " ".join(words(study, found)), onto, height=400, narrow=320)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{study.name}.json", laid_out(found).encode() + b"\n")
    write_atomic(folder / f"{study.name}.md", markdown(study, found).encode())
    write_atomic(folder / f"{study.name}.svg", drawn.svg.encode())
    write_atomic(folder / f"{study.name}.png", drawn.png)
    return found
