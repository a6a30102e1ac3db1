"""Pages of one finding or many, in the design of the comparison's report: text, tables and figures in sections.

`results.json` holds every number and the page is a view of it. One file each, self-contained.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tastemaker.runs.files import write_atomic
from tastemaker.studies.report.grid import Grid
from tastemaker.studies.report.numbers import laid_out
from tastemaker.studies.report.svg import DARK, LIGHT, SANS

if TYPE_CHECKING:
    from tastemaker.studies.report.drawing import Picture


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it, in this order."""

    name: str
    """Its anchor."""
    title: str
    text: Sequence[str] = ()
    pictures: Sequence[tuple[Picture, str]] = ()
    """Each with its caption."""
    grids: Sequence[Grid] = ()
    list: Sequence[str] = ()
    """Sentences as bullets."""
    beside: bool = False
    """Pictures stand beside each other where there is room."""


@dataclass(frozen=True)
class Page:
    """What a page shows."""

    kind: str
    """What stands small above everything, e.g. "evaluation"."""
    title: str
    headline: str
    sentences: Sequence[str]
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    warning: str = ""
    """Said in a frame under the facts: whose word this is."""
    footer: str = "Every number on this page is in results.json beside it."
    table: tuple[Sequence[str], Sequence[Sequence[object]]] = field(default_factory=lambda: ((), ()))
    """(columns, rows) of results.csv."""


def write_page(folder: Path, page: Page, results: Mapping[str, Any]) -> Path:
    """Writes results.json, results.csv (where there is a table), figures/*.svg|png and report.html; returns the
    page's path. NaN and infinities become null. Raises TastemakerError where the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "results.json", laid_out(exact(results)).encode("utf-8", "backslashreplace") + b"\n")
    if page.table[0]:
        write_atomic(folder / "results.csv", _csv(*page.table).encode("utf-8", "backslashreplace"))
    pictures = [picture for section in page.sections for picture, _ in section.pictures]
    if pictures:
        (folder / "figures").mkdir(exist_ok=True)
    for picture in pictures:
        write_atomic(folder / "figures" / f"{picture.name}.svg", picture.svg.encode())
        write_atomic(folder / "figures" / f"{picture.name}.png", picture.png)
    write_atomic(folder / "report.html", render(page).encode("utf-8", "backslashreplace"))
    return folder / "report.html"


def render(page: Page) -> str:
    """The whole page; everything in it is text, never markup, but the figures this package drew."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("tastemaker.studies.pages", "."), PackageLoader("tastemaker.studies.report", ".")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Path(__file__).parent.parent / "report" / "style.css"
    figures = {
        picture.name: {"wide": Markup(picture.inline), "narrow": Markup(picture.narrow or picture.inline)}
        for section in page.sections
        for picture, _ in section.pictures
    }
    bound = replace(page, headline=unparted(page.headline), sentences=[unparted(s) for s in page.sentences])
    return environment.get_template("plain.html.j2").render(
        page=bound,
        light=LIGHT,
        dark=DARK,
        sans=Markup(SANS),
        style=Markup(style.read_text("utf-8")),
        figures=figures,
    )


def unparted(text: str) -> str:
    """A number and its per cent sign stay on one line."""
    return text.replace(" %", "\u00a0%")


def exact(value: Any) -> Any:
    """`value` as strict JSON holds it, every digit kept: numbers that are not finite become None, keys text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): exact(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [exact(v) for v in value]
    return value


def _csv(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if cell is None or cell != cell else cell for cell in row] for row in rows])
    return out.getvalue()
