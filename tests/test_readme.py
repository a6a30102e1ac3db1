"""The README says what the committed study says."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_readme_quotes_the_committed_verdict():
    results = json.loads((ROOT / "docs/results/town/results.json").read_text())
    readme = " ".join((ROOT / "README.md").read_text().replace("*", "").split())
    headline, _, rest = results["verdict"]["text"].partition(". ")
    assert f"{headline}. {rest.partition('. ')[0]}" in readme
    assert (ROOT / "docs/results/town/figures/frontier.png").exists()


def test_committed_results_name_no_place_on_a_machine():
    for folder in (ROOT / "docs/results").iterdir():
        for file in folder.glob("results.*") if folder.is_dir() else ():
            text = file.read_text()
            assert "/home/" not in text, file
            assert "/root/" not in text, file
            assert str(ROOT) not in text, file
