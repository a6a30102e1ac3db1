"""The main table: one row per policy, the same cells on the page, in Markdown and in the terminal.

And the frontier as CSV.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tastemaker.studies.report.numbers import (
    ABSENT,
    arm_title,
    entry,
    flops,
    half,
    interval,
    largest_best_of_n,
    mean,
    megabytes,
    number,
    percent,
    score_digits,
    seconds,
    with_half,
)

if TYPE_CHECKING:
    from rich.table import Table

FRONTIER = (
    *("arm", "label", "seed", "chosen"),
    *("kl", "kl_se", "score", "score_se", "proxy", "proxy_se"),
    *("length", "ended", "entropy", "repetition", "diversity", "flops", "cpu_seconds"),
)
"""Columns of results.csv."""
RATES: Mapping[str, str] = {"harm": "harm", "over_refusal": "over-refusal", "sycophancy": "sycophancy"}
"""Behaviours in the main table, where the world has them."""


COSTS = ("phases", "model copies", "peak memory", "CPU time", "FLOPs")
"""Of the main table; the page has them in a table of their own."""


@dataclass(frozen=True)
class Row:
    """A policy: its name and its cells by column."""

    name: str
    arm: str | None
    cells: Mapping[str, str]


def score_word(results: Mapping[str, Any]) -> str:
    return "gold" if results["judge"]["kind"] == "gold" else "proxy score"


def columns(results: Mapping[str, Any]) -> list[str]:
    """Heads of the main table after the policy's name."""
    rates = [word for key, word in RATES.items() if key in results["judge"].get("rates", {})]
    return [
        f"{score_word(results)}, sampled",
        f"{score_word(results)}, greedy",
        "difference to SFT greedy",
        "KL, nats",
        "length, tokens",
        *rates,
        *COSTS,
    ]


def rows(results: Mapping[str, Any]) -> list[Row]:
    """SFT sampled, SFT greedy, best-of-n, then every arm."""
    sft, digits = results["baselines"]["sft"], score_digits(results)
    sampled, greedy = columns(results)[:2]
    found = [
        Row("SFT sampled", None, {**reading(results, sft, "sampled"), greedy: ABSENT, "phases": "1"}),
        Row(
            "SFT greedy",
            None,
            {
                **reading(results, sft, "greedy"),
                sampled: ABSENT,
                "difference to SFT greedy": "reference",
                "phases": "1",
            },
        ),
    ]
    best = largest_best_of_n(results)
    if best is not None:
        cells = {
            sampled: with_half(best["score"], half(best), digits),
            "KL, nats": number(best["kl"]),
            "phases": "2",
        }
        found.append(Row(f"SFT best of {number(best['n'], 0)}", None, cells))
    for name, arm in results["arms"].items():
        found.append(Row(arm_title(name, arm), name, arm_cells(results, arm)))
    return found


def reading(results: Mapping[str, Any], policy: Mapping[str, Any], how: str) -> dict[str, str]:
    """Cells of a policy read `how`; both scores, the rest as read."""
    digits = score_digits(results)
    sampled, greedy = columns(results)[:2]
    cells = {
        name: with_half(mean(policy, each, "score"), half(entry(policy, each, "score")), digits)
        for name, each in ((sampled, "sampled"), (greedy, "greedy"))
    }
    cells["KL, nats"] = number(mean(policy, how, "kl"))
    cells["length, tokens"] = number(mean(policy, how, "length"), 1)
    cells |= {word: percent(mean(policy, how, f"parts/{key}")) for key, word in RATES.items()}
    return cells


def arm_cells(results: Mapping[str, Any], arm: Mapping[str, Any]) -> dict[str, str]:
    cost = arm["cost"]
    return {
        **reading(results, arm, "sampled"),
        "difference to SFT greedy": interval(arm["difference"].get("sft_greedy"), score_digits(results)),
        "phases": number(cost["phases"], 0),
        "model copies": number(cost["model_copies"], 0),
        "peak memory": megabytes(cost["peak_rss_bytes"]),
        "CPU time": seconds(cost["cpu_seconds"]),
        "FLOPs": flops(cost.get("flops")),
    }


def filled(results: Mapping[str, Any]) -> list[list[str]]:
    """Name and cells of every row, in the order of `columns`."""
    heads = columns(results)
    return [[row.name, *(row.cells.get(head, ABSENT) for head in heads)] for row in rows(results)]


def summary_table(results: Mapping[str, Any]) -> Table:
    """The main table for the terminal: a column for each policy, since terminals are narrow."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    policies = filled(results)
    # Text, since names of models and settings may hold what rich takes for markup.
    table.add_column("")
    for policy in policies:
        table.add_column(Text(policy[0]), justify="right")
    for i, head in enumerate(columns(results), start=1):
        table.add_row(Text(head), *(Text(policy[i]) for policy in policies))
    return table


def frontier_csv(results: Mapping[str, Any]) -> str:
    """One line for every arm, setting and seed, as in `frontier` of results.json; unknown is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FRONTIER, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(results["frontier"])
    return out.getvalue()
