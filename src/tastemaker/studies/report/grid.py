"""A table of the report, apart from how it is shown: the page and the Markdown file draw the same cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tastemaker.studies.report.numbers import arm_title, title

COLOURS = 6
"""Arms beyond so many share colours."""


@dataclass(frozen=True)
class Line:
    """A row: its first cell is its name."""

    cells: Sequence[str]
    arm: int | None = None
    """The colour number of the arm that the row is about."""
    note: str = ""
    """Said small under the name."""


@dataclass(frozen=True)
class Grid:
    """A table with what a reader needs beside it."""

    name: str
    """Its anchor on the page."""
    caption: str
    head: Sequence[str]
    lines: Sequence[Line]
    how: str
    """How to read it, in a sentence or two."""
    source: Sequence[str]
    """Keys of results.json that its numbers come from."""
    groups: Sequence[tuple[str, int, int | None]] = ()
    """Headings over the columns after the first: text, how many columns, colour number of the arm."""
    prose: bool = False
    """Cells are sentences: aligned left and broken over lines."""


def places(results: Mapping[str, Any]) -> dict[str, int]:
    """Every arm's colour number."""
    return {name: i % COLOURS for i, name in enumerate(results["arms"])}


def policies(results: Mapping[str, Any]) -> list[tuple[str, int | None, Mapping[str, Any]]]:
    """SFT and every arm at its chosen setting: name, colour number, readings."""
    at = places(results)
    return [
        (title("sft"), None, results["baselines"]["sft"]),
        *((arm_title(name, arm), at[name], arm) for name, arm in results["arms"].items()),
    ]


def markdown_table(grid: Grid) -> str:
    """The grid in GitHub's Markdown, with its caption, how to read it and its source."""
    head = list(grid.head)
    if grid.groups:
        over = [text for text, columns, _ in grid.groups for _ in range(columns)]
        head = [head[0], *(f"{above} {below}" for above, below in zip(over, head[1:], strict=True))]
    side = "---" if grid.prose else "---:"
    lines = [
        f"### {escaped(grid.caption)}",
        "",
        table_line(head),
        table_line(["---", *(side for _ in head[1:])]),
        *(table_line(line.cells) for line in grid.lines),
        "",
        escaped(grid.how) + " In results.json: " + ", ".join(f"`{key}`" for key in grid.source) + ".",
    ]
    return "\n".join(lines) + "\n"


def table_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(escaped(cell) for cell in cells) + " |"


def escaped(text: str) -> str:
    """Text that stays text in Markdown, also between a table's bars."""
    for mark, instead in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("\n", " ")):
        text = text.replace(mark, instead)
    return text
