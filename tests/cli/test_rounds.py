"""`tastemaker rounds`: what it takes, what it hands on, what it says of a wrong command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

RECIPE = """
model: sft
data: prompts.jsonl
round:
  - {method: respond}
  - {method: people, project: taste}
  - {method: dpo, beta: 0.3}
report: {test: held_out.jsonl}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    (tmp_path / "ours.yaml").write_text(RECIPE)
    return "ours.yaml"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `run_rounds` was called with."""
    calls: list[Any] = []
    monkeypatch.setattr("tastemaker.studies.rounds.run.run_rounds", lambda r, **more: calls.append((r, more)))
    return calls


def test_settings_reach_their_places(command: Any, recipe: str, asked: list[Any]):
    given = (
        "--rounds",
        "2",
        "--model",
        "runs/other",
        "--wait",
        "0",
        "--dpo.beta",
        "0.1",
        "--people_2.overlap",
        "3",
    )
    result = command("rounds", recipe, *given, "--learn-from", "new")
    assert result.code == 0, result.err
    assert "runs/ours/report.html" in result.out
    rounds, more = asked[0]
    steps = {s.name: s.values for s in rounds.chain.steps}
    assert (rounds.settings.rounds, rounds.settings.learn_from, rounds.first) == (2, "new", "runs/other")
    assert [steps[f"dpo_{n}"]["beta"] for n in (1, 2)] == [0.1, 0.1]
    assert [steps[f"people_{n}"].get("overlap") for n in (1, 2)] == [
        None,
        "3",
    ]  # the stage makes a number of it
    assert more["wait"] == 0
    assert command("rounds", recipe).code == 0
    assert asked[1][1]["wait"] is None


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((), "missing: the recipe"),
        (("lost.yaml",), "lost.yaml: cannot be read"),
        (("ours.yaml", "--rounds", "0"), "rounds = '0': should be greater than 0"),
        (("ours.yaml", "--roundz", "2"), "--roundz: no such setting; did you mean --rounds?"),
        (("ours.yaml", "--wait", "-1"), "wait = -1: should be 0 or more minutes"),
        (("ours.yaml", "--dqo.beta", "1"), "dqo: no such stage"),
        (("ours.yaml", "--dpo.betta", "1"), "betta"),
        (("ours.yaml", "--people.overlap", "0"), "overlap"),
    ],
)
def test_wrong_command_lines(argv: tuple[str, ...], said: str, command: Any, recipe: str, asked: list[Any]):
    result = command("rounds", *argv)
    assert result.code == 2
    assert said in result.err
    assert not asked


def test_help(command: Any):
    result = command("rounds", "--help")
    assert result.code == 0
    for option in ("--wait", "--learn-from", "same-prompts", "--prompts-per-round", "--reference"):
        assert option in result.out


def test_labels_that_are_missing_are_no_traceback(command: Any, recipe: str, monkeypatch: pytest.MonkeyPatch):
    from tastemaker.studies.rounds.stages import LabelsMissing

    monkeypatch.setattr(LabelsMissing, "done", lambda self: 3)

    def missing(rounds: Any, **more: Any) -> None:
        raise LabelsMissing("labels.db", "taste", (1, 2), 8, "people_1")

    monkeypatch.setattr("tastemaker.studies.rounds.run.run_rounds", missing)
    result = command("rounds", recipe, "--wait", "0")
    assert result.code == 1
    assert "people_1: 3 of 8 items of the project taste are labelled." in result.err
    assert (
        "http://127.0.0.1:8741/label/taste while `tastemaker studio` runs; the same command goes on"
        in result.err
    )
