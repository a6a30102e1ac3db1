"""How the cost of ours grows: length, group size, model size, vocabulary, processes. `bench.py --scaling`.

One short process for each point, one thread; the exponent is the slope of the cost on logarithmic axes between
the first and the last point of a row.
"""

from __future__ import annotations

import argparse
import json
import math
from statistics import median
from typing import Any

from common import SIZES, TASKS, read_jsonl
from report import cells
from runner import HERE, about, matches, measure, prepare, say

BASE: dict[str, Any] = {
    **{"task": "dpo", "size": "small", "dtype": "bfloat16", "adapter": "full", "batch": 4},
    # named in every point: what a point leaves unsaid would match the runs of all other axes
    **{"context": None, "group": None, "processes": 1},
}
GROUPS = {**BASE, "task": "rollouts", "batch": None}
STEPS = 2
AXES: dict[str, tuple[str, tuple[dict[str, Any], ...]]] = {
    "tokens in a dialogue": ("context", tuple({**BASE, "context": n} for n in (128, 256, 512, 1024, 2048))),
    "samples of a prompt": ("group", tuple({**GROUPS, "group": n} for n in (1, 2, 4, 8, 16))),
    "model": ("size", tuple({**BASE, "size": size} for size in ("tiny", "small", "medium"))),
    "vocabulary, 5M model's shape": ("size", tuple({**BASE, "size": size} for size in ("small", "small-32k"))),
    "vocabulary, 27M model's shape": ("size", tuple({**BASE, "size": size} for size in ("medium", "large"))),
    "processes": ("processes", tuple({**BASE, "processes": n} for n in (1, 2))),
}


def run(args: argparse.Namespace, axes: dict[str, tuple[str, tuple[dict[str, Any], ...]]] = AXES) -> None:
    """Measures every point that is not written yet; `scaling.json` and `scaling.md`."""
    path = args.prepared / "runs-scaling.jsonl"
    if args.fresh:
        path.unlink(missing_ok=True)
    points = [point for _, points in axes.values() for point in points]
    args.steps = args.steps or STEPS
    prepare(points, args, "cpu")
    for number in range(args.rounds or 1):
        for point in points:
            wanted = {
                **point,
                "steps": args.steps,
                "round": number,
                "system": "tastemaker",
                "variant": "default",
            }
            if any(matches(found, wanted) for found in (read_jsonl(path) if path.exists() else [])):
                continue
            result = measure(wanted, args.prepared, "cpu", processes=point["processes"])
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**wanted, **result}) + "\n")
            say(wanted, result)
    runs = read_jsonl(path)
    rows = [row(name, axis, points, runs) for name, (axis, points) in axes.items()]
    args.out.mkdir(parents=True, exist_ok=True)
    found = {**about("cpu"), "steps": args.steps, "rows": rows}
    (args.out / "scaling.json").write_text(json.dumps(found, indent=1) + "\n")
    text = table(rows)
    (args.out / "scaling.md").write_text(text)
    print(text)
    if args.out == HERE / "results":
        from readme import update

        update()


def row(name: str, axis: str, points: tuple[dict[str, Any], ...], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Milliseconds a unit and peak memory at each point, and how steeply the cost grows."""
    found = []
    for point in points:
        mine = [r for r in runs if matches(r, point)]
        found.append(
            {
                "at": size_of(name, axis, point),
                "ms_per_unit": 1e3 * median(r["seconds_per_unit"] for r in mine),
                "peak_bytes": median(r["peak_bytes"] for r in mine),
            }
        )
    first, last = found[0], found[-1]
    growth = math.log(last["ms_per_unit"] / first["ms_per_unit"]) / math.log(last["at"] / first["at"])
    unit = TASKS[points[0]["task"]].unit
    return {"axis": name, "task": points[0]["task"], "unit": unit, "points": found, "exponent": growth}


def size_of(name: str, axis: str, point: dict[str, Any]) -> float:
    """Where a point stands on its axis; models by the weights of their layers."""
    if axis != "size":
        return point[axis]
    size = SIZES[point["size"]]
    if name.startswith("vocabulary"):
        return size.vocabulary
    square = 2 * size.hidden**2 + 2 * size.hidden * size.kv_width
    return size.layers * (square + 3 * size.hidden * size.intermediate)


def table(rows: list[dict[str, Any]]) -> str:
    head = ["with", "cost of", "at: ms of CPU (MB)", "exponent"]
    lines = [cells(head), cells(["---"] * len(head))]
    for one in rows:
        points = ", ".join(
            f"{short(p['at'])}: {p['ms_per_unit']:.3g} ({p['peak_bytes'] / 1e6:,.0f})" for p in one["points"]
        )
        lines.append(cells([one["axis"], f"{one['task']}, {one['unit']}", points, f"{one['exponent']:.2f}"]))
    return "".join(lines)


def short(number: float) -> str:
    return f"{number / 1e6:.1f}M" if number >= 1e6 / 20 else f"{number:,.0f}"
