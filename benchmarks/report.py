"""From the runs to the committed JSON and the table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from common import SIZES, TASKS
from machine import Work, lengths

Runs = list[dict[str, Any]]
OURS = "tastemaker default"
COLUMNS = (
    "task",
    "model",
    "weights",
    "ours, units per second",
    "peer's best setting",
    "peer's default",
    "ratio to the better",
    "ours, MB",
    "peer, MB",
    "ratio",
    "share of the matrix rate",
)


KEYS = ("task", "size", "dtype", "adapter")


def write_report(runs: Runs, prepared: Path, out: Path, kind: str, about: dict[str, Any], **more: Any) -> None:
    """`<kind>.json` with every figure, `<kind>.md` with the table, which is printed as well."""
    rows = []
    for key in dict.fromkeys(tuple(run[k] for k in KEYS) for run in runs):
        rows.append(summary([r for r in runs if tuple(r[k] for k in KEYS) == key], prepared))
    out.mkdir(parents=True, exist_ok=True)
    source = json.loads((prepared / "source.json").read_text())
    settings = {f"{r['task']} {r['system']} {r['variant']}": r["settings"] for r in runs if "settings" in r}
    result = {**about, "data": source, "peer_settings": settings, "rows": rows, **more, "runs": runs}
    (out / f"{kind}.json").write_text(json.dumps(result, indent=1) + "\n")
    found = table(rows)
    (out / f"{kind}.md").write_text(found)
    print(found)


def summary(runs: Runs, prepared: Path) -> dict[str, Any]:
    """Medians over rounds of one line of the table, spread, ratios, share of the matrix rate."""
    key = {name: runs[0][name] for name in KEYS}
    systems: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(f"{r['system']} {r['variant']}" for r in runs):
        mine = [r for r in runs if f"{r['system']} {r['variant']}" == name]
        if any("failed" in r for r in mine):
            systems[name] = {"failed": "memory"}
            continue
        rates = sorted(1 / r["seconds_per_unit"] for r in mine)
        systems[name] = {
            "rate": median(rates),
            "lowest": rates[0],
            "highest": rates[-1],
            "rounds": len(mine),
            "peak_bytes": median(r["peak_bytes"] for r in mine),
        }
    row: dict[str, Any] = {**key, "unit": TASKS[key["task"]].unit, "systems": systems}
    ours, theirs = systems[OURS], better(systems)
    if "rate" in ours and theirs is not None:
        row["ratio"] = ours["rate"] / theirs["rate"]
        row["memory_ratio"] = ours["peak_bytes"] / theirs["peak_bytes"]
    mine = [r for r in runs if r["system"] == "tastemaker" and "flops_per_unit" in r]
    if "rate" in ours and mine:
        row["tokens_per_second"] = mine[0]["tokens_per_unit"] * ours["rate"]
        if "matrix_rate" in mine[0]:
            row |= share(mine, prepared)
    return row


def better(systems: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The faster of the peer's settings, of those that fit."""
    peers = [s for name, s in systems.items() if name != OURS and "rate" in s]
    return max(peers, key=lambda s: s["rate"]) if peers else None


def share(mine: Runs, prepared: Path) -> dict[str, float]:
    """FLOPs that a unit needs, the matrix rate at the task's shapes as each run read it after its last step,
    and which share of it the run reached: medians over rounds.

    Frozen weights want no gradients of their own: with an adapter two thirds are needed, and the adapter's own.
    """
    run = mine[0]
    if run["adapter"] == "lora":
        needed = run["flops_per_unit"]
    else:
        batch = run.get("batch") or TASKS[run["task"]].batch
        trees = lengths(prepared, run["size"], run["task"], run["steps"], batch)
        needed = Work.of(trees, head=run["task"] != "reward").flops(SIZES[run["size"]]) / len(trees)
    reached = [needed / (each["seconds_per_unit"] * each["matrix_rate"]) for each in mine]
    rates = [each["matrix_rate"] for each in mine]
    return {"flops_per_unit": needed, "matrix_rate": median(rates), "share": median(reached)}


def table(rows: list[dict[str, Any]]) -> str:
    return cells(COLUMNS) + cells(["---"] * len(COLUMNS)) + "".join(line(row) for row in rows)


def line(row: dict[str, Any]) -> str:
    """A row of the table: medians, lowest and highest round in brackets."""
    systems = row["systems"]
    ours, theirs = systems[OURS], better(systems)
    peers = {name.split(" ", 1)[1]: s for name, s in systems.items() if name != OURS}

    def rate(found: dict[str, Any] | None) -> str:
        if found is None:
            return "-"
        if "failed" in found:
            return "does not fit"
        short = 1 if found["rate"] < 100 else 0
        spread = (
            f" ({found['lowest']:.{short}f} to {found['highest']:.{short}f})" if found["rounds"] > 1 else ""
        )
        return f"{found['rate']:.{short + 1 if short else 0}f}{spread}"

    def megabytes(found: dict[str, Any] | None) -> str:
        return f"{found['peak_bytes'] / 1e6:,.0f}" if found and "rate" in found else "-"

    weights = row["dtype"] if row["task"] == "rollouts" else row["adapter"]
    return cells(
        [
            f"{row['task']}, {row['unit']}",
            row["size"],
            weights,
            rate(ours),
            rate(peers.get("best")),
            rate(peers.get("default")),
            f"{row['ratio']:.1f}" if "ratio" in row else "-",
            megabytes(ours),
            megabytes(theirs),
            f"{row['memory_ratio']:.2f}" if "memory_ratio" in row else "-",
            f"{row['share']:.0%}" if "share" in row else "-",
        ]
    )


def cells(words: Iterable[str]) -> str:
    return "| " + " | ".join(words) + " |\n"
