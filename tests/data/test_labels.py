"""Labels of other kinds than pairs: what is read, what is taken apart, and what is refused with its line."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tastemaker.data import read_records
from tastemaker.types import Judgement, TastemakerError


def lines(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_pairs_are_taken_apart_for_labels_and_the_log_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    rows = [{"prompt": f"p{i}", "chosen": "yes", "rejected": "no"} for i in range(3)]
    found = read_records(lines(tmp_path, *rows), Judgement)
    assert [(r.response, r.desirable) for r in found.records if isinstance(r, Judgement)] == [
        ("yes", True),
        ("no", False),
    ] * 3
    assert "3 comparisons are taken apart into 3 good and 3 bad responses" in caplog.text
    caplog.clear()
    labels = [
        {"prompt": "p", "completion": "yes", "label": True},
        {"prompt": "p", "completion": "no", "label": 0},
    ]
    read_records(lines(tmp_path, *labels), Judgement)
    assert "taken apart" not in caplog.text


def test_a_label_that_is_none_is_an_error_with_its_line(tmp_path: Path):
    path = lines(
        tmp_path,
        {"prompt": "p", "completion": "yes", "label": True},
        {"prompt": "p", "completion": "so", "label": "good"},
    )
    with pytest.raises(TastemakerError, match=r"data\.jsonl:2.*label"):
        read_records(path, Judgement)
