"""The report as Markdown: the verdict and every table, to paste or to read without a browser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tastemaker.studies.report import tables
from tastemaker.studies.report.courses import courses_grid
from tastemaker.studies.report.diagnosis import diagnoses
from tastemaker.studies.report.grid import Grid, escaped, markdown_table, table_line
from tastemaker.studies.report.quality import (
    behaviour_grid,
    held_out_grid,
    parts_grid,
    power_grid,
    powers,
    quality_grid,
    stability_grid,
    wins_grid,
)
from tastemaker.studies.report.spending import article_grid, cost_grid, search_grid, stage_grid
from tastemaker.studies.report.words import verdict_text

PLUS_MINUS = (
    "± is 1.96 standard errors over prompts; brackets are 95% intervals over seeds and prompts, paired.\n"
)


def markdown(results: Mapping[str, Any]) -> str:
    """The verdict, the main table, then the rest in the order of the page."""
    heads = ["policy", *tables.columns(results)]
    parts = [
        f"**{escaped(verdict_text(results))}**\n",
        "\n".join(
            [
                table_line(heads),
                table_line(["---", *("---:" for _ in heads[1:])]),
                *(table_line(cells) for cells in tables.filled(results)),
                "",
                escaped(f"Judge: {results['judge']['name']}. {results['judge']['note']}"),
                PLUS_MINUS,
            ]
        ),
        bullets("What this study could find", [] if power_grid(results) else powers(results)),
        *(tables_of(power_grid(results), wins_grid(results), quality_grid(results), stability_grid(results))),
        stability_words(results),
        *(tables_of(cost_grid(results), stage_grid(results), search_grid(results))),
        *(diagnosis_words(each) for each in diagnoses(results)),
        *(
            tables_of(
                courses_grid(results), behaviour_grid(results), parts_grid(results), held_out_grid(results)
            )
        ),
        *(tables_of(article_grid(results))),
        bullets("Protocol", results["settings"]["protocol"]),
    ]
    return "\n".join(part for part in parts if part)


def tables_of(*grids: Grid | None) -> list[str]:
    return [markdown_table(grid) for grid in grids if grid is not None]


def bullets(heading: str, sentences: Any) -> str:
    lines = [f"- {escaped(str(s))}" for s in sentences]
    return "\n".join([f"### {heading}", "", *lines]) + "\n" if lines else ""


def stability_words(results: Mapping[str, Any]) -> str:
    text = (results.get("stability") or {}).get("text")
    return escaped(text) + "\n" if text else ""


def diagnosis_words(found: Mapping[str, Any]) -> str:
    lines = [
        f"- **{escaped(i['code'])}** ({escaped(i['severity'])}): {escaped(i['text'])}" for i in found["items"]
    ]
    said = [f"### Diagnosis: {escaped(found['name'])}", "", *lines]
    if found["summary"]:
        said.append(escaped(found["summary"]))
    return "\n".join(said).rstrip() + "\n"
