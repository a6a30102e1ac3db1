"""The page of a run that kept a gold's peak: paired arithmetic, both curves, nothing claimed of the choice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tastemaker.runs import Run
from tastemaker.studies.pages.gold_peak import paired, write_peak_page

VALUES = {0: [0.0, 1.0, 0.0, 1.0], 2: [1.0, 1.0, 1.0, 1.0], 4: [1.0, 0.0, 1.0, None]}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run.create(tmp_path / "dpo", method="dpo", settings={}, seed=0)
    for step in range(1, 5):
        made.log_metrics(step, {"loss": 0.5, "rewards/margins": 0.1 * step})
    made.log_metrics(4, {"eval_loss": 0.4})  # as held-out data leave it at the end
    readings: list[dict[str, Any]] = []
    for step, values in VALUES.items():
        known = [v for v in values if v is not None]
        readings.append({"step": step, "gold": sum(known) / len(known), "gold_se": 0.1, "values": values})
    content = {"gold": "labels", "prompts": "held.jsonl", "peak": 2, "patience": 0, "readings": readings}
    (made.folder / "gold.json").write_text(json.dumps(content))
    made.update(status="finished", reason="kept the policy of step 2")
    return made


def test_differences_are_of_the_same_prompts(run: Run):
    page = write_peak_page(run)
    found = json.loads((page.parent / "results.json").read_text())
    last = found["readings"][-1]
    assert last["since_peak"] == pytest.approx(-1 / 3) and last["since_start"] == pytest.approx(1 / 3)
    assert paired([1.0, 0.0, 2.0], [0.0, 0.0, 0.0])[1] == pytest.approx((1.0 / 3) ** 0.5)
    # DPO has no reward to read: what it maximises is in its log, meaned between readings
    assert [r.get("proxy") for r in found["readings"]] == [None, pytest.approx(0.15), pytest.approx(0.35)]
    assert found["kept"] == 2


def test_the_page_shows_both_curves_and_does_not_trust_the_peak(run: Run):
    text = write_peak_page(run).read_text()
    assert "DPO kept the policy of step 2, of 4 steps taken" in text
    assert "too high on average" in text and "unbiased" not in text
    assert "2 (kept)" in text and "rewards/margins" in text
    assert text.count("<figure") >= 2
