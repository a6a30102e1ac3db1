"""Tasks of a study: own processes, results that are reused, failures that are named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from studies.task_works import add, crash, fail
from tastemaker.studies.tasks import Event, Task, TaskFailed, run_tasks


def diamond(root: Path, amount: int = 1) -> list[Task]:
    return [
        Task("top", add, {"amount": amount}, root / "top"),
        Task("left", add, {"amount": 10}, root / "left", ("top",)),
        Task("right", add, {"amount": 100}, root / "right", ("top",)),
        Task("bottom", add, {"amount": 1000}, root / "bottom", ("left", "right")),
    ]


def times_run(root: Path) -> dict[str, int]:
    return {name: len((root / name / "ran").read_text()) for name in ("top", "left", "right", "bottom")}


def test_results_flow_along_needs_and_are_reused_until_something_changes(tmp_path: Path):
    events: list[Event] = []
    results = run_tasks(diamond(tmp_path), workers=2, on_event=events.append)
    assert results["bottom"]["sum"] == 1000 + 10 + 1 + 100 + 1
    assert len({r["pid"] for r in results.values()} | {os.getpid()}) == 5
    assert [e.kind for e in events if e.task == "top"] == ["started", "progress", "finished"]

    events.clear()
    again = run_tasks(diamond(tmp_path), workers=2, on_event=events.append)
    assert again == results
    assert {e.kind for e in events} == {"reused"}

    changed = run_tasks(diamond(tmp_path, amount=2), workers=2, on_event=events.append)
    assert changed["bottom"]["sum"] == 1000 + 10 + 2 + 100 + 2
    assert times_run(tmp_path) == {"top": 1, "left": 1, "right": 1, "bottom": 1}, "old folders must go"


@pytest.mark.parametrize(
    ("work", "said"), [(fail, "the well is dry; dig deeper"), (crash, "its process ended with code 7")]
)
def test_a_failure_is_told_in_its_own_words(work: object, said: str, tmp_path: Path):
    tasks = [
        Task("bad", work, {}, tmp_path / "bad", title="digging"),  # pyright: ignore[reportArgumentType]
        Task("after", add, {"amount": 1}, tmp_path / "after", ("bad",)),
    ]
    with pytest.raises(TaskFailed, match=f"digging failed: {said}"):
        run_tasks(tasks, workers=2, on_event=lambda event: None)
    assert not (tmp_path / "after").exists()


def test_a_folder_that_no_study_made_is_left_alone(tmp_path: Path):
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "precious").write_text("mine")
    with pytest.raises(TaskFailed, match="choose another --out"):
        run_tasks(diamond(tmp_path)[:1], workers=1, on_event=lambda event: None)
    assert (tmp_path / "top" / "precious").read_text() == "mine"


def test_a_script_without_a_guarded_main_is_not_run_again(tmp_path: Path):
    tests = Path(__file__).parents[1]
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(tests)!r})\n"
        "from pathlib import Path\n"
        "from studies.task_works import add\n"
        "from tastemaker.studies.tasks import Task, run_tasks\n"
        "print('main runs')\n"
        f"tasks = [Task('a', add, {{'amount': 1}}, Path({str(tmp_path)!r}) / 'a')]\n"
        "print(run_tasks(tasks, workers=1, on_event=lambda event: None)['a']['sum'])\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[:2] == ["main runs", "1"]


def test_what_a_path_holds_is_part_of_a_task(tmp_path: Path):
    def tasks(content: str) -> list[Task]:
        return [Task("only", add, {"amount": 1}, tmp_path / "only", contents={"runs/dpo": content})]

    kinds: list[str] = []
    for content in ("abc", "abc", "abd"):
        run_tasks(tasks(content), workers=1, on_event=lambda event: kinds.append(event.kind))
    assert [k for k in kinds if k in ("started", "reused")] == ["started", "reused", "started"]
    plain = Task("only", add, {"amount": 1}, tmp_path / "only")
    assert plain.fingerprint({}) != tasks("abc")[0].fingerprint({})
