"""The harness of the benchmark, ours alone at the smallest size: it runs, resumes and counts as it says."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.fixture
def run(modules: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str]]:
    """Calls a script's main, ours alone, one round; returns the scripts whose processes it started."""
    import prepare  # pyright: ignore[reportMissingImports]
    import runner  # pyright: ignore[reportMissingImports]

    # no shared records: the town's texts are made everywhere
    monkeypatch.setenv("TASTEMAKER_SHARED", str(tmp_path / "none"))
    real, started = runner.quietly, list[str]()

    def quietly(command: list[str], more: dict[str, str]) -> str:
        script = Path(command[1])
        if script.name == "prepare.py":  # in this process, which has its imports
            prepare.main(command[2:])
            return ""
        started.append(script.name)
        return real(command, more)

    def call(script: str, *more: str) -> list[str]:
        started.clear()
        words = ["--ours-only", "--rounds", "1", "--steps", "1", *more]
        words += ["--prepared", str(tmp_path / "made"), "--out", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", [script, *words])
        importlib.import_module(script).main()
        return list(started)

    monkeypatch.setattr(runner, "quietly", quietly)
    return call


def test_ours_alone_at_the_smallest_size(run: Callable[..., list[str]], tmp_path: Path) -> None:
    call = ("bench", "--tasks", "dpo", "--sizes", "tiny")
    assert run(*call) == ["ours.py"]
    result = json.loads((tmp_path / "out/cpu.json").read_text())
    row = result["rows"][0]
    assert (row["task"], row["size"], row["unit"]) == ("dpo", "tiny", "pairs")
    assert 0 < row["share"] < 1
    # a run counts each layer whole; of the last of these two the share counts no more than what is read
    counted = result["runs"][0]["flops_per_unit"]
    assert 0.75 * counted < row["flops_per_unit"] < 0.95 * counted
    assert result["versions"]["torch"]
    assert run(*call) == [], "what was measured is not measured again"


def test_the_gpu_part_runs_on_a_processor(run: Callable[..., list[str]], tmp_path: Path) -> None:
    more = (
        "--device",
        "cpu",
        "--sizes",
        "qwen-tiny",
        "--adapters",
        "lora",
        "--tasks",
        "dpo",
        "--contexts",
        "64",
    )
    assert run("gpu", "--batch", "2", *more) == ["ours.py", "ours.py"]
    result = json.loads((tmp_path / "out/cpu-as-gpu.json").read_text())
    assert result["contexts"] == [{"task": "dpo", "size": "qwen-tiny", "adapter": "lora", "tastemaker": 64}]
    row = result["rows"][0]
    assert (row["adapter"], row["tokens_per_second"] > 0, 0 < row["share"] < 1) == ("lora", True, True)


@pytest.mark.parametrize("system", ["tastemaker", "generate"])
def test_rollouts_are_timed_by_the_token(
    system: str, modules: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import rollouts  # pyright: ignore[reportMissingImports]

    words = "--task rollouts --size tiny --steps 2 --dtype float32 --prepared . --work . --seed 3"
    monkeypatch.setattr(sys, "argv", ["rollouts.py", "--system", system, *words.split()])
    rollouts.one_engine()
    found = json.loads(capsys.readouterr().out)
    case = rollouts.CASES["tiny"]
    rows = 2 * case.prompts * case.samples
    assert rows <= found["units"] <= rows * case.new_tokens
    assert found["seconds_per_unit"] > 0


def test_the_longest_context_is_searched(
    modules: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import gpu  # pyright: ignore[reportMissingImports]

    seen: list[int] = []

    def measure(one: dict[str, object], *_: object) -> dict[str, object]:
        seen.append(int(str(one["context"])))
        good = {"seconds_per_unit": 1.0, "peak_bytes": 1}
        return good if seen[-1] <= 3100 else {"failed": "memory"}

    monkeypatch.setattr(gpu, "measure", measure)
    one = {"task": "sft", "size": "qwen-tiny", "adapter": "lora", "dtype": "bfloat16"}
    args = argparse.Namespace(ours_only=True, prepared=tmp_path, device="cpu")
    for _ in range(2):
        found = gpu.longest(one, args, [1024, 2048, 4096, 8192], tmp_path / "tried.jsonl")
        assert found["tastemaker"] == 3072
        assert seen == [1024, 2048, 4096, 3072], "the second search reads what the first one wrote"


def test_made_up_rows_have_the_length_they_say(modules: None) -> None:
    from common import long_rows  # pyright: ignore[reportMissingImports]

    row = long_rows({"Ġalpha": 0, "Ġbe": 1, "x": 2, "Ġ!": 3}, "pairs", 20, 1)[0]
    lengths = [len(row[side].split()) for side in ("prompt", "chosen", "rejected")]
    assert lengths == [10, 9, 9], "and an end token"
    assert row["chosen"] != row["rejected"]


def test_a_row_is_medians_and_the_better_setting(modules: None, tmp_path: Path) -> None:
    import report  # pyright: ignore[reportMissingImports]

    def runs(system: str, variant: str, seconds: list[float], peak: int) -> list[dict[str, object]]:
        key = {"task": "ppo", "size": "small", "dtype": "bfloat16", "adapter": "full"}
        return [
            {**key, "system": system, "variant": variant, "seconds_per_unit": s, "peak_bytes": peak}
            for s in seconds
        ]

    found = runs("tastemaker", "default", [0.1, 0.5, 0.125], 3)
    found += runs("trl", "best", [1.0, 1.0, 4.0], 4) + runs("trl", "default", [0.5], 12)
    row = report.summary(found, tmp_path)
    assert row["systems"]["tastemaker default"]["rate"] == 8
    assert (row["ratio"], row["memory_ratio"]) == (4, 0.25), "against the faster setting, here the default"
    assert "8.00 (2.0 to 10.0)" in report.line(row)
    lost = [*found, {**found[-1], "failed": "memory"}]
    row = report.summary(lost, tmp_path)
    assert row["ratio"] == 8
    assert "does not fit" in report.line(row)


def test_a_slow_default_is_measured_once(modules: None) -> None:
    import runner  # pyright: ignore[reportMissingImports]

    key = {"task": "dpo", "size": "small", "system": "trl-1.16"}
    done = [
        {**key, "round": 0, "variant": "best", "seconds_per_unit": 1.0},
        {**key, "round": 0, "variant": "default", "seconds_per_unit": 1.5},
    ]
    later = {**key, "round": 1, "variant": "default"}
    assert runner.far_behind(later, done)
    done[1]["seconds_per_unit"] = 1.1
    assert not runner.far_behind(later, done)
    assert not runner.far_behind({**later, "system": "tastemaker"}, done)


def test_growth_is_a_slope(modules: None) -> None:
    import scaling  # pyright: ignore[reportMissingImports]

    points = ({"task": "dpo", "context": 100}, {"task": "dpo", "context": 400})
    runs = [
        {**point, "seconds_per_unit": seconds, "peak_bytes": 1}
        for point, seconds in zip(points, (0.5, 8.0), strict=True)
    ]
    assert scaling.row("tokens", "context", points, runs)["exponent"] == pytest.approx(2)


def test_a_point_of_growth_is_read_from_its_own_runs_alone(modules: None) -> None:
    import scaling  # pyright: ignore[reportMissingImports]
    from runner import matches  # pyright: ignore[reportMissingImports]

    points = [point for _, axis in scaling.AXES.values() for point in axis]
    different = [point for i, point in enumerate(points) if point not in points[:i]]
    assert len(different) < len(points), "the base stands on several axes"
    for point in points:
        assert [run for run in different if matches(run, point)] == [point]


def test_the_pages_show_what_was_measured(modules: None) -> None:
    import readme  # pyright: ignore[reportMissingImports]

    for page, block in readme.blocks(readme.RESULTS).items():
        text = page.read_text(encoding="utf-8")
        assert readme.inserted(text, block) == text, f"{page.name}: run benchmarks/readme.py"


def test_needed_work_is_counted_by_hand(modules: None) -> None:
    from common import Size  # pyright: ignore[reportMissingImports]
    from machine import Work  # pyright: ignore[reportMissingImports]

    work = Work.of([(3, (2, 1))], head=True)
    assert (work.stream, work.responses) == (6, 3)
    # prompt 1 + 2 + 3, first response 4 + 5, second 4
    assert work.seen == 6 + 9 + 4
    size = Size(hidden=2, intermediate=5, layers=7, heads=1, vocabulary=11)
    # six layers over all tokens; of the last one keys and values over all, the rest over the three of responses
    dense = 6 * (4 * 2 * 2 + 3 * 2 * 5) * 6 + (2 * 2 * 2 * 6 + (2 * 2 * 2 + 3 * 2 * 5) * 3) + 3 * 2 * 11
    assert work.flops(size) == 3 * (2 * dense + 4 * (19 * 6 + 13) * 2)
    reward = Work.of([(3, (2, 1))], head=False)
    assert (reward.read, reward.seen_last) == (2, 5 + 4)  # two last tokens


def test_time_is_read_by_operation(modules: None, tmp_path: Path) -> None:
    import torch
    from common import profiled  # pyright: ignore[reportMissingImports]
    from where import FREE, KINDS  # pyright: ignore[reportMissingImports]

    names = [name for kind in KINDS.values() for name in kind] + FREE.split()
    assert len(set(names)) == len(names)
    x = torch.ones(64, 64, requires_grad=True)
    stop = profiled(str(tmp_path / "operations.json"))
    (x @ x).t().sum().backward()
    stop()
    _ = x @ x  # behind the end: not counted
    found = json.loads((tmp_path / "operations.json").read_text())
    assert found["mm"][1] == 3 and found["mm"][0] > 0  # forward, and a gradient for each side
    assert "mm" in KINDS["products"] and "t" in FREE.split() and found["t"][1] >= 1
