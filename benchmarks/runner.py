"""Measured processes one after another: peers installed, inputs made, every run written down as it ends."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Collection, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import BUILD, LARGE_PAGES, ROOT, TASKS, read_jsonl, steps_of

HERE = Path(__file__).resolve().parent
PEERS = {"trl-1.16": "trl==1.16.0", "trl-1.12": "trl==1.12.0"}
LIMIT = 1200
"""Seconds after which a run is given up."""
ROUNDS = 3
NEAR = 0.8
"""The peer's default setting is measured again in later rounds where it reached this share of its best."""
MEMORY_WORDS = ("out of memory", "OutOfMemoryError", "Cannot allocate memory")
Run = dict[str, Any]


def options(parser: argparse.ArgumentParser) -> None:
    """What every call may choose."""
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS}, with --scaling 1")
    parser.add_argument("--steps", type=int, help="measured steps, instead of each task's own number")
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--fresh", action="store_true", help="forget the runs that were written before")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the JSON and the table")
    parser.add_argument("--prepared", type=Path, default=BUILD / "bench")


def checked(parser: argparse.ArgumentParser, given: str, known: Collection[str]) -> list[str]:
    """The names of a comma-separated list."""
    names = given.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def schedule(work: list[Run], args: argparse.Namespace) -> Iterator[Run]:
    """Round by round, ours and theirs in turn, so that a machine that drifts drifts for all.

    `work`: task, size, dtype, adapter of each line of the table.
    """
    for number in range(args.rounds or ROUNDS):
        for one in work:
            task = TASKS[one["task"]]
            if task.once and number:
                continue
            steps = args.steps or steps_of(one["task"], one["size"])
            common = {**one, "steps": steps, "round": number}
            yield {**common, "system": "tastemaker", "variant": "default"}
            if not args.ours_only:
                for variant in ("best", "default"):
                    yield {**common, "system": task.peer, "variant": variant}


def carry_out(work: list[Run], args: argparse.Namespace, runs: Path, device: str) -> list[Run]:
    """Measures what is not in the file `runs` yet, and returns all that belongs to `work`."""
    if args.fresh:
        runs.unlink(missing_ok=True)
    if not args.ours_only:
        for peer in sorted({TASKS[one["task"]].peer for one in work} & set(PEERS)):
            install(peer)
    prepare(work, args, device)
    wanted: list[Run] = []
    for one in schedule(work, args):
        done = read_jsonl(runs) if runs.exists() else []
        if one["variant"] == "default" and one["round"] and far_behind(one, done):
            continue
        wanted.append(one)
        if any(matches(run, one) for run in done):
            continue
        result = measure(one, args.prepared, device)
        runs.parent.mkdir(parents=True, exist_ok=True)
        with runs.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**one, **result}) + "\n")
        say(one, result)
    done = read_jsonl(runs)
    return [next(run for run in done if matches(run, one)) for one in wanted]


def matches(run: Run, wanted: Run) -> bool:
    return all(run.get(key) == value for key, value in wanted.items())


def far_behind(one: Run, done: list[Run]) -> bool:
    """Whether a peer's default setting was so much slower in the first round that it cannot be the better."""
    if one["system"] == "tastemaker":
        return False
    first = {
        variant: next((r for r in done if matches(r, {**one, "round": 0, "variant": variant})), None)
        for variant in ("best", "default")
    }
    best, default = first["best"], first["default"]
    if best is None or default is None or "failed" in best:
        return False
    return "failed" in default or best["seconds_per_unit"] < NEAR * default["seconds_per_unit"]


def prepare(work: list[Run], args: argparse.Namespace, device: str) -> None:
    counts = set[int]()
    for one in work:
        steps = (args.steps or steps_of(one["task"], one["size"])) + TASKS[one["task"]].warmup
        task = TASKS[one["task"]]
        counts.add(steps * (one.get("batch") or task.batch) // task.group)
    pairs = {f"{one['task']}:{one['size']}:{one['adapter']}" for one in work}
    command = [sys.executable, str(HERE / "prepare.py"), str(args.prepared), ",".join(sorted(pairs))]
    quietly([*command, ",".join(map(str, sorted(counts))), device], {})


def measure(one: Run, prepared: Path, device: str, *, processes: int = 1) -> Run:
    """Runs one process and returns what it reports; `failed` where it found too little memory."""
    ours = one["system"] == "tastemaker"
    script = "rollouts.py" if one["task"] == "rollouts" else "ours.py" if ours else "theirs.py"
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(launch if processes > 1 else []), str(HERE / script)]
    names = ("task", "size", "steps", "variant", "dtype", "adapter", "context", "batch", "group", "profile")
    for name in names:
        if one.get(name) is not None:
            command += [f"--{name}", str(one[name])]
    if one.get("set"):
        command += ["--set", *one["set"]]
    if one["task"] == "rollouts":
        command += ["--system", one["system"], "--seed", str(one["round"])]
    work = prepared / "work" / one["system"]
    command += ["--device", device, "--prepared", str(prepared), "--work", str(work)]
    more = {"PYTHONPATH": str(BUILD / "peers" / one["system"])} if one["system"] in PEERS else {}
    if one["variant"] == "best":
        more |= LARGE_PAGES
    try:
        lines = quietly(command, more).strip().splitlines()
    except FailedRun as error:
        words = str(error)
        if any(word in words for word in MEMORY_WORDS):
            return {"failed": "memory"}
        raise SystemExit(words) from error
    return json.loads(next(line for line in reversed(lines) if line.startswith('{"')))


def install(peer: str) -> None:
    """The peer alone, beside the project's own torch and transformers: both sides run on the same libraries."""
    target = BUILD / "peers" / peer
    if not (target / "trl").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
        quietly([*command, PEERS[peer]], {})


class FailedRun(Exception):
    """A process ended badly; the text says which and how."""


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
        raise FailedRun(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    return done.stdout


def say(one: Run, result: Run) -> None:
    name = f"{one['task']} {one['size']} {one['dtype']} {one['adapter']} {one['system']} {one['variant']}"
    found = "does not fit"
    if "failed" not in result:
        found = f"{1 / result['seconds_per_unit']:9.2f}/s  {result['peak_bytes'] / 1e6:7.0f} MB"
    print(f"round {one['round']}  {name:56} {found}", flush=True)


def about(device: str) -> dict[str, Any]:
    """What ran where."""
    model = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    found = {"processor": model or platform.processor(), "python": platform.python_version()}
    if device != "cpu":
        import torch

        found["device"] = torch.cuda.get_device_name(device)
    names = ("tastemaker", "torch", "transformers", "accelerate", "datasets")
    return {**found, "versions": {name: version(name) for name in names}}
