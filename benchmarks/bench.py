"""Ours and theirs in turn, each run a process of its own with one thread, the same rows, batch and precision.

    python benchmarks/bench.py --tasks dpo,sft --sizes small --rounds 3

Processor seconds are read over steady steps; medians over rounds and their spread are reported, the ratio is
to the better of the peer's settings. Every run is written to a file as it ends, and a call that is repeated
takes up where the last one stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import BUILD, ROOT, SIZES, TASKS, read_jsonl, steps_of

HERE = Path(__file__).resolve().parent
PEERS = {"trl-1.16": "trl==1.16.0", "trl-1.12": "trl==1.12.0"}
VARIANTS = ("best", "default")
LIMIT = 1200
"""Seconds after which a run is given up."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="dpo,reward,sft,ppo")
    parser.add_argument("--sizes", default="small,large")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="measured steps, instead of each task's own number")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--fresh", action="store_true", help="forget the runs that were written before")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the JSON and the table")
    parser.add_argument("--prepared", type=Path, default=BUILD / "bench")
    args = parser.parse_args()
    tasks, sizes = args.tasks.split(","), args.sizes.split(",")
    unknown = [t for t in tasks if t not in TASKS] + [s for s in sizes if s not in SIZES]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; tasks {', '.join(TASKS)}; sizes {', '.join(SIZES)}")
    pairs = [(t, s) for t in tasks for s in sizes if not (t in ("sft", "ppo") and s == "large")]
    peers = set() if args.ours_only else {TASKS[t].peer for t, _ in pairs} & set(PEERS)
    for peer in sorted(peers):
        install(peer)
    counts = {
        (args.steps or steps_of(t, s)) * TASKS[t].batch + TASKS[t].warmup * TASKS[t].batch for t, s in pairs
    }
    needs = [",".join(sizes), ",".join(tasks), ",".join(map(str, sorted(counts)))]
    quietly([sys.executable, str(HERE / "prepare.py"), str(args.prepared), *needs], {})
    kind = "cpu" if args.device == "cpu" else "gpu"
    runs = args.prepared / f"runs-{kind}.jsonl"
    if args.fresh:
        runs.unlink(missing_ok=True)
    for wanted in schedule(pairs, args):
        done = read_jsonl(runs) if runs.exists() else []
        if any(all(run[key] == value for key, value in wanted.items()) for run in done):
            continue
        result = measure(wanted, args)
        with runs.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**wanted, **result}) + "\n")
        say(wanted, result)
    from report import write_report  # it imports torch, which this process does without until here

    write_report(read_jsonl(runs), args.prepared, args.out, kind, about())


def schedule(pairs: list[tuple[str, str]], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Round by round, ours and theirs in turn, so that a machine that drifts drifts for all."""
    order: list[dict[str, Any]] = []
    for number in range(args.rounds):
        for task, size in pairs:
            steps = args.steps or steps_of(task, size)
            common = {"task": task, "size": size, "steps": steps, "dtype": args.dtype, "round": number}
            order.append({**common, "system": "tastemaker", "variant": "default"})
            if not args.ours_only:
                order += [{**common, "system": TASKS[task].peer, "variant": variant} for variant in VARIANTS]
    return order


def measure(wanted: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Runs one process and returns what it reports."""
    ours = wanted["system"] == "tastemaker"
    command = [sys.executable, str(HERE / ("ours.py" if ours else "theirs.py"))]
    for name in ("task", "size", "steps", "variant", "dtype"):
        command += [f"--{name}", str(wanted[name])]
    work = args.prepared / "work" / wanted["system"]
    command += ["--device", args.device, "--prepared", str(args.prepared), "--work", str(work)]
    more = {} if ours else {"PYTHONPATH": str(BUILD / "peers" / wanted["system"])}
    return json.loads(quietly(command, more).strip().splitlines()[-1])


def install(peer: str) -> None:
    """The peer alone, beside the project's own torch and transformers: both sides run on the same libraries."""
    target = BUILD / "peers" / peer
    if not (target / "trl").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
        quietly([*command, PEERS[peer]], {})


def quietly(command: list[str], more: dict[str, str]) -> str:
    """Output of a command; what it says on its error stream is shown only if it fails."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(
        command,
        env={**environment, **more},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    return done.stdout


def say(wanted: dict[str, Any], result: dict[str, Any]) -> None:
    rate = 1 / result["cpu_per_unit"]
    name = f"{wanted['task']} {wanted['size']} {wanted['system']} {wanted['variant']}"
    print(f"round {wanted['round']}  {name:40} {rate:8.2f}/s  {result['peak_bytes'] / 1e6:6.0f} MB", flush=True)


def about() -> dict[str, Any]:
    """What ran where."""
    model = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    versions = {
        name: version(name) for name in ("tastemaker", "torch", "transformers", "accelerate", "datasets")
    }
    return {
        "processor": model or platform.processor(),
        "python": platform.python_version(),
        "versions": versions,
    }


if __name__ == "__main__":
    main()
