"""Ours and TRL's in turn on one CUDA device: random weights in the shapes and vocabularies of real models.

    python benchmarks/gpu.py --sizes qwen-0.5b,qwen-1.5b --tasks dpo,reward --rounds 3
    python benchmarks/gpu.py --device cpu --sizes qwen-tiny --steps 1 --rounds 1 --contexts 64,128   # to try it

Rates are of wall time between synchronised steps, memory is what torch allocated on the device, at its most.
The longest context is found by doubling one dialogue (for DPO and reward models one pair) under activation
checkpointing on both sides, then once more half-way. A setting that does not fit is reported as that.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from common import LONG, SIZES, TASKS, read_jsonl
from report import cells, write_report
from runner import about, carry_out, checked, matches, measure, options, say

KINDS = ("dpo", "reward", "grpo", "ppo", "sft")
BATCH = 16
REAL = ("qwen-0.5b", "qwen-1.5b", "qwen-7b")
CONTEXTS = tuple(2048 * 2**k for k in range(7))
"""Lengths that are tried, in tokens of a dialogue; the longest is what the models have positions for."""
TOO_LARGE = {("ppo", "qwen-7b", "full")}
"""Four models of 7B, two of them with optimiser states: not for one device, whatever the layout."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(KINDS))
    parser.add_argument("--sizes", default=",".join(REAL))
    parser.add_argument("--adapters", default="full,lora")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--contexts", default=",".join(map(str, CONTEXTS)), help="'' leaves the search out")
    options(parser)
    args = parser.parse_args()
    if args.device != "cpu":
        import torch

        if not torch.cuda.is_available():
            parser.error("torch finds no CUDA device here; --device cpu --sizes qwen-tiny tries the harness")
    tasks, sizes = checked(parser, args.tasks, KINDS), checked(parser, args.sizes, SIZES)
    work = [
        {"task": task, "size": size, "dtype": "bfloat16", "adapter": adapter, "batch": args.batch}
        for size in sizes
        for adapter in checked(parser, args.adapters, ("full", "lora"))
        for task in tasks
        if (task, size, adapter) not in TOO_LARGE
    ]
    kind = "cpu-as-gpu" if args.device == "cpu" else "gpu"
    prepared = args.prepared / "gpu"
    args.prepared = prepared  # weights on a device are stored in another format than those for the CPU
    runs = carry_out(work, args, prepared / f"runs-{kind}.jsonl", args.device)
    lengths = [int(n) for n in args.contexts.split(",") if n]
    contexts = prepared / f"contexts-{kind}.jsonl"
    found = [longest(one, args, lengths, contexts) for one in offline(work) if lengths]
    write_report(runs, prepared, args.out, kind, about(args.device), contexts=found)
    if lengths:
        text = table(found)
        with (args.out / f"{kind}.md").open("a", encoding="utf-8") as file:
            file.write("\n" + text)
        print(text)


def offline(work: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in work if not TASKS[one["task"]].online]


def longest(one: dict[str, Any], args: argparse.Namespace, lengths: list[int], path: Path) -> dict[str, Any]:
    """The longest dialogue that each side trains on, in tokens; 0 where none that was tried fits."""
    systems = ["tastemaker"] if args.ours_only else ["tastemaker", TASKS[one["task"]].peer]
    found: dict[str, Any] = {key: one[key] for key in ("task", "size", "adapter")}
    for system in systems:
        fits = 0
        for length in lengths:
            if not tried(one, system, length, args, path):
                between = (fits + length) // 2
                if fits and tried(one, system, between, args, path):
                    fits = between
                break
            fits = length
        found[system] = fits
    return found


def tried(one: dict[str, Any], system: str, length: int, args: argparse.Namespace, path: Path) -> bool:
    """Whether one step on one unit of this length fits; what was tried before is not tried again."""
    # the peer's default is checkpointing; ours is asked for it
    more = {"set": ["gradient_checkpointing=true"]} if system == "tastemaker" else {}
    wanted = {**one, **more, "batch": 1, "steps": 1, "round": 0, "context": min(length, LONG)}
    wanted |= {"system": system, "variant": "default"}
    for run in read_jsonl(path) if path.exists() else []:
        if matches(run, wanted):
            return "failed" not in run
    result = measure(wanted, args.prepared, args.device)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**wanted, **result}) + "\n")
    say(wanted, result)
    return "failed" not in result


def table(found: list[dict[str, Any]]) -> str:
    head = ["task", "model", "weights", "longest context, ours", "peer's"]
    lines = [cells(head), cells(["---"] * len(head))]
    for one in found:
        peer = next((v for k, v in one.items() if k.startswith("trl")), None)
        words = [one["task"], one["size"], one["adapter"], f"{one['tastemaker']:,}"]
        lines.append(cells([*words, "-" if peer is None else f"{peer:,}"]))
    return "".join(lines)


if __name__ == "__main__":
    main()
