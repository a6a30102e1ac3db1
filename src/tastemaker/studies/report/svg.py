"""matplotlib's SVG made fit for a page: colours follow the page's theme, text its fonts, ids stay apart."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

LIGHT: Mapping[str, str] = {
    "paper": "#fdfdfc",
    "ink": "#1c1e21",
    "muted": "#656a71",
    "rule": "#d9dbde",
    "arm0": "#0072b2",
    "arm1": "#c65102",
    "arm2": "#00815b",
    "arm3": "#a8508c",
    "arm4": "#806600",
    "arm5": "#4c4fa8",
}
"""Colours of the figures; each is told from the others also by who sees no red or green (Okabe and Ito)."""
DARK: Mapping[str, str] = {
    "paper": "#15171a",
    "ink": "#e8e9eb",
    "muted": "#9ba1a9",
    "rule": "#33373c",
    "arm0": "#5bb4e8",
    "arm1": "#f08a4b",
    "arm2": "#3fc79a",
    "arm3": "#dd8fc4",
    "arm4": "#d8bb4a",
    "arm5": "#9a9df0",
}
SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', sans-serif"


def for_file(svg: str) -> str:
    """A picture of its own, in the light colours."""
    return fonts(svg, SANS)


def inline(svg: str, prefix: str, label: str) -> str:
    """For inside HTML: no prologue, no metadata, ids under `prefix`, colours as `var(--name)`.

    `label` says in words what is seen; it is escaped here.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    viewbox = re.search(r'viewBox="([^"]+)"', svg)
    assert viewbox is not None
    opening = f'<svg viewBox="{viewbox[1]}" role="img" aria-label="{html.escape(label)}">'
    svg = opening + svg[svg.index(">") + 1 :]
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'((?:href="|url\()#)', rf"\g<1>{prefix}-", svg)
    names = {colour: name for name, colour in LIGHT.items()}
    svg = re.sub(r"#[0-9a-f]{6}\b", lambda m: f"var(--{names[m[0]]})" if m[0] in names else m[0], svg)
    return fonts(svg, "var(--sans)")


def fonts(svg: str, family: str) -> str:
    """Sizes and weights as laid out, families the reader's own."""
    svg = re.sub(r"(font: [^;\"]*?\d+(?:\.\d+)?px) [^;\"]+", rf"\1 {family}", svg)
    return re.sub(r"font-family: [^;\"]+", f"font-family: {family}", svg)
