"""The harness of the benchmark, ours alone at the smallest size: it runs, resumes and counts as it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def run(tmp: Path) -> str:
    command = [sys.executable, str(FOLDER / "bench.py"), "--ours-only", "--tasks", "dpo", "--sizes", "tiny"]
    command += ["--rounds", "1", "--steps", "1", "--prepared", str(tmp / "made"), "--out", str(tmp / "out")]
    # no shared records: the town's texts are made everywhere
    environment = {**os.environ, "TASTEMAKER_SHARED": str(tmp / "none")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_ours_alone_at_the_smallest_size(tmp_path: Path) -> None:
    assert "round 0" in run(tmp_path)
    result = json.loads((tmp_path / "out/cpu.json").read_text())
    row = result["rows"][0]
    assert (row["task"], row["size"], row["unit"]) == ("dpo", "tiny", "pairs")
    assert 0 < row["share"] < 1
    assert result["versions"]["torch"]
    assert "round 0" not in run(tmp_path), "what was measured is not measured again"


def test_needed_work_is_counted_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    from common import Size  # pyright: ignore[reportMissingImports]
    from machine import Work  # pyright: ignore[reportMissingImports]

    work = Work.of([(3, (2, 1))], head=True)
    assert (work.stream, work.responses) == (6, 3)
    # prompt 1 + 2 + 3, first response 4 + 5, second 4
    assert work.seen == 6 + 9 + 4
    size = Size(hidden=2, intermediate=5, layers=7, heads=1, vocabulary=11)
    dense = 7 * (4 * 2 * 2 + 3 * 2 * 5) * 6 + 3 * 2 * 11
    assert work.flops(size) == 3 * (2 * dense + 4 * 19 * 2 * 7)
