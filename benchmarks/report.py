"""From the runs to the committed JSON and the table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import SIZES, TASKS, rows_of
from machine import Work, matrix_rate
from transformers import AutoTokenizer

Runs = list[dict[str, Any]]
COLUMNS = (
    "task",
    "model",
    "ours, units per CPU s",
    "peer's best setting",
    "peer's default",
    "ratio to the better",
    "ours, MB",
    "peer, MB",
    "ratio",
    "share of the matrix rate",
)


def write_report(runs: Runs, prepared: Path, out: Path, kind: str, about: dict[str, Any]) -> None:
    """`<kind>.json` with every figure, `<kind>.md` with the table, which is printed as well."""
    rows = []
    for task, size in dict.fromkeys((run["task"], run["size"]) for run in runs):
        rows.append(summary(task, size, [r for r in runs if (r["task"], r["size"]) == (task, size)], prepared))
    out.mkdir(parents=True, exist_ok=True)
    source = json.loads((prepared / "source.json").read_text())
    settings = {r["system"] + " " + r["variant"]: r["settings"] for r in runs if "settings" in r}
    result = {**about, "data": source, "peer_settings": settings, "rows": rows, "runs": runs}
    (out / f"{kind}.json").write_text(json.dumps(result, indent=1) + "\n")
    table = cells(COLUMNS) + cells(["---"] * len(COLUMNS)) + "".join(line(row) for row in rows)
    (out / f"{kind}.md").write_text(table)
    print(table)


def summary(task: str, size: str, runs: Runs, prepared: Path) -> dict[str, Any]:
    """Medians over rounds of one task at one size, spread, ratios, share of the matrix rate."""
    systems: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(f"{r['system']} {r['variant']}" for r in runs):
        mine = [r for r in runs if f"{r['system']} {r['variant']}" == name]
        rates = sorted(1 / r["cpu_per_unit"] for r in mine)
        systems[name] = {
            "rate": median(rates),
            "lowest": rates[0],
            "highest": rates[-1],
            "rounds": len(mine),
            "peak_bytes": median(r["peak_bytes"] for r in mine),
        }
    row: dict[str, Any] = {"task": task, "size": size, "unit": TASKS[task].unit, "systems": systems}
    ours = systems.get("tastemaker default")
    theirs = [s for name, s in systems.items() if not name.startswith("tastemaker")]
    if ours and theirs:
        better = max(theirs, key=lambda s: s["rate"])
        row["ratio"] = ours["rate"] / better["rate"]
        row["memory_ratio"] = ours["peak_bytes"] / better["peak_bytes"]
    if ours and task in ("dpo", "reward", "sft"):
        row |= share(task, size, runs[0], ours["rate"], prepared)
    return row


def share(task: str, size: str, run: dict[str, Any], rate: float, prepared: Path) -> dict[str, float]:
    """FLOPs that a unit needs, the matrix rate at its shapes, and which share of it the rate reaches."""
    spec = TASKS[task]
    trees = lengths(prepared, size, task, (run["steps"] + spec.warmup) * spec.batch)[spec.warmup * spec.batch :]
    needed = Work.of(trees, head=task != "reward").flops(SIZES[size]) / len(trees)
    one = Work.of(trees[: spec.batch], head=task != "reward")
    torch.set_num_threads(1)
    measured = matrix_rate(one, SIZES[size], getattr(torch, run["dtype"]), "cpu")
    return {"flops_per_unit": needed, "matrix_rate": measured, "share": needed * rate / measured}


def lengths(prepared: Path, size: str, task: str, count: int) -> list[tuple[int, tuple[int, ...]]]:
    """Tokens of each row's prompt and responses, end token included."""
    tokenizer = AutoTokenizer.from_pretrained(prepared / f"model-{size}")
    sides = ("completion",) if task == "sft" else ("chosen", "rejected")
    rows = rows_of(prepared, "demonstrations" if task == "sft" else "pairs", count, ordered=True)
    found = []
    for row in rows:
        prompt = len(tokenizer(row["prompt"]).input_ids)
        whole = [len(tokenizer(row["prompt"] + row[side]).input_ids) + 1 for side in sides]
        found.append((prompt, tuple(n - prompt for n in whole)))
    return found


def line(row: dict[str, Any]) -> str:
    """A row of the table: medians, lowest and highest round in brackets."""
    systems = row["systems"]
    ours = systems.get("tastemaker default")
    peers = {name.split(" ", 1)[1]: s for name, s in systems.items() if not name.startswith("tastemaker")}
    better = max(peers.values(), key=lambda s: s["rate"]) if peers else None

    def rate(found: dict[str, Any] | None) -> str:
        return f"{found['rate']:.2f} ({found['lowest']:.2f} to {found['highest']:.2f})" if found else "-"

    return cells(
        [
            row["task"],
            row["size"],
            rate(ours),
            rate(peers.get("best")),
            rate(peers.get("default")),
            f"{row['ratio']:.1f}" if "ratio" in row else "-",
            f"{ours['peak_bytes'] / 1e6:.0f}" if ours else "-",
            f"{better['peak_bytes'] / 1e6:.0f}" if better else "-",
            f"{row['memory_ratio']:.2f}" if "memory_ratio" in row else "-",
            f"{row['share']:.0%}" if "share" in row else "-",
        ]
    )


def cells(words: Iterable[str]) -> str:
    return "| " + " | ".join(words) + " |\n"
