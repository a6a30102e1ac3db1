"""A comparison end to end on own data, as small as it can be: made, reused, changed, and guarded by a lock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tastemaker.config import CompareSettings
from tastemaker.runs import RunLock
from tastemaker.studies.compare import compare, make_plan
from tastemaker.studies.tasks import Event
from tastemaker.types import TastemakerError

WORDS = ("rain", "sun", "hay", "ice", "wood", "bread", "salt", "iron")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [
        {"prompt": f"what is {a} {b} ?", "chosen": f"{a} is {b} .", "rejected": f"{b} {b} no ."}
        for a in WORDS
        for b in WORDS
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_own_data_end_to_end_then_reused_then_changed(data: Path, tmp_path: Path):
    events: list[Event] = []

    def listen(event: Event, plan: object) -> None:
        events.append(event)

    asked = {
        "model": "tiny",
        "data": str(data),
        "preset": "quick",
        "seeds": 1,
        "out": str(tmp_path),
        "workers": 2,
    }
    study = compare(CompareSettings(**asked), listen=listen)  # pyright: ignore[reportArgumentType]
    results = study.results
    assert set(results["arms"]) == {"dpo", "ppo"}
    assert results["judge"]["kind"] == "proxy"
    assert results["arms"]["dpo"]["cost"]["model_copies"] == 2
    assert results["arms"]["ppo"]["cost"]["model_copies"] == 4
    assert results["arms"]["ppo"]["cost"]["phases"] == 3
    assert json.loads((tmp_path / "results.json").read_text())["verdict"]["text"] == results["verdict"]["text"]
    assert study.report.exists()
    parts = [{p["prompt"] for p in rows(tmp_path, name)} for name in ("train", "judge", "tuning", "test")]
    for i, one in enumerate(parts):
        assert one
        for other in parts[i + 1 :]:
            assert not one & other, "a prompt in two parts"

    events.clear()
    again = compare(CompareSettings(**asked), listen=listen)  # pyright: ignore[reportArgumentType]
    assert {e.kind for e in events} == {"reused"}
    assert again.results["frontier"] == results["frontier"]

    events.clear()
    stages = {"dpo": {"beta": 0.7}}
    changed = compare(CompareSettings(**asked, stages=stages), listen=listen)  # pyright: ignore[reportArgumentType]
    assert changed.results["arms"]["dpo"]["tried"]["default"]["beta"] == 0.7
    begun = {e.task for e in events if e.kind == "started"}
    assert begun == {"dpo:default-0", "read-dpo:default-0", "curve-dpo:default-0"}


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    text = (folder / "seed-0" / "start" / f"{name}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_second_comparison_in_the_same_folder_is_refused(data: Path, tmp_path: Path):
    asked = CompareSettings(model="tiny", data=str(data), preset="quick", seeds=1, out=str(tmp_path))
    with RunLock(tmp_path), pytest.raises(TastemakerError, match="is writing"):
        compare(asked)


def test_settings_that_cannot_work_are_refused_before_anything_runs(tmp_path: Path):
    for wrong in (
        {"model": "tiny"},
        {"data": "x.jsonl"},
        {"methods": ("sft",)},
        {"methods": ("reward", "dpo")},
    ):
        with pytest.raises(TastemakerError):
            make_plan(CompareSettings(out=str(tmp_path), **wrong))  # pyright: ignore[reportArgumentType]
