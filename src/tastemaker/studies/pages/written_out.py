"""The same page as Markdown: headline, sentences, and every section's words and tables."""

from __future__ import annotations

from tastemaker.studies.pages import Page
from tastemaker.studies.report.grid import escaped, markdown_table


def markdown(page: Page) -> str:
    """The page without its pictures."""
    facts = "; ".join(f"{name.lower()}: {said}" for name, said in page.facts)
    blocks = [f"# {escaped(page.title)}", f"**{escaped(page.headline)}.**", *map(escaped, page.sentences)]
    blocks += [escaped(facts) + "."] if facts else []
    for section in page.sections:
        blocks += [f"## {escaped(section.title)}", *map(escaped, section.text)]
        if section.list:
            blocks.append("\n".join(f"- {escaped(sentence)}" for sentence in section.list))
        blocks += [markdown_table(grid).rstrip() for grid in section.grids]
    return "\n\n".join(blocks) + "\n"
