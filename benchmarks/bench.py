"""Ours and theirs in turn, each run a process of its own with one thread, the same rows, batch and precision.

    python benchmarks/bench.py --tasks dpo,sft --sizes small --rounds 3
    python benchmarks/bench.py --scaling

Processor seconds are read over steady steps; medians over rounds and their spread are reported, the ratio is
to the better of the peer's settings. Every run is written to a file as it ends, and a call that is repeated
takes up where the last one stopped. --scaling: ours alone, how cost grows.
"""

from __future__ import annotations

import argparse
import importlib

from common import SIZES, TASKS
from runner import HERE, about, carry_out, checked, options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--sizes", help="instead of the sizes that each task has")
    parser.add_argument("--scaling", action="store_true", help="how cost grows, ours alone, and nothing else")
    options(parser)
    args = parser.parse_args()
    if args.scaling:
        importlib.import_module("scaling").run(args)
        return
    tasks = checked(parser, args.tasks, TASKS)
    sizes = checked(parser, args.sizes, SIZES) if args.sizes else None
    work = [
        {"task": task, "size": size, "dtype": dtype, "adapter": TASKS[task].adapter}
        for task in tasks
        for size in (sizes or TASKS[task].sizes)
        for dtype in TASKS[task].dtypes
    ]
    runs = carry_out(work, args, args.prepared / "runs-cpu.jsonl", "cpu")
    # these import torch, which this process does without until here
    importlib.import_module("report").write_report(runs, args.prepared, args.out, "cpu", about("cpu"))
    if args.out == HERE / "results":
        importlib.import_module("readme").update()


if __name__ == "__main__":
    main()
