"""`runs` and `methods`."""

from __future__ import annotations

from typing import Any

import pytest

from tastemaker.methods import METHODS
from tastemaker.runs import Parent, Run, Source


@pytest.fixture
def runs(command: Any) -> list[Run]:
    sft = Run.create("runs/sft", method="sft", settings={"seed": 1}, seed=1, data=[_data()])
    sft.log_metrics(12, {"loss": 0.25})
    sft.update(status="finished", hashes={"weights": "a" * 64})
    parent = Parent(role="policy", path=str(sft.folder), weights_hash="a" * 64)
    dpo = Run.create("runs/dpo", method="dpo", settings={"beta": 0.3, "seed": 42}, seed=1, parents=[parent])
    dpo.update(status="failed", reason="loss is not finite at step 3 [rows 1, 2]")
    return [sft, dpo]


def _data() -> Source:
    return Source(source="demos.jsonl", sha256="b" * 64, rows=1234)


def test_list(command: Any, runs: list[Run]):
    lines = command("runs", "list").out.splitlines()
    assert {line.split()[0] for line in lines[1:3]} == {"runs/sft", "runs/dpo"}
    assert lines[0].split() == ["run", "method", "status", "steps", "model", "made"]
    assert [line.split()[1:4] for line in lines[1:3]] == [
        ["sft", "finished", "12"],
        ["dpo", "failed", "0"],
    ] or [line.split()[1:4] for line in lines[1:3]] == [["dpo", "failed", "0"], ["sft", "finished", "12"]]
    assert command("runs").out == command("runs", "list", "runs").out == command("runs", "--folder", "runs").out


def test_show(command: Any, runs: list[Run]):
    shown = command("runs", "show", "runs/dpo").out
    assert "dpo, failed: loss is not finite at step 3 [rows 1, 2]" in shown
    assert "beta=0.3  (all others as by default)" in shown
    assert "aaaaaaaa" in shown
    shown = command("runs", "show", "runs/sft").out
    assert "loss=0.25" in shown
    assert "demos.jsonl (1,234 rows, bbbbbbbb)" in shown


def test_tree_shows_each_run_once(command: Any, runs: list[Run]):
    whole = command("runs", "tree").out
    assert whole.count("sft [sft, finished]") == 1
    assert whole.startswith("dpo [dpo, failed]")
    assert command("runs", "tree", "runs/sft").out.startswith("sft [sft, finished]")


@pytest.mark.parametrize(
    "argv, code, says",
    [
        (("runs", "sow"), 2, "give list, show or tree"),
        (("runs", "show"), 2, "which run?"),
        (("runs", "show", "nowhere"), 1, "no such run folder"),
        (("runs", "list", "nowhere"), 1, "is not a folder"),
        (("export", "--out", "x"), 2, "missing: the run to export"),
        (("export", "runs/x"), 2, "missing: --out"),
    ],
)
def test_errors(command: Any, argv: tuple[str, ...], code: int, says: str):
    result = command(*argv)
    assert result.code == code
    assert says in result.err


def test_methods_are_listed_with_a_line_each(command: Any):
    lines = command("methods").out.splitlines()
    assert [line.split()[0] for line in lines] == list(METHODS)
    for line, cls in zip(lines, METHODS.values(), strict=True):
        assert (cls.__doc__ or "").splitlines()[0] in line


def test_no_command_shows_what_there_is(command: Any):
    result = command()
    assert result.code == 2
    assert "compare" in result.out
